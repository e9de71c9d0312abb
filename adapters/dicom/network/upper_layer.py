"""The DICOM upper layer of the listener: pynetdicom's, with its input, waiting and DIMSE messages replaced (decision 0015).

The upper layer (PS3.8) carries DIMSE messages over TCP: PDUs on the wire, and a state machine for the association. pynetdicom
3.0.4 provides it and stays in charge of negotiation, PDU classes and state machine. But it reads 4096 bytes at a time, blocks in
the middle of a PDU, holds whole PDUs and data sets in memory, polls a thousand times a second on two threads for each association,
and ends a thread by an exception where a peer sends what it does not expect. The subclasses here override the methods responsible,
in brackets, under pynetdicom's names:

* `BufferedAssociationSocket` (`ready`, `_shutdown_socket`), in `association_socket.py`, reads all bytes that have arrived into one
  buffer of fixed size, the `PduReader`, and never waits for more. P-DATA-TF PDUs (PS3.8 9.3.5) leave it in fragments as they
  arrive, all others as complete PDUs. `TlsAssociationSocket` does the same over TLS.
* `EventDrivenDul` (`_is_transport_event`, `_read_pdu_data`, `_process_recv_primitive`, `send_pdu`, `idle_timer_expired`) is the
  thread of the DICOM upper layer ("DUL"). It sleeps in poll(2) until the socket is readable or a primitive is to be sent, and
  passes fragments of P-DATA-TF to the state machine. Other PDUs go through pynetdicom's decoder once they are complete.
* `TolerantStateMachine` (`do_action`) drops an event that has no meaning in the present state: an answer that was queued when the
  association ended.
* `StreamingDimse` (`receive_primitive`), in `streaming_dimse.py`, assembles messages, and answers them: C-STORE and C-ECHO with
  their status, every other request with "unrecognized operation". The data set of a C-STORE is written to the file-like object that
  `AssociationServices` returns; everything else has a size limit. A message is served on the thread that read it: nothing more is
  read from a sender before its response, which is the back-pressure when the disk lags.
* `NegotiationAcse` (`send_accept`) answers presentation contexts that pynetdicom cannot negotiate.
* `ReactorCheckpoint` (`wait`, `set`) is the event at which the association's own thread pauses in each round; here the thread
  sleeps until there is a change of state.
* `UpperLayerRequestHandler` (`_create_association`) puts these parts into each new association.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol, cast

import pynetdicom
import structlog
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import ACTIONS, TRANSITION_TABLE, StateMachine
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler

from adapters.dicom.network.association_request import A_ASSOCIATE_RQ, AssociationRequest
from adapters.dicom.network.association_socket import CONNECTION_CLOSED, BufferedAssociationSocket, make_association_socket
from adapters.dicom.network.event_fd import EventFd
from adapters.dicom.network.pdu_reader import Fragment, MalformedPdu
from adapters.dicom.network.streaming_dimse import AssociationServices, StreamingDimse
from pipeline.errors import traceback_locations

PYNETDICOM_VERSION = "3.0.4"
"""The release whose private names are used here. Compare its source before another release is allowed."""
if pynetdicom.__version__ != PYNETDICOM_VERSION:
    raise ImportError(
        f"adapters/dicom/network/upper_layer.py needs pynetdicom {PYNETDICOM_VERSION}, found {pynetdicom.__version__}"
    )

CLOSE_SECONDS = 1.0
"""After an A-ABORT the peer may close the connection for this long: closed with input unread, TCP would discard the A-ABORT."""
TICK_SECONDS = 0.05
"""Longest sleep: pynetdicom's timers and flags must be checked regularly."""

INVALID_PDU, P_DATA_PDU = "Evt19", "Evt10"  # PS3.8 table 9-7
LOCAL_EVENTS = {"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"}
"""Events of a primitive of this side that waits in the queue."""
UNEXPECTED_PDUS = {0x01: "Evt6", 0x02: "Evt3", 0x03: "Evt4", 0x06: "Evt13"}
"""PDU types that an acceptor, which never asks for a release, does not expect within an association, with their events."""
EMPTY_PDUS = {kind: bytes([kind, 0, 0, 0, 0, 4, 0, 0, 0, 0]) for kind in (0x05, 0x07)}
"""A-RELEASE-RQ and A-ABORT: whatever stands in them changes nothing here."""
WAITING_FOR_REQUEST, WAITING_FOR_CLOSE = "Sta2", "Sta13"  # PS3.8 table 9-5
ABORT_ACTIONS = {"AA-1", "AA-7", "AA-8"}  # send an A-ABORT, PS3.8 table 9-8

log = structlog.get_logger("radclipd.listener")


class ServiceServer(Protocol):
    """The server of an association."""

    services: AssociationServices
    shared_contexts: list[PresentationContext]


class PDataFragments:
    """Fragments of one or several P-DATA-TF PDUs: the state machine gets them instead of a PDU object of pynetdicom."""

    def __init__(self, fragments: list[Fragment]) -> None:
        self._fragments = fragments

    def to_primitive(self) -> P_DATA:
        """Return the P-DATA primitive that the state machine expects."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(cast(Any, self._fragments))
        return primitive


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
        self.socket.end_output()

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
        dul.socket = make_association_socket(association, cast(socket.socket, self.request))
        dul.socket.pdu_reader.preload(self._association_request.encode())
        association.dimse = StreamingDimse(association, dul, server.services)
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
