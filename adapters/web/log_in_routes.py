"""Log-in, log-out, and the health of the desk: the routes that need no session."""

from __future__ import annotations

from math import ceil
from typing import Annotated

import structlog
from fastapi import APIRouter, BackgroundTasks, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from adapters.web.access import AnyVisitor, find_visitor, set_cookie
from adapters.web.access_events import audit_later
from adapters.web.label_routes import prepare_first_film
from adapters.web.pages import render_page
from adapters.web.parts import DeskParts, parts_of
from adapters.web.passwords import matches_password
from adapters.web.sessions import COOKIE_NAME
from pipeline.domain import AuditEvent, User
from pipeline.errors import RadclipdError
from pipeline.users import Permission, may

MAX_FIELD_LENGTH = 256
WRONG = "Name or password is wrong, or the user is disabled."
"""One answer for all of them: it does not tell which names exist."""

router = APIRouter(include_in_schema=False)
log = structlog.get_logger("radclipd.web")


@router.get("/")
def show_start(request: Request, visitor: AnyVisitor) -> Response:
    """Lead readers to their worklist, and others to the operations page."""
    return RedirectResponse("/label" if may(visitor.user.role, Permission.LABEL) else "/operations", status_code=303)


@router.get("/log-in")
def show_log_in(request: Request) -> Response:
    """Show the form."""
    if find_visitor(request) is not None:
        return RedirectResponse("/", status_code=303)
    return render_page(request, "log_in.html", None, message="")


@router.post("/log-in")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=MAX_FIELD_LENGTH)],
    password: Annotated[str, Form(max_length=MAX_FIELD_LENGTH)],
) -> Response:
    """Begin a session."""
    parts, address = parts_of(request), request.client.host if request.client else ""
    keys = f"name {name}", f"address {address}"
    if wait := parts.limit.seconds_to_wait(*keys):
        message = f"Too many attempts: try again in {ceil(wait)} seconds."
        return render_page(request, "log_in.html", None, status=429, message=message)
    user = _check_password(name, password, parts)
    if user is None:
        parts.limit.record_failure(*keys)
        _audit_log_in("refused", "a wrong name or password", f"desk {address}", parts)
        return render_page(request, "log_in.html", None, status=401, message=WRONG)
    parts.limit.record_success(*keys)
    _audit_log_in("done", f"from {address}", user.name, parts)
    if may(user.role, Permission.LABEL):
        prepare_first_film(request, user.name)
    response = RedirectResponse("/", status_code=303)
    set_cookie(response, user, request)
    return response


@router.post("/log-out")
def log_out(request: Request, visitor: AnyVisitor, background: BackgroundTasks) -> Response:
    """End the session in this browser."""
    audit_later(AuditEvent("log-out", "done", "", "", visitor.name), background, parts_of(request))
    response = JSONResponse({"next": "/log-in"})
    response.delete_cookie(COOKIE_NAME, path="/")
    return response


@router.get("/health/live")
def show_liveness() -> Response:
    """Answer while the process serves."""
    return JSONResponse({"status": "live"})


@router.get("/health/ready")
def show_readiness(request: Request) -> Response:
    """Answer 200 where the catalog can be read, else 503."""
    try:
        with parts_of(request).catalog.read() as tx:
            tx.now()
    except RadclipdError:
        return JSONResponse({"status": "the catalog cannot be read"}, status_code=503)
    return JSONResponse({"status": "ready"})


def _check_password(name: str, password: str, parts: DeskParts) -> User | None:
    with parts.catalog.read() as tx:
        user = tx.users.find(name)
    is_right = matches_password(user.password_hash if user else None, password)
    return user if user is not None and is_right and not user.disabled else None


def _audit_log_in(outcome: str, detail: str, source: str, parts: DeskParts) -> None:
    with parts.catalog.begin() as tx:
        tx.audit(AuditEvent("log-in", outcome, "", detail, source))
