"""The HTTP server of the metrics: a bounded number of connections, each for a bounded time.

It shares its process with the dispatcher: a client that never finishes its request must not hold threads and descriptors.
"""

from __future__ import annotations

import socket as sockets
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

MAX_CONNECTIONS = 16
"""Above this number the connection that has been open for longest is closed."""
CONNECTION_SECONDS = 10.0
"""Time for one request and its answer, however slowly the bytes come."""


class SilentHandler(WSGIRequestHandler):
    """A request handler without an access log."""

    timeout = CONNECTION_SECONDS  # of each read and write

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape comes every few seconds."""


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """A WSGI server with a thread for each connection, as far as the bounds allow."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: str, port: int, application: WSGIApplication) -> None:
        """Bind. OSError where the port is not available."""
        self.address_family = sockets.getaddrinfo(address, port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE)[0][0]
        self._begun: dict[sockets.socket, float] = {}  # in order of arrival
        self._lock = threading.Lock()
        super().__init__((address, port), SilentHandler)
        self.set_app(application)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._begun) >= MAX_CONNECTIONS:
                self._end_connection(next(iter(self._begun)))
            self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose time is up. Called twice a second, and after each new connection."""
        before = time.monotonic() - CONNECTION_SECONDS
        with self._lock:
            for request in [request for request, begun in self._begun.items() if begun < before]:
                self._end_connection(request)

    def _end_connection(self, request: sockets.socket) -> None:
        """End a connection; its thread closes the descriptor."""
        del self._begun[request]
        with suppress(OSError):
            request.shutdown(sockets.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that was closed before its answer. An error of a source is logged where it is collected."""
