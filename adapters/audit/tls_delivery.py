"""A TLS connection that tells whether the peer has read everything.

`ssl.SSLSocket.unwrap` cannot: OpenSSL takes a fatal alert of the peer, such as the refusal of our certificate after a TLS 1.3
handshake, for the end of the connection.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

READ_BYTES = 65536


def send_and_close(plain: socket.socket, context: ssl.SSLContext, server_name: str, content: bytes) -> None:
    """Send the content over TLS, then close_notify, and wait for the peer's close_notify (RFC 8446 section 6.1).

    OSError where the peer refuses, ends in another way, or does not answer within the socket's timeout; ssl.SSLError is one.
    """
    connection = _TlsClient(plain, context, server_name)
    connection.perform_handshake()
    connection.send(content)
    connection.close()


class _TlsClient:
    """TLS on a connected socket, by memory buffers: records are read when we ask for them, and no earlier."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        self._socket = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def perform_handshake(self) -> None:
        self._call_until_done(self._tls.do_handshake)

    def send(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[self._tls.write(view[:READ_BYTES]) :]
            self._flush_records()

    def close(self) -> None:
        with suppress(ssl.SSLWantReadError):  # records that came with the handshake: an alert raises here
            self._tls.read(READ_BYTES)
        with suppress(ssl.SSLWantReadError):  # our close_notify; the peer's is not here yet
            self._tls.unwrap()
        self._call_until_done(self._read_to_end)

    def _read_to_end(self) -> None:
        with suppress(ssl.SSLZeroReturnError):  # the peer's close_notify
            while self._tls.read(READ_BYTES):
                pass

    def _call_until_done(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._flush_records()
                received = self._socket.recv(READ_BYTES)
                if received:
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()  # the next step raises SSLEOFError
            else:
                self._flush_records()
                return

    def _flush_records(self) -> None:
        self._socket.sendall(self._outgoing.read())
