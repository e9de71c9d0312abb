"""The DICOM upper layer of the listener: pynetdicom's, with its input, waiting and DIMSE messages replaced (decision 0015).

The upper layer (PS3.8) carries DIMSE messages over TCP: PDUs on the wire, and a state machine for the association. pynetdicom
3.0.4 provides it and stays in charge of negotiation, PDU classes and state machine. But it reads 4096 bytes at a time, blocks in
the middle of a PDU, holds whole PDUs and data sets in memory, polls a thousand times a second on two threads for each association,
and ends a thread by an exception where a peer sends what it does not expect. The subclasses here override the methods responsible,
in brackets, under pynetdicom's names:

* `BufferedAssociationSocket` (`ready`, `_shutdown_socket`) reads all bytes that have arrived into one buffer of fixed size, the
  `PduReader`, and never waits for more. P-DATA-TF PDUs (PS3.8 9.3.5) leave it in fragments as they arrive, all others as
  complete PDUs.
* `EventDrivenDul` (`_is_transport_event`, `_read_pdu_data`, `_process_recv_primitive`, `send_pdu`, `idle_timer_expired`) is the
  thread of the DICOM upper layer ("DUL"). It sleeps in poll(2) until the socket is readable or a primitive is to be sent, and
  passes fragments of P-DATA-TF to the state machine. Other PDUs go through pynetdicom's decoder once they are complete.
* `TolerantStateMachine` (`do_action`) drops an event that has no meaning in the present state: an answer that was queued when the
  association ended.
* `StreamingDimse` (`receive_primitive`) assembles messages, and answers them: C-STORE and C-ECHO with their status, every other
  request with "unrecognized operation". The data set of a C-STORE is written to the file-like object that `AssociationServices`
  returns; everything else has a size limit. A message is served on the thread that read it: nothing more is read from a sender
  before its response, which is the back-pressure when the disk lags.
* `NegotiationAcse` (`send_accept`) answers presentation contexts that pynetdicom cannot negotiate.
* `ReactorCheckpoint` (`wait`, `set`) is the event at which the association's own thread pauses in each round; here the thread
  sleeps until there is a change of state.
* `UpperLayerRequestHandler` (`_create_association`) puts these parts into each new association.
"""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from typing import Any, Protocol, cast

import pynetdicom
import structlog
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE, StateMachine
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler

from adapters.dicom.network.association_request import A_ASSOCIATE_RQ, AssociationRequest
from adapters.dicom.network.command_set import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    RESPONSE,
    CommandSet,
    MalformedCommandSet,
    decode_command_set,
    encode_response,
)
from adapters.dicom.network.dimse import SUCCESS, UNRECOGNIZED_OPERATION
from adapters.dicom.network.event_fd import EventFd
from adapters.dicom.network.pdu_reader import COMMAND, LAST, LENGTH_BYTES, Fragment, MalformedPdu, PduReader
from pipeline.errors import traceback_locations

PYNETDICOM_VERSION = "3.0.4"
"""The release whose private names are used here. Compare its source before another release is allowed."""
if pynetdicom.__version__ != PYNETDICOM_VERSION:
    raise ImportError(
        f"adapters/dicom/network/upper_layer.py needs pynetdicom {PYNETDICOM_VERSION}, found {pynetdicom.__version__}"
    )

MAX_COMMAND_SET_BYTES = 1 << 16
MAX_IGNORED_DATA_SET_BYTES = 1 << 20
"""Limit of the data set of a message that should have none."""
MAX_DISCARD_SECONDS = 10.0
"""Time in which the rest of a refused data set may come, so that the sender gets the status; then the association is aborted."""
MIN_BYTES_PER_SECOND = 1024
"""Lowest mean rate of a message, after its first `network_timeout_seconds`: bytes that trickle must not hold a slot."""
CLOSE_SECONDS = 1.0
"""After an A-ABORT the peer may close the connection for this long: closed with input unread, TCP would discard the A-ABORT."""
TICK_SECONDS = 0.05
"""Longest sleep: pynetdicom's timers and flags must be checked regularly."""

