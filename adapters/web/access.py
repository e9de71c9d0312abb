"""Who asks: the user of a session or of a token, and the permissions that a route needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response

from adapters.web.parts import parts_of
from adapters.web.protection import SAFE_METHODS
from adapters.web.sessions import COOKIE_NAME
from pipeline.domain import User
from pipeline.users import Permission, hash_token, may

CSRF_HEADER = "X-CSRF-Token"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A logged-in user and the token of the user's forms."""

    user: User
    csrf_token: str

    @property
    def name(self) -> str:
        """Name of the user, the reader of the user's labels."""
        return self.user.name

    def may(self, permission: str) -> bool:
        """Whether the user has this permission; for templates, too."""
        return may(self.user.role, Permission(permission))


class LogInNeeded(Exception):
    """The request has no valid session. Pages lead to the log-in; programs get 401."""


def find_visitor(request: Request) -> Visitor | None:
    """Return the visitor of the session; None where there is none, or it is over. A live session's cookie is renewed."""
    parts = parts_of(request)
    session = parts.cookies.read(request.cookies.get(COOKIE_NAME, ""))
    if session is None:
        return None
    with parts.catalog.read() as tx:
        user = tx.users.find(session.name)
    if user is None or user.disabled or user.session_key != session.session_key:
        return None
    request.state.renew = user if parts.cookies.needs_renewal(session) else None
    return Visitor(user, parts.cookies.make_csrf_token(user))


def set_cookie(response: Response, user: User, request: Request) -> None:
    """Set the session's cookie."""
    parts = parts_of(request)
    response.set_cookie(
        COOKIE_NAME,
        parts.cookies.issue(user),
        httponly=True,
        samesite="strict",
        secure=parts.settings.has_tls,
        max_age=int(parts.cookies.idle_seconds),
        path="/",
    )


def _require_visitor(request: Request, response: Response) -> Visitor:
    """Return the visitor. LogInNeeded; 403 where a changing request lacks the session's token."""
    visitor = find_visitor(request)
    if visitor is None:
        raise LogInNeeded
    if request.method not in SAFE_METHODS:
        token = request.headers.get(CSRF_HEADER, "")
        if not parts_of(request).cookies.is_csrf_token(visitor.user, token):
            raise HTTPException(403, "the request lacks the token of this session: reload the page")
    if request.state.renew is not None:
        set_cookie(response, request.state.renew, request)
    return visitor


def _require_permission(permission: Permission) -> Callable[[Visitor], Visitor]:
    def check(visitor: Annotated[Visitor, Depends(_require_visitor)]) -> Visitor:
        if not may(visitor.user.role, permission):
            raise HTTPException(403, f"a user of the role {visitor.user.role.value} may not {permission.value}")
        return visitor

    return check


def find_token_user(request: Request) -> User:
    """Return the user of `Authorization: Bearer TOKEN`, or of a session. LogInNeeded where there is neither."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        visitor = find_visitor(request)
        if visitor is None:
            raise LogInNeeded
        return visitor.user
    with parts_of(request).catalog.read() as tx:
        user = tx.users.find_by_token(hash_token(token.strip()))
    if user is None or user.disabled:
        raise LogInNeeded
    return user


AnyVisitor = Annotated[Visitor, Depends(_require_visitor)]
ReadingVisitor = Annotated[Visitor, Depends(_require_permission(Permission.LABEL))]
OperatingVisitor = Annotated[Visitor, Depends(_require_permission(Permission.OPERATE))]
TokenUser = Annotated[User, Depends(find_token_user)]
