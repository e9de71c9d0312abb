"""Connections before their association: one thread accepts them, reads their A-ASSOCIATE-RQ, and lets them wait for a slot.

A peer that says nothing, one that does not go on with its TLS handshake, and one that waits cost a descriptor and no thread. A
peer that is gone leaves the queue at once. All numbers here are bounded before anyone is known by an AE title.
"""

from __future__ import annotations

import selectors
import socket as sockets
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import structlog

from adapters.dicom.network.association_limit import AssociationLimit, Peer, SlotHolder
from adapters.dicom.network.association_request import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    CONGESTION,
    TOO_MANY_ASSOCIATIONS,
    AssociationRequest,
    Rejection,
    decode_request,
)
from adapters.dicom.network.event_fd import EventFd
from adapters.dicom.network.handshakes import HandshakeResult, Handshakes
from adapters.dicom.network.pdu_reader import BUFFER_BYTES, OTHER_PDUS, P_DATA_TF, PDU_HEADER, MalformedPdu
from adapters.dicom.network.tls import CLIENT_HELLO, PeerCertificate, end_output
from pipeline.errors import traceback_locations

MAX_PENDING_CONNECTIONS = 512
"""Above this number the connection that has been silent for longest is closed; where all wait for a slot, a new one is rejected."""
MAX_PENDING_BYTES = 1 << 25
"""Limit of the bytes that all connections together have sent before their requests are complete."""
MAX_REQUEST_BYTES = BUFFER_BYTES
MAX_OWN_PROBES = 16
"""Associations of the watchdog that need no slot."""
CLOSE_SECONDS = 1.0
"""A refused peer may close the connection for this long: closed with input unread, TCP would discard the refusal."""
READ_BYTES = 1 << 16
WAIT_SECONDS, POLL_SECONDS = 0.5, 0.1
"""Longest sleep; where connections wait for a slot, which may become free in another process."""
LONG_WAIT_SECONDS = 1.0
"""A wait for a slot that is longer is logged."""
IPV4_MAPPED = "::ffff:"
"""Prefix of an IPv4 peer's address on the dual-stack socket that systemd passes."""
UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 1, 2, 6  # reasons of an A-ABORT by the service provider, PS3.8 table 9-26
SERVICE_PROVIDER = 2

log = structlog.get_logger("radclipd.listener")

ClientAddress = tuple[str, int] | tuple[str, int, int, int]
"""Host and port; of IPv6 also flow info and scope."""


class ConnectionServer(Protocol):
    """A server at a listening socket."""

    socket: sockets.socket

    def accept_connection(self, held_slots: int) -> tuple[sockets.socket, ClientAddress]:
        """Accept; return the connection and its peer. BlockingIOError where another process was faster; OSError.

        Where the port has TLS, an ssl.SSLSocket that has not begun its handshake.
        """


class PendingConnection:
    """A connection without an association. `request` is None until it has arrived; `closing_until` is set where it was refused.

    `shakes_hands`: the TLS handshake is not complete. `is_busy`: a thread works on it, and this socket is not to be touched.
    """

    def __init__(self, connection: sockets.socket, client: ClientAddress, server: ConnectionServer) -> None:
        self.connection, self.client, self.server = connection, client, server
        self.address = client[0].removeprefix(IPV4_MAPPED)
        self.received = bytearray()
        self.request: AssociationRequest | None = None
        self.begun_at = time.monotonic()
        self.closing_until: float | None = None
        self.certificate: PeerCertificate | None = None
        self.shakes_hands = isinstance(connection, ssl.SSLSocket)
        self.has_begun_handshake = self.is_busy = False

    def receive(self) -> bytes | None:
        """Return what has arrived, b"" at the end of the connection, None where nothing has; of a refused peer undecrypted."""
        try:
            if self.closing_until is not None:
                return sockets.socket.recv(self.connection, READ_BYTES)
            return self.connection.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    @property
    def peer(self) -> Peer:
        return Peer(self.request.calling_ae_title if self.request else "", self.address)

    @property
    def is_silent(self) -> bool:
        """Whether the request has not arrived."""
        return self.request is None and self.closing_until is None