INVALID_PDU, P_DATA_PDU, CONNECTION_CLOSED = "Evt19", "Evt10", "Evt17"  # PS3.8 table 9-7
LOCAL_EVENTS = {"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"}
"""Events of a primitive of this side that waits in the queue."""
UNEXPECTED_PDUS = {0x01: "Evt6", 0x02: "Evt3", 0x03: "Evt4", 0x06: "Evt13"}
"""PDU types that an acceptor, which never asks for a release, does not expect within an association, with their events."""
EMPTY_PDUS = {kind: bytes([kind, 0, 0, 0, 0, 4, 0, 0, 0, 0]) for kind in (0x05, 0x07)}
"""A-RELEASE-RQ and A-ABORT: whatever stands in them changes nothing here."""
WAITING_FOR_REQUEST, WAITING_FOR_CLOSE = "Sta2", "Sta13"  # PS3.8 table 9-5
ABORT_ACTIONS = {"AA-1", "AA-7", "AA-8"}  # send an A-ABORT, PS3.8 table 9-8

log = structlog.get_logger("radclipd.listener")


class AssociationServices(Protocol):
    """What an association asks of the listener. The methods run on the association's threads and raise nothing."""

    first_message_seconds: float
    """Time in which an accepted association must send its first message."""

    def open_data_set(self, association: Association, context: int, request: CommandSet) -> BytesIO:
        """Return the destination of a C-STORE data set before its first byte has arrived."""

    def store_instance(self, association: Association, request: CommandSet, data_set: BytesIO | None) -> tuple[int, str]:
        """Return status and comment of a C-STORE whose data set is complete, or missing."""

    def abandon_data_set(self, association: Association, request: CommandSet, data_set: BytesIO) -> None:
        """Discard a data set that will not be complete."""

    def end_association(self, association: Association) -> None:
        """Note that the connection is closed."""


class ServiceServer(Protocol):
    """The server of an association."""

    services: AssociationServices
    shared_contexts: list[PresentationContext]


class IgnoredDataSet(BytesIO):
    """The data set of a request that is answered without it."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_IGNORED_DATA_SET_BYTES

    def write(self, fragment: Any) -> int:
        """Count the bytes and drop them. MalformedPdu above the limit."""
        self._left -= len(fragment)
        if self._left < 0:
            raise MalformedPdu("the data set of a message that should have none is too long")
        return len(fragment)


class PDataFragments:
    """Fragments of one or several P-DATA-TF PDUs: the state machine gets them instead of a PDU object of pynetdicom."""

    def __init__(self, fragments: list[Fragment]) -> None:
        self._fragments = fragments

    def to_primitive(self) -> P_DATA:
        """Return the P-DATA primitive that the state machine expects."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(cast(Any, self._fragments))
        return primitive


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
        self.pdu_reader.buffer_updated(count)
        if count == 0:
            with suppress(KeyError):  # reported before
                self._poll.unregister(self._descriptor)
        return count > 0

    def _shutdown_socket(self) -> None:
        """Close the socket also where the peer has closed first, and shutdown(2) fails."""
        if (client := self.socket) is not None:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()


class ReactorCheckpoint(threading.Event):
    """The event that pynetdicom's association thread waits for in each round: it sleeps here until `wake`, at most TICK_SECONDS."""

    def __init__(self) -> None:
        super().__init__()
        self._wakeup = threading.Event()
        self.set()

    def wake(self) -> None:
        """Let the association's thread run one round."""
        self._wakeup.set()

    def set(self) -> None:
        super().set()
        self._wakeup.set()

    def wait(self, timeout: float | None = None) -> bool:
        self._wakeup.wait(TICK_SECONDS)
        self._wakeup.clear()
        return super().wait(timeout)


class _NotifyingQueue(queue.Queue[Any]):
    """A queue that calls `notify` after each put."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._notify()


class TolerantStateMachine(StateMachine):
    """The state machine of PS3.8 9.2, without events that a state does not know."""

    def do_action(self, event: str) -> None:
        """Do what the table says. Any exception of the action is the caller's."""
        dul = cast(EventDrivenDul, self.dul)
        action = TRANSITION_TABLE.get((event, self.current_state))
        if action is None:
            with suppress(queue.Empty):
                (dul.to_provider_queue if event in LOCAL_EVENTS else dul._recv_pdu).get(False)
            return
        self.transition(ACTIONS[action][1](dul))
        if action in ABORT_ACTIONS:
            dul.await_close()


