"""pynetdicom's server for a daemon: an adopted socket, a long backlog, and a shutdown that aborts no association."""

from __future__ import annotations

import socket as sockets
import time
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from adapters.dicom.network.upper_layer import DataSetOpener

BACKLOG = 128
ACCEPT_DELAY_SECONDS, MAX_ACCEPT_DELAY_SECONDS = 0.002, 0.02
"""Delay before a connection is accepted on a shared port, for each open association of this process, and its maximum."""


class DrainableServer(ThreadedAssociationServer):
    """A server on its own or on an adopted listening socket. Closing it does not shut an adopted socket down.

    `open_data_set`: where `UpperLayerRequestHandler` finds the destination of a C-STORE data set. `port_is_shared`: other processes
    accept from the same socket.
    """

    request_queue_size = BACKLOG
    socket: sockets.socket  # from the base's constructor on
    daemon_threads = True

    def __init__(
        self,
        *arguments: Any,
        open_data_set: DataSetOpener,
        adopted_socket: sockets.socket | None = None,
        port_is_shared: bool = False,
        **keywords: Any,
    ) -> None:
        self.open_data_set = open_data_set
        self._adopted_socket, self._port_is_shared = adopted_socket, port_is_shared
        super().__init__(*arguments, **keywords)

    def server_bind(self) -> None:
        if self._adopted_socket is None:
            super().server_bind()
            return
        self.socket.close()
        self.socket = self._adopted_socket
        self.socket.setblocking(False)  # another process may accept the connection that select() reported
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        if self._adopted_socket is None:
            super().server_activate()

    def get_request(self) -> tuple[sockets.socket, tuple[str, int]]:
        if self._port_is_shared:  # the process with the fewest associations accepts first
            time.sleep(min(ACCEPT_DELAY_SECONDS * len(self.active_associations), MAX_ACCEPT_DELAY_SECONDS))
        client, address = super().get_request()
        client.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)  # the sender waits for each small response
        return client, address

    def service_actions(self) -> None:
        """Skip pynetdicom's full garbage collection every 30 s, which pauses all associations: Python collects by itself."""

    def server_close(self) -> None:
        self.socket.close()  # no shutdown(2): it would end the socket for all processes that share it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection whose association could not begin: pynetdicom's logger has reported it."""