class AssociationDesk(Protocol):
    """What the listener decides and does with a complete request."""

    def find_rejection(self, request: AssociationRequest, address: str, certificate: PeerCertificate | None) -> Rejection | None:
        """Return why the request is rejected, or None. `certificate`: None on a port without TLS."""

    def is_own_probe(self, request: AssociationRequest, address: str) -> bool:
        """Tell whether the watchdog requests the association."""

    def begin_association(self, pending: PendingConnection, holder: SlotHolder | None) -> None:
        """Start the association, which owns the connection and the slot from now on."""

    def count_own_probes(self) -> int:
        """Return the number of open associations of the watchdog."""

    def note_refusal(self, pending: PendingConnection, why: str) -> None:
        """Record that a connection was refused before its association. Must not wait."""


class PendingConnections:
    """The thread of all connections that have no association."""

    def __init__(self, servers: Sequence[ConnectionServer], limit: AssociationLimit, desk: AssociationDesk, timeout_seconds: float):
        self._servers, self._limit, self._desk, self._timeout_seconds = list(servers), limit, desk, timeout_seconds
        self._selector = selectors.DefaultSelector()
        self._pending: dict[PendingConnection, None] = {}  # in order of arrival
        self._waiting: dict[PendingConnection, None] = {}
        self._wakeup = EventFd()
        self._handshakes: Handshakes[PendingConnection] = Handshakes(self._wakeup.signal)
        self._has_stopped_accepting, self._is_closed = threading.Event(), False
        self._is_draining = False
        self._thread = threading.Thread(target=self._run_loop, name="accept", daemon=True)

    def start(self) -> None:
        """Accept from now on."""
        self._selector.register(self._wakeup.descriptor, selectors.EVENT_READ, self._wakeup.clear)
        for server in self._servers:
            server.socket.setblocking(False)
            self._selector.register(server.socket, selectors.EVENT_READ, lambda server=server: self._accept_connection(server))
        self._thread.start()

    @property
    def waiting_count(self) -> int:
        """The number of connections that wait for a slot."""
        return len(self._waiting)

    def notice_free_slot(self) -> None:
        """Look for a waiting connection at once."""
        self._wakeup.signal()

    def stop_accepting(self) -> None:
        """Accept no more and close silent connections; return when that is done. Those that wait for a slot go on waiting."""
        self._is_draining = True
        self._wakeup.signal()
        self._has_stopped_accepting.wait(5)

    def close(self) -> None:
        """Reject the connections that still wait, and end."""
        self._is_closed = True
        self._wakeup.signal()
        self._thread.join(5)

    # The thread ------------------------------------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        while not self._is_closed:
            for key, _ in self._selector.select(POLL_SECONDS if self._waiting else WAIT_SECONDS):
                key.data()
            for result in self._handshakes.take_results():
                self._continue_handshake(result)
            if self._is_draining and not self._has_stopped_accepting.is_set():
                self._close_servers()
            self._close_overdue()
            self._admit_waiting()
        self._end_loop()

    def _close_servers(self) -> None:
        for server in self._servers:
            self._selector.unregister(server.socket)
            server.socket.close()  # no shutdown(2): it would end the socket for all processes that share it
        for pending in [pending for pending in self._pending if pending.is_silent]:
            self._forget_connection(pending)
        self._has_stopped_accepting.set()

    def _end_loop(self) -> None:
        for pending in list(self._waiting):
            self._reject_request(pending, CONGESTION)
        for pending in list(self._pending):
            self._forget_connection(pending)
        self._handshakes.close()
        for result in self._handshakes.take_results():
            result.subject.connection.close()
        self._selector.close()
        self._wakeup.close()

    def _accept_connection(self, server: ConnectionServer) -> None:
        try:
            connection, client = server.accept_connection(len(self._limit))
        except BlockingIOError:
            return
        except OSError as error:  # no descriptor left, or the peer is gone
            log.warning("connection not accepted", error=str(error.strerror))
            self._drop_longest_silent()
            time.sleep(WAIT_SECONDS / 10)
            return
        if len(self._pending) >= MAX_PENDING_CONNECTIONS:
            self._drop_longest_silent()
        pending = PendingConnection(connection, client, server)
        self._pending[pending] = None
        self._await_input(pending)

    def _await_input(self, pending: PendingConnection, events: int = selectors.EVENT_READ) -> None:
        work = self._begin_handshake_step if pending.shakes_hands and pending.closing_until is None else self._read_connection
        self._selector.register(pending.connection, events, lambda: self._guard_connection(pending, work))

    def _begin_handshake_step(self, pending: PendingConnection) -> None:
        """Let a thread work on the handshake, as far as the peer's bytes allow."""
        if not pending.has_begun_handshake and not sockets.socket.recv(pending.connection, 1, sockets.MSG_PEEK):
            self._forget_connection(pending)  # closed without a word
            return
        self._selector.unregister(pending.connection)
        pending.is_busy = pending.has_begun_handshake = True
        self._handshakes.begin_step(pending, pending.connection)

    def _continue_handshake(self, result: HandshakeResult[PendingConnection]) -> None:
        """Go on with a connection that a thread has worked on."""
        pending = result.subject
        pending.is_busy = False
        if pending not in self._pending:  # forgotten meanwhile
            pending.connection.close()
        elif result.fault:
            self._refuse_connection(pending, b"", f"TLS: {result.fault}")
            self._await_input(pending)
        elif result.awaited_events:
            self._await_input(pending, result.awaited_events)
        else:
            pending.shakes_hands, pending.certificate = False, result.certificate
            self._await_input(pending)

    def _drop_longest_silent(self) -> None:
        silent = next((pending for pending in self._pending if pending.is_silent), None)
        if silent is not None:
            log.warning("silent connection closed: too many", address=silent.address)
            self._forget_connection(silent)

    def _guard_connection(self, pending: PendingConnection, work: Callable[[PendingConnection], None]) -> None:
        """Do the work; an error of any kind ends this connection and no other."""
        try:
            work(pending)
        except OSError:  # reset by the peer
            self._forget_connection(pending)
        except Exception as error:
            log.error("connection failed", error=type(error).__name__, locations=traceback_locations(error))
            self._forget_connection(pending)

    def _read_connection(self, pending: PendingConnection) -> None:
        content = pending.receive()
        if content is None:
            return
        if not content:
            self._forget_connection(pending)
        elif pending.closing_until is None:
            pending.received += content
            self._examine_input(pending)

    def _examine_input(self, pending: PendingConnection) -> None:
        received = pending.received
        if pending.request is not None or received[0] != A_ASSOCIATE_RQ:  # nothing but an A-ABORT may come before the answer
            self._refuse_early_pdu(pending, received[0])
        elif len(received) >= PDU_HEADER:
            length = PDU_HEADER + int.from_bytes(received[2:PDU_HEADER], "big")
            if length > MAX_REQUEST_BYTES:
                self._abort_connection(pending, INVALID_PARAMETER, "the A-ASSOCIATE-RQ is too long")
            elif len(received) > length:
                self._refuse_early_pdu(pending, received[length])
            elif len(received) == length:
                self._judge_request(pending)
        if sum(len(other.received) for other in self._pending) > MAX_PENDING_BYTES:
            self._drop_longest_silent()

    def _refuse_early_pdu(self, pending: PendingConnection, kind: int) -> None:
        """End a connection on which another PDU came than an A-ASSOCIATE-RQ, or before its answer."""
        if kind == A_ABORT:
            self._forget_connection(pending)
        elif kind == P_DATA_TF or kind in OTHER_PDUS:
            self._abort_connection(pending, UNEXPECTED_PDU, f"a PDU of type {kind} came before the association was accepted")
        elif kind == CLIENT_HELLO:
            self._abort_connection(pending, UNRECOGNIZED_PDU, "it speaks TLS on the port without TLS")
        else:
            self._abort_connection(pending, UNRECOGNIZED_PDU, "what it sent is not DICOM")

    def _judge_request(self, pending: PendingConnection) -> None:
        try:
            request = decode_request(pending.received)
        except MalformedPdu as error:
            self._abort_connection(pending, INVALID_PARAMETER, str(error))
            return
        pending.request, pending.received = request, bytearray()
        if (rejection := request.rejection or self._find_rejection(pending, request)) is not None:
            self._reject_request(pending, rejection)
        elif self._desk.is_own_probe(request, pending.address):
            if self._desk.count_own_probes() < MAX_OWN_PROBES:
                self._begin_association(pending, None)
            else:
                self._reject_request(pending, TOO_MANY_ASSOCIATIONS)
        elif len(self._waiting) >= MAX_PENDING_CONNECTIONS:
            self._reject_request(pending, TOO_MANY_ASSOCIATIONS)
        else:
            self._waiting[pending] = None

    def _find_rejection(self, pending: PendingConnection, request: AssociationRequest) -> Rejection | None:
        return self._desk.find_rejection(request, pending.address, pending.certificate)

    def _admit_waiting(self) -> None:
        while self._waiting:
            waiting = list(self._waiting)
            given = self._limit.acquire([pending.peer for pending in waiting])
            if given is None:
                return
            pending, holder = waiting[given[0]], given[1]
            if (waited := time.monotonic() - pending.begun_at) > LONG_WAIT_SECONDS:
                log.info("association waited for a slot", calling=pending.peer.ae_title, seconds=round(waited, 1))
            self._begin_association(pending, holder)

    def _begin_association(self, pending: PendingConnection, holder: SlotHolder | None) -> None:
        self._selector.unregister(pending.connection)
        self._pending.pop(pending, None)
        self._waiting.pop(pending, None)
        try:
            self._desk.begin_association(pending, holder)
        except Exception as error:  # no thread left, for example
            log.error("association not begun", error=type(error).__name__, locations=traceback_locations(error))
            if holder is not None:
                self._limit.release(holder)
            pending.connection.close()

    def _reject_request(self, pending: PendingConnection, rejection: Rejection) -> None:
        self._refuse_connection(pending, rejection.encode(), rejection.why)

    def _abort_connection(self, pending: PendingConnection, reason: int, why: str) -> None:
        self._refuse_connection(pending, struct.pack(">BBLBBBB", A_ABORT, 0, 4, 0, 0, SERVICE_PROVIDER, reason), why)

    def _refuse_connection(self, pending: PendingConnection, answer: bytes, why: str) -> None:
        """Send the last PDU, and discard what still comes until the peer has closed."""
        self._waiting.pop(pending, None)
        pending.received = bytearray()
        pending.closing_until = time.monotonic() + CLOSE_SECONDS
        self._desk.note_refusal(pending, why)
        with suppress(OSError):  # the peer is gone
            if answer:
                pending.connection.send(answer)
            end_output(pending.connection)

    def _close_overdue(self) -> None:
        now = time.monotonic()
        for pending in list(self._pending):
            if pending.closing_until is not None and now > pending.closing_until:
                self._forget_connection(pending)
            elif pending.is_silent and now > pending.begun_at + self._timeout_seconds:
                if pending.has_begun_handshake and pending.shakes_hands:
                    self._desk.note_refusal(pending, "TLS: the handshake was not complete in time")
                elif pending.received:
                    self._desk.note_refusal(pending, "the A-ASSOCIATE-RQ was not complete in time")
                self._forget_connection(pending)

    def _forget_connection(self, pending: PendingConnection) -> None:
        if pending in self._pending:
            del self._pending[pending]
            self._waiting.pop(pending, None)
            if not pending.is_busy:  # otherwise its thread's result comes, and closes it
                self._selector.unregister(pending.connection)
                pending.connection.close()
