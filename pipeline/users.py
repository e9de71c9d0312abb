"""users: the people who log in at the desk. Each act is in the audit table; passwords arrive here as hashes only."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import replace
from enum import StrEnum

from pipeline.domain import AuditEvent, User, UserRole
from pipeline.errors import PermanentError
from pipeline.ports.desk import DeskCatalog, DeskTransaction

NAME_PATTERN = re.compile(r"[\w.@-]{1,64}")
"""Letters, digits and . @ - _: a name that is the same in a label, an address and a log."""
SESSION_KEY_BYTES = 24
TOKEN_BYTES = 32


class Permission(StrEnum):
    """Acts that not every user may do. Every user may look, without the identity of patients."""

    LABEL = "label"
    IDENTIFY = "identify"  # see the identity of a patient
    OPERATE = "operate"  # retry, score and send again, promote and reject
    ADMINISTER = "administer"  # measures of all readers


GRANTS = {
    UserRole.VIEWER: frozenset[Permission](),
    UserRole.READER: frozenset({Permission.LABEL, Permission.IDENTIFY}),
    UserRole.OPERATOR: frozenset({Permission.OPERATE}),
    UserRole.ADMINISTRATOR: frozenset(Permission),
}


def may(role: UserRole, permission: Permission) -> bool:
    """Tell whether a user of this role has the permission."""
    return permission in GRANTS[role]


def add_user(name: str, role: UserRole, password_hash: str, *, catalog: DeskCatalog, source: str) -> User:
    """Insert a user. PermanentError where the name is in use or has other characters than letters, digits and . @ - _."""
    if not NAME_PATTERN.fullmatch(name):
        raise PermanentError("a user's name has 1 to 64 letters, digits, or . @ - _")
    user = User(name=name, role=role, password_hash=password_hash, session_key=_make_session_key())
    with catalog.begin() as tx:
        if tx.users.find(name) is not None:
            raise PermanentError(f"there is a user {name} already", hint=f"radclipd users reset {name}")
        tx.users.add(user)
        tx.audit(AuditEvent("user", "done", name, f"added as {role.value}", source))
    return user


def reset_password(name: str, password_hash: str, *, catalog: DeskCatalog, source: str) -> None:
    """Give a user another password, and allow the user to log in again. All sessions of the user end."""
    with catalog.begin() as tx:
        user = require_user(name, tx)
        tx.users.put(replace(user, password_hash=password_hash, session_key=_make_session_key(), disabled=False))
        tx.audit(AuditEvent("user", "done", name, "password reset", source))


def disable_user(name: str, *, catalog: DeskCatalog, source: str) -> None:
    """Refuse the user from now on: sessions and tokens end. The user's labels stay."""
    with catalog.begin() as tx:
        user = require_user(name, tx)
        tx.users.put(replace(user, disabled=True, session_key=_make_session_key()))
        dropped = tx.users.drop_tokens(name)
        tx.audit(AuditEvent("user", "done", name, f"disabled, {dropped} tokens deleted", source))


def make_token(name: str, *, catalog: DeskCatalog, source: str) -> str:
    """Return a new token for programs of a user. PermanentError where the user is unknown or disabled."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with catalog.begin() as tx:
        if require_user(name, tx).disabled:
            raise PermanentError(f"user {name} is disabled", hint=f"radclipd users reset {name}")
        tx.users.add_token(name, hash_token(token))
        tx.audit(AuditEvent("user", "done", name, "token made", source))
    return token


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token, hex: a token has 256 random bits, so a slow hash adds nothing."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def require_user(name: str, tx: DeskTransaction) -> User:
    """Return the user. PermanentError where there is none."""
    user = tx.users.find(name)
    if user is None:
        raise PermanentError(f"there is no user {name}", hint="radclipd users list")
    return user


def _make_session_key() -> str:
    return secrets.token_urlsafe(SESSION_KEY_BYTES)
