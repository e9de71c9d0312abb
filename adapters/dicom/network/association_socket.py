"""The sockets of the listener's associations: reads return at once, with as many bytes as have arrived and fit into the buffer."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from contextlib import suppress
from typing import cast

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from adapters.dicom.network.pdu_reader import PduReader
from adapters.dicom.network.tls import end_output

CONNECTION_CLOSED = "Evt17"  # PS3.8 table 9-7


class BufferedAssociationSocket(AssociationSocket):
    """A socket whose reads return at once, with as many bytes as have arrived and fit into the buffer."""

    def __init__(self, association: Association, client: socket.socket) -> None:
        super().__init__(association, client_socket=client)
        self.pdu_reader = PduReader()
        self._descriptor = client.fileno()
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)

    def register_wakeup(self, descriptor: int) -> None:
        """Let `wait` end also when this descriptor is readable."""
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait for input from the peer or for a wake-up; return whether there is input."""
        return any(found == self._descriptor for found, _ in self._poll.poll(seconds * 1000))

    @property
    def ready(self) -> bool:
        """Whether a read would return bytes, or the end of the connection for the first time."""
        return self.socket is not None and self.wait(0)

    def read_available(self) -> bool:
        """Read once; return False at the end of the connection, which is reported only once."""
        try:
            count = self.socket.recv_into(self.pdu_reader.get_buffer()) if self.socket is not None else 0
        except OSError:  # reset by the peer, or shut down by the association's thread
            count = 0
        return self._take_up(count)

    def _take_up(self, count: int) -> bool:
        """Give the bytes to the reader; return False at the end of the connection."""
        self.pdu_reader.buffer_updated(count)
        if count == 0:
            with suppress(KeyError):  # reported before
                self._poll.unregister(self._descriptor)
        return count > 0

    def end_output(self) -> None:
        """Send nothing more; input is still read."""
        with suppress(OSError):  # the peer has closed
            if self.socket is not None:
                end_output(self.socket)

    def _shutdown_socket(self) -> None:
        """Close the socket also where the peer has closed first, and shutdown(2) fails."""
        if (client := self.socket) is not None:
            with suppress(OSError):
                socket.socket.shutdown(client, socket.SHUT_RDWR)
            client.close()


class TlsAssociationSocket(BufferedAssociationSocket):
    """The same over TLS. The connection does not block: a part of a TLS record is no input, and holds up nobody."""

    socket: ssl.SSLSocket | None  # its handshake has been made

    def __init__(self, association: Association, client: ssl.SSLSocket) -> None:
        super().__init__(association, client)
        self._received: int | None = None  # bytes read into the buffer that `read_available` has not yet reported
        self._output = select.poll()
        self._output.register(client, select.POLLOUT)

    def wait(self, seconds: float) -> bool:
        """Wait for decrypted input from the peer or for a wake-up; return whether there is input."""
        if self._received is None and (self._has_decrypted_bytes() or super().wait(seconds)):
            self._received = self._read_decrypted()
        return self._received is not None

    def _has_decrypted_bytes(self) -> bool:
        return self.socket is not None and self.socket.pending() > 0

    def _read_decrypted(self) -> int | None:
        """Read the complete records that have arrived and fit, 16 KiB each: one by one they would cost four times the processor.

        Return the number of bytes; 0 at the end of the connection; None where no record is complete.
        """
        count, buffer = 0, self.pdu_reader.get_buffer()
        try:
            while self.socket is not None and count < len(buffer):
                received = self.socket.recv_into(buffer[count:])
                if not received:
                    break
                count += received
        except ssl.SSLWantReadError:
            return count or None
        except (OSError, ValueError):  # reset by the peer, a forged record, or shut down by the association's thread
            return count
        return count

    def read_available(self) -> bool:
        """Report what `wait` has read, or read once; return False at the end of the connection, which is reported only once."""
        count, self._received = self._read_decrypted() if self._received is None else self._received, None
        return True if count is None else self._take_up(count)

    def send(self, bytestream: bytes) -> None:
        """Send all of it. A peer that reads nothing for the network time-out ends the connection."""
        rest = memoryview(bytestream)
        try:
            while rest:
                try:
                    rest = rest[cast(ssl.SSLSocket, self.socket).send(rest) :]
                except ssl.SSLWantWriteError:
                    if not self._output.poll((self.assoc.network_timeout or 0) * 1000):
                        raise TimeoutError("the peer reads nothing") from None
        except Exception:  # of any kind: the state machine ends the association
            self.event_queue.put(CONNECTION_CLOSED)

    def _shutdown_socket(self) -> None:
        """Close the socket, after close_notify where this is the thread that reads and writes it."""
        if threading.current_thread() is self.assoc.dul:
            self.end_output()
        super()._shutdown_socket()


def make_association_socket(association: Association, client: socket.socket) -> BufferedAssociationSocket:
    """Make the socket of an association of a connection with or without TLS."""
    if isinstance(client, ssl.SSLSocket):
        return TlsAssociationSocket(association, client)
    return BufferedAssociationSocket(association, client)
