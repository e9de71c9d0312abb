"""pynetdicom's server with what a daemon needs: a socket handed over, a long backlog, and a stop that aborts nobody."""

from __future__ import annotations

import socket as sockets
import time
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from adapters.dicom.network.upper_layer import DataSetOpener

BACKLOG = 128
YIELD_SECONDS, LONGEST_YIELD_SECONDS = 0.002, 0.02
"""How long a process leaves a connection to the others that share the port, for each association that it has."""


class DrainableServer(ThreadedAssociationServer):
    """Accepts from its own or an adopted listening socket. Closing it leaves an adopted socket to whoever handed it over."""

    request_queue_size = BACKLOG
    socket: sockets.socket  # from the base's constructor on
    daemon_threads = True

    def __init__(
        self, *arguments: Any, opened: DataSetOpener, adopted: sockets.socket | None = None, shared: bool = False, **keywords: Any
    ) -> None:
        self._adopted, self._shared, self.opened = adopted, shared, opened
        super().__init__(*arguments, **keywords)

    def server_bind(self) -> None:
        if self._adopted is None:
            super().server_bind()
            return
        self.socket.close()
        self.socket = self._adopted
        self.socket.setblocking(False)  # another process may take the connection that select() told of
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        if self._adopted is None:
            super().server_activate()

    def get_request(self) -> tuple[sockets.socket, tuple[str, int]]:
        if self._shared:  # a process with less to do is quicker
            time.sleep(min(YIELD_SECONDS * len(self.active_associations), LONGEST_YIELD_SECONDS))
        client, address = super().get_request()
        client.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)  # many small answers, each waited for
        return client, address

    def service_actions(self) -> None:
        """No full garbage collection every thirty seconds, which would stop all associations: Python collects by itself."""

    def server_close(self) -> None:
        self.socket.close()  # no shutdown(2): it would end the socket for the process that shares it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not even begin; pynetdicom's logger has told."""
