"""Passwords: argon2id hashes (RFC 9106), and a check that takes as long for an unknown user as for a known one."""

from __future__ import annotations

import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pipeline.errors import PermanentError

MIN_PASSWORD_LENGTH = 10
"""NIST SP 800-63B asks for 8 at least."""
MAX_PASSWORD_LENGTH = 200

_HASHER = PasswordHasher()
_HASHING = threading.BoundedSemaphore(2)
"""argon2id takes 64 MiB a check: more log-ins at a time wait, so that a flood of them does not take the memory of the host."""


def hash_password(password: str) -> str:
    """Return the argon2id hash in PHC string format. PermanentError for a password that is too short or too long."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise PermanentError(f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters")
    return _HASHER.hash(password)


def matches_password(password_hash: str | None, password: str) -> bool:
    """Tell whether the password is that of the hash; None: of nobody, decided in the same time."""
    if len(password) > MAX_PASSWORD_LENGTH:
        return False
    try:
        with _HASHING:
            return _HASHER.verify(password_hash or _hash_of_nobody(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


@cache
def _hash_of_nobody() -> str:
    return _HASHER.hash("the password of nobody")
