"""pynetdicom's server for a daemon: it listens, on its own or on an adopted socket, and makes associations of connections.

`PendingConnections` accepts and decides; no thread of this server runs.
"""

from __future__ import annotations

import socket as sockets
import ssl
import struct
import time
from typing import Any

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationServer

from adapters.dicom.network.association_request import AssociationRequest
from adapters.dicom.network.pending_connections import ClientAddress
from adapters.dicom.network.streaming_dimse import AssociationServices
from adapters.dicom.network.tls import TlsEndpoint
from adapters.dicom.network.upper_layer import UpperLayerRequestHandler

BACKLOG = 128
ACCEPT_DELAY_SECONDS, MAX_ACCEPT_DELAY_SECONDS = 0.002, 0.02
"""Delay before a connection is accepted on a shared port, for each slot held by this process, and its maximum."""
KEEPALIVE = {sockets.TCP_KEEPIDLE: 30, sockets.TCP_KEEPINTVL: 10, sockets.TCP_KEEPCNT: 3}
"""A peer whose host is gone is noticed after a minute, also while it waits."""


class DrainableServer(AssociationServer):
    """A server on its own or on an adopted listening socket.

    `services`: what an association asks of the listener. `port_is_shared`: other processes accept from the same socket.
    `shared_contexts`: the supported presentation contexts, read by all associations and changed by none. `tls`: the port has TLS.
    """

    request_queue_size = BACKLOG
    socket: sockets.socket  # from the base's constructor on

    def __init__(
        self,
        *arguments: Any,
        services: AssociationServices,
        shared_contexts: list[PresentationContext],
        adopted_socket: sockets.socket | None = None,
        port_is_shared: bool = False,
        tls: TlsEndpoint | None = None,
        **keywords: Any,
    ) -> None:
        self.services, self.shared_contexts = services, shared_contexts
        self._adopted_socket, self._port_is_shared, self._tls = adopted_socket, port_is_shared, tls
        super().__init__(*arguments, **keywords)
        self.contexts = []  # the base copies them for each association, which takes up to 100 ms

    def server_bind(self) -> None:
        if self._adopted_socket is None:
            super().server_bind()
            return
        self.socket.close()
        self.socket = self._adopted_socket
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        if self._adopted_socket is None:
            super().server_activate()

    def accept_connection(self, held_slots: int) -> tuple[sockets.socket, ClientAddress]:
        """Accept; return the connection and its peer. BlockingIOError where another process was faster; OSError.

        Where the port has TLS, an ssl.SSLSocket that has not begun its handshake.
        """
        if self._port_is_shared:  # the process with the fewest associations accepts first
            time.sleep(min(ACCEPT_DELAY_SECONDS * held_slots, MAX_ACCEPT_DELAY_SECONDS))
        connection, address = self.socket.accept()
        connection.setblocking(False)
        connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)  # the sender waits for each small response
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            connection.setsockopt(sockets.IPPROTO_TCP, option, value)
        if self._tls is None:
            return connection, address
        with connection:  # closed where TLS cannot begin; otherwise it has given its descriptor away
            try:
                return self._tls.accept(connection), address
            except (OSError, ValueError) as error:  # the peer is gone: no connection, and no lack of descriptors
                raise BlockingIOError("the peer is gone") from error

    def make_association(self, connection: sockets.socket, client: ClientAddress, request: AssociationRequest) -> Association:
        """Make the association of an accepted connection, with its request received. It is not started."""
        if isinstance(connection, ssl.SSLSocket):  # read and written without blocking: a part of a TLS record holds up nobody
            return UpperLayerRequestHandler(connection, client, self, request=request).association
        connection.setblocking(True)
        seconds = self.ae.network_timeout or 0
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))
        return UpperLayerRequestHandler(connection, client, self, request=request).association
