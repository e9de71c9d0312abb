"""The desk as an ASGI application."""

from __future__ import annotations

from pathlib import Path

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from adapters.web import api_routes, label_routes, log_in_routes, model_routes, operations_routes, reader_routes, study_routes
from adapters.web.access import LogInNeeded, find_visitor
from adapters.web.pages import render_page
from adapters.web.parts import DeskParts
from adapters.web.protection import ProtectionMiddleware
from pipeline.errors import PermanentError, RadclipdError, TransientError

STATIC_FOLDER = Path(__file__).parent / "static"
ROUTERS = tuple(
    routes.router
    for routes in (log_in_routes, label_routes, study_routes, reader_routes, operations_routes, model_routes, api_routes)
)
REFUSED, BUSY, BROKEN = 422, 503, 500
"""Status codes of a PermanentError, of a TransientError and of any other error of ours."""

log = structlog.get_logger("radclipd.web")


def build_application(parts: DeskParts) -> FastAPI:
    """Return the application. Every answer has the headers of `adapters.web.protection`; every page but the log-in needs a user."""
    app = FastAPI(title="radclipd", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.parts = parts
    app.add_middleware(ProtectionMiddleware, has_tls=parts.settings.has_tls)
    app.mount("/static", StaticFiles(directory=STATIC_FOLDER), name="static")
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(LogInNeeded, _answer_log_in_needed)
    app.add_exception_handler(RadclipdError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(404, _answer_http_error)
    return app


def _answer_log_in_needed(request: Request, error: Exception) -> Response:
    """Lead a browser to the log-in page; answer 401 to programs and to the scripts of pages."""
    if _wants_page(request):
        return RedirectResponse("/log-in", status_code=303)
    return JSONResponse({"error": "log in first"}, status_code=401, headers={"WWW-Authenticate": "Bearer"})


def _answer_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours with its text and its remedy."""
    assert isinstance(error, RadclipdError)
    status = REFUSED if isinstance(error, PermanentError) else BUSY if isinstance(error, TransientError) else BROKEN
    if status != REFUSED:
        log.error("request failed", path=request.url.path, error=str(error), hint=error.hint)
    return _answer_words(request, status, str(error), error.hint)


def _answer_http_error(request: Request, error: Exception) -> Response:
    status, detail = getattr(error, "status_code", 404), str(getattr(error, "detail", ""))
    return _answer_words(request, status, "there is no such page" if status == 404 and detail == "Not Found" else detail, "")


def _answer_words(request: Request, status: int, message: str, hint: str) -> Response:
    if _wants_page(request):
        return render_page(request, "error.html", find_visitor(request), status=status, message=message, hint=hint)
    return JSONResponse({"error": message, "hint": hint}, status_code=status)


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")