class EventDrivenDul(DULServiceProvider):
    """The upper layer's thread: it sleeps until there is input to read or a primitive to send."""

    socket: BufferedAssociationSocket

    def __init__(self, association: Association, checkpoint: ReactorCheckpoint, services: AssociationServices) -> None:
        self._wakeup_fd, self._is_killed = EventFd(), False
        super().__init__(association)
        self.daemon = True
        self.to_user_queue = _NotifyingQueue(checkpoint.wake)
        self.state_machine = TolerantStateMachine(self)
        self._checkpoint, self._services = checkpoint, services
        self._run_loop_delay = 0.0
        self._is_serving, self._has_message = False, False
        self._established_at: float | None = None
        self._close_until: float | None = None
        self.fault = ""  # why this side has ended the association

    @property
    def _kill_thread(self) -> bool:
        return self._is_killed

    @_kill_thread.setter
    def _kill_thread(self, killed: bool) -> None:
        self._is_killed = killed
        self._wakeup_fd.signal()

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._wakeup_fd.signal()

    def fail(self, why: str) -> None:
        """Abort the association for the reason given."""
        self.fault = self.fault or why
        self.event_queue.put(INVALID_PDU)
        self._wakeup_fd.signal()

    def await_close(self) -> None:
        """Send nothing more, and close when the peer has closed, or when it has had the time to."""
        self._close_until = time.monotonic() + CLOSE_SECONDS
        with suppress(OSError):  # the peer has closed
            if self.socket.socket is not None:
                self.socket.socket.shutdown(socket.SHUT_WR)

    def idle_timer_expired(self) -> bool:
        """Whether the peer has been silent or slow for too long; the time in which it waits for a response does not count."""
        if self._is_serving:
            return False
        if self._established_at is None:
            self._established_at = time.monotonic()
        reason = ""
        if not self._has_message and time.monotonic() - self._established_at > self._services.first_message_seconds:
            reason = "no message came in time"
        elif cast(StreamingDimse, self.assoc.dimse).is_too_slow:
            reason = "a message was not complete in time"
        elif super().idle_timer_expired():
            reason = "the peer was silent for too long"
        self.fault = self.fault or reason
        return bool(reason)

    @contextmanager
    def suspend_idle_timer(self) -> Iterator[None]:
        """Suppress the idle time-out while a request is served on this thread, and restart the timer after it."""
        self._is_serving = True
        try:
            yield
        finally:
            self._idle_timer.restart()
            self._is_serving = False

    def run_reactor(self) -> None:
        """Run until killed. An error of any kind ends this association and no other."""
        self.socket.register_wakeup(self._wakeup_fd.descriptor)
        try:
            super().run_reactor()
        except Exception as error:
            log.error("association failed", error=type(error).__name__, locations=traceback_locations(error))
            self.socket._shutdown_socket()
        finally:
            cast(StreamingDimse, self.assoc.dimse).close_data_set()
            self._wakeup_fd.close()
            self.to_user_queue.put(cast(Any, None))  # ends the wait of the association's thread
            self._checkpoint.wake()
            self._services.end_association(self.assoc)

    def _process_recv_primitive(self) -> bool:
        # The next event decides whether the primitive may be sent.
        return self.event_queue.empty() and bool(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if not self.event_queue.empty():  # the next read would overwrite fragments not yet processed
            return False
        if self.state_machine.current_state == WAITING_FOR_CLOSE:
            return self._close_connection()
        if not self._has_pending_input() and not self.socket.wait(TICK_SECONDS):
            self._wakeup_fd.clear()
            return False
        self._read_pdu_data()
        return True

    def _close_connection(self) -> bool:
        """Close the connection; after an A-ABORT discard what still comes until the peer has closed."""
        self.socket.pdu_reader.discard_all()
        if self._close_until is not None and (left := self._close_until - time.monotonic()) > 0:
            if not self.socket.wait(min(left, TICK_SECONDS)):
                self._wakeup_fd.clear()
                return False
            if self.socket.read_available():
                return False
        self.socket.close()
        return True

    def _has_pending_input(self) -> bool:
        try:
            return self.socket.pdu_reader.pending
        except MalformedPdu:
            return True  # _read_pdu_data reports it

    def _read_pdu_data(self) -> None:
        """Process the input: fragments of P-DATA-TF, or one complete PDU of another type."""
        reader = self.socket.pdu_reader
        if not self._has_pending_input() and not self.socket.read_available():
            self.event_queue.put(CONNECTION_CLOSED)
        try:
            if reader.holds_data:
                self._queue_fragments(reader.read_fragments())
            elif reader.pending:
                self._queue_other_pdu(reader.read_pdu())
        except MalformedPdu as error:
            self.fail(str(error))

    def _queue_other_pdu(self, pdu: bytearray) -> None:
        """Pass on a PDU in the form that pynetdicom decodes; of one that no state expects, its event only."""
        kind = pdu[0]
        if kind == A_ASSOCIATE_RQ and self.state_machine.current_state == WAITING_FOR_REQUEST:  # as `AssociationRequest` encodes it
            canonical = bytes(pdu)
        elif kind in EMPTY_PDUS:
            canonical = EMPTY_PDUS[kind]
        else:
            self.fault = self.fault or f"a PDU of type {kind} came within the association"
            self.event_queue.put(UNEXPECTED_PDUS[kind])
            return
        decoded, event = self._decode_pdu(bytearray(canonical))
        self._recv_pdu.put(decoded)
        self.event_queue.put(event)

    def _queue_fragments(self, fragments: list[Fragment]) -> None:
        if fragments:
            self._has_message = True
            self._recv_pdu.put(cast(Any, PDataFragments(fragments)))
            self.event_queue.put(P_DATA_PDU)


class StreamingDimse(DIMSEServiceProvider):
    """Assembles DIMSE messages in bounded memory and serves each on the thread that read it."""

    def __init__(self, association: Association, services: AssociationServices) -> None:
        super().__init__(association)
        self._services = services
        self._is_failed = False
        self._reset_message()

    def _reset_message(self) -> None:
        self._context: int | None = None
        self._encoded_command = bytearray()
        self._request: CommandSet | None = None
        self._data_set: BytesIO | None = None  # destination of the data set under way
        self._begun_at, self._byte_count = time.monotonic(), 0

    @property
    def is_too_slow(self) -> bool:
        """Whether the message under way will not be finished: its data set is discarded, or its bytes only trickle."""
        seconds = time.monotonic() - self._begun_at
        if self._context is None:
            return False
        if getattr(self._data_set, "is_discarded", False) and seconds > MAX_DISCARD_SECONDS:
            return True
        return self._byte_count < (seconds - (self.assoc.network_timeout or seconds)) * MIN_BYTES_PER_SECOND

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Process fragments in order, up to the first that violates PS3.8 annex E."""
        for context, fragment in cast(list[Fragment], primitive.presentation_data_value_list):
            if self._is_failed:
                return
            try:
                self._process_fragment(context, fragment)
            except (MalformedPdu, MalformedCommandSet) as error:
                self._is_failed = True
                self.close_data_set()
                cast(EventDrivenDul, self.dul).fail(str(error))

    def _process_fragment(self, context: int, fragment: memoryview) -> None:
        """Add a fragment to the message: its command set, then its data set, in one presentation context."""
        if self._context is None:
            self._reset_message()
            self._context = context
        if context != self._context or context not in self.assoc._accepted_cx:
            raise MalformedPdu("a fragment is not of the message's presentation context, or the context was not accepted")
        self._byte_count += len(fragment)
        is_last = bool(fragment[0] & LAST)
        if fragment[0] & COMMAND:
            self._add_to_command_set(fragment[1:], is_last=is_last)
        elif self._data_set is None:
            raise MalformedPdu("a data set came without a command set")
        else:
            self._data_set.write(fragment[1:])
            if is_last:
                self._serve_message()

    def _add_to_command_set(self, fragment: memoryview, *, is_last: bool) -> None:
        if self._request is not None:
            raise MalformedPdu("a command set came within a data set")
        self._encoded_command += fragment
        if len(self._encoded_command) > MAX_COMMAND_SET_BYTES:
            raise MalformedPdu("the command set is too long")
        if is_last:
            assert self._context is not None
            self._request = request = decode_command_set(self._encoded_command)
            if not request.has_data_set:
                self._serve_message()
            elif request.field == C_STORE_RQ:
                self._data_set = self._services.open_data_set(self.assoc, self._context, request)
            else:
                self._data_set = IgnoredDataSet()

    def _serve_message(self) -> None:
        """Serve a complete request."""
        request, context, data_set = self._request, self._context, self._data_set
        assert request is not None and context is not None
        with cast(EventDrivenDul, self.dul).suspend_idle_timer():
            self._data_set = None
            if request.field == C_STORE_RQ:
                status, comment = self._services.store_instance(self.assoc, request, data_set)
                self._send_response(context, encode_response(request, status, comment))
            elif request.field == C_ECHO_RQ:
                self._send_response(context, encode_response(request, SUCCESS))
            elif not request.field & RESPONSE and request.field != C_CANCEL_RQ:
                self._send_response(context, encode_response(request, UNRECOGNIZED_OPERATION))
            self._context = None

    def _send_response(self, context: int, encoded: bytes) -> None:
        """Send a command set, in fragments no longer than the peer accepts."""
        limit = self.maximum_pdu_size
        size = max(1, limit - LENGTH_BYTES - 2) if limit else len(encoded)
        for start in range(0, len(encoded), size):
            is_last = start + size >= len(encoded)
            fragment = P_DATA()
            control = bytes([COMMAND | LAST if is_last else COMMAND])
            fragment.presentation_data_value_list.append((context, control + encoded[start : start + size]))
            self.dul.send_pdu(fragment)

    def close_data_set(self) -> None:
        """Close the data set that was unfinished when the connection ended."""
        data_set, self._data_set = self._data_set, None
        if data_set is not None and self._request is not None:
            self._services.abandon_data_set(self.assoc, self._request, data_set)


class NegotiationAcse(ACSE):
    """The negotiation, which also answers the contexts that pynetdicom cannot negotiate."""

    def __init__(self, association: Association, request: AssociationRequest) -> None:
        super().__init__(association)
        self._faulty_contexts = request.faulty_contexts

    def send_accept(self) -> None:
        for faulty in self._faulty_contexts:
            context = PresentationContext()
            context.context_id, context.result = faulty.number, faulty.result
            context.add_transfer_syntax(ImplicitVRLittleEndian)  # not significant where a context is refused: PS3.8 9.3.3.2
            self.assoc._rejected_cx.append(context)
        super().send_accept()


class UpperLayerRequestHandler(RequestHandler):
    """Makes one association with the upper layer above, its request received. The association is not started."""

    association: Association

    def __init__(self, *arguments: Any, request: AssociationRequest) -> None:
        self._association_request = request
        super().__init__(*arguments)

    def handle(self) -> None:
        self.association = self._create_association()

    def _create_association(self) -> Association:
        association = super()._create_association()
        server = cast(ServiceServer, self.server)
        association.acceptor._contexts = server.shared_contexts
        checkpoint = ReactorCheckpoint()
        dul = EventDrivenDul(association, checkpoint, server.services)
        association.dul, association._reactor_checkpoint = dul, checkpoint
        association.acse_timeout = self.ae.acse_timeout  # sets the timers of the replaced parts
        association.network_timeout = self.ae.network_timeout
        dul.socket = BufferedAssociationSocket(association, cast(socket.socket, self.request))
        dul.socket.pdu_reader.preload(self._association_request.encode())
        association.dimse = StreamingDimse(association, server.services)
        association.acse = NegotiationAcse(association, self._association_request)
        association.run = partial(_run_guarded, association)  # type: ignore[method-assign] # a thread runs what this names
        return association


def _run_guarded(association: Association) -> None:
    """Run the association's thread; an error of any kind ends this association and no other."""
    try:
        association.run_reactor()
    except Exception as error:
        log.error("association failed", error=type(error).__name__, locations=traceback_locations(error))
        association.is_established = False
        cast(EventDrivenDul, association.dul).fail(f"unexpected {type(error).__name__}")
