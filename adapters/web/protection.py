"""Protection of every answer: the Content Security Policy and its siblings, the Origin of changing requests, their size."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY_BYTES = 64 * 1024
"""The largest request is a draft with a comment: a few KiB."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; font-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
STRICT_TRANSPORT = "max-age=31536000"


class ProtectionMiddleware:
    """ASGI middleware: refuses changing requests of another origin and large bodies, and adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp, *, has_tls: bool) -> None:
        """`has_tls`: browsers reach the desk by https, here or at a proxy."""
        self._app, self._has_tls = app, has_tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message))
            await send(message)

        refusal = _find_refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_protected)
        else:
            await self._app(scope, receive, send_protected)

    def _add_headers(self, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")
        if self._has_tls:
            headers.setdefault("Strict-Transport-Security", STRICT_TRANSPORT)


def _find_refusal(scope: Scope) -> PlainTextResponse | None:
    if scope["method"] in SAFE_METHODS:
        return None
    headers = Headers(scope=scope)
    if not is_same_origin(headers):
        return PlainTextResponse("the request comes from another site", status_code=403)
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        return PlainTextResponse("the request states no Content-Length", status_code=411)
    if int(length) > MAX_BODY_BYTES:
        return PlainTextResponse(f"a request has at most {MAX_BODY_BYTES} bytes", status_code=413)
    return None


def is_same_origin(headers: Headers) -> bool:
    """Tell whether a browser says that the request comes from the desk's own pages: Origin names the Host of the request."""
    origin = headers.get("origin")
    return origin is not None and origin != "null" and urlsplit(origin).netloc == headers.get("host", "")
