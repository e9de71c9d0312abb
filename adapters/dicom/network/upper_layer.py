"""The DICOM upper layer of the listener: pynetdicom's, with its input, waiting and C-STORE reception replaced (decision 0015).

The upper layer (PS3.8) carries DIMSE messages over TCP: PDUs on the wire, and a state machine for the association. pynetdicom
3.0.4 provides it and stays in charge of negotiation, PDU classes, state machine and DIMSE messages. But it reads 4096 bytes at
a time, blocks in the middle of a PDU, holds whole PDUs and data sets in memory, and polls a thousand times a second on two
threads for each association. The subclasses here override the methods responsible, in brackets, under pynetdicom's names:

* `BufferedAssociationSocket` (`recv`, `ready`) reads all bytes that have arrived into one buffer of fixed size, the
  `PduReader`, and never waits for more. P-DATA-TF PDUs (PS3.8 9.3.5) leave it in fragments as they arrive, all others as
  complete PDUs.
* `EventDrivenDul` (`_is_transport_event`, `_read_pdu_data`, `_process_recv_primitive`, `send_pdu`, `idle_timer_expired`) is the
  thread of the DICOM upper layer ("DUL"). It sleeps in poll(2) until the socket is readable or a primitive is to be sent, and
  passes fragments of P-DATA-TF to the state machine. Other PDUs go through pynetdicom's decoder once they are complete.
* `StreamingDimse` (`receive_primitive`, `send_msg`) assembles messages. The data set of a C-STORE is written to the file-like
  object that the `DataSetOpener` returns; everything else has a size limit. A C-STORE is served on the thread that read it:
  nothing more is read from a sender before its response, which is the back-pressure when the disk lags.
* `ReactorCheckpoint` (`wait`, `set`) is the event at which the association's own thread pauses in each round; here the thread
  sleeps until there is a message or a change of state.
* `UpperLayerRequestHandler` (`_create_association`) puts these parts into each new association.
"""

from __future__ import annotations

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, Protocol, cast

import pynetdicom
import structlog
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, RequestHandler

from adapters.dicom.network import store_response
from adapters.dicom.network.pdu_reader import COMMAND, LAST, LENGTH_BYTES, Fragment, MalformedPdu, PduReader

PYNETDICOM_VERSION = "3.0.4"
"""The release whose private names are used here. Compare its source before another release is allowed."""
if pynetdicom.__version__ != PYNETDICOM_VERSION:
    raise ImportError(
        f"adapters/dicom/network/upper_layer.py needs pynetdicom {PYNETDICOM_VERSION}, found {pynetdicom.__version__}"
    )

MAX_COMMAND_SET_BYTES = 1 << 16
MAX_HELD_DATA_SET_BYTES = 1 << 20
"""Limit of a data set that is held in memory: of any message but an accepted C-STORE."""
MAX_QUEUED_MESSAGES = 8
"""Number of unserved requests from which on nothing more is read from a sender."""
TICK_SECONDS = 0.05
"""Longest sleep: pynetdicom's timers and flags must be checked regularly."""

INVALID_PDU, P_DATA_PDU, CONNECTION_CLOSED = "Evt19", "Evt10", "Evt17"  # PS3.8 table 9-7
WAITING_FOR_CLOSE = "Sta13"  # PS3.8 table 9-5

log = structlog.get_logger("radclipd.listener")

DataSetOpener = Callable[[Association, int, Dataset], BytesIO]
"""Maps association, presentation context id and command set of a C-STORE to the object that its data set is written to."""


class DataSetServer(Protocol):
    """A server that supplies the destination of C-STORE data sets."""

    open_data_set: DataSetOpener


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
            self._poll.unregister(self._descriptor)
        return count > 0

    def recv(self, nr_bytes: int) -> bytearray:
        """Return bytes of a PDU that has arrived completely."""
        return self.pdu_reader.read(nr_bytes)


class EventFd:
    """A Linux event descriptor (eventfd(2)) that wakes the thread polling it."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # the number of a closed descriptor may be reused at once

    def signal(self) -> None:
        """Wake the thread; one that is not asleep returns at once from its next poll."""
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Reset the descriptor."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Close the descriptor; later signals have no effect."""
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1


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


class EventDrivenDul(DULServiceProvider):
    """The upper layer's thread: it sleeps until there is input to read or a primitive to send."""

    socket: BufferedAssociationSocket

    def __init__(self, association: Association, checkpoint: ReactorCheckpoint) -> None:
        self._wakeup_fd, self._is_killed = EventFd(), False
        super().__init__(association)
        self.daemon = True
        self.to_user_queue = _NotifyingQueue(checkpoint.wake)
        self._checkpoint = checkpoint
        self._run_loop_delay = 0.0
        self._stream_is_invalid = False  # the rest of the stream is discarded
        self._is_serving = False

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

    def idle_timer_expired(self) -> bool:
        """Whether the peer has been silent for too long; the time in which it waits for a response does not count."""
        return not self._is_serving and bool(super().idle_timer_expired())

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
        """Run until killed."""
        self.socket.register_wakeup(self._wakeup_fd.descriptor)
        try:
            super().run_reactor()
        finally:
            cast(StreamingDimse, self.assoc.dimse).close_data_sets()
            self._wakeup_fd.close()
            self._checkpoint.wake()

    def _process_recv_primitive(self) -> bool:
        if not self.event_queue.empty():  # the next event decides whether the primitive may be sent
            return False
        queued = self.to_provider_queue.queue
        while self.state_machine.current_state == WAITING_FOR_CLOSE and queued and isinstance(queued[0], P_DATA):
            self.to_provider_queue.get()  # a response after the end of the association
        return bool(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == WAITING_FOR_CLOSE:
            return self.event_queue.empty() and bool(super()._is_transport_event())
        if self.assoc.dimse.msg_queue.qsize() >= MAX_QUEUED_MESSAGES:
            time.sleep(TICK_SECONDS)
            return False
        if not self.event_queue.empty():  # the next read would overwrite fragments not yet processed
            return False
        if not self._has_pending_input() and not self.socket.wait(TICK_SECONDS):
            self._wakeup_fd.clear()
            return False
        self._read_pdu_data()
        return True

    def _has_pending_input(self) -> bool:
        try:
            return self.socket.pdu_reader.pending
        except MalformedPdu:
            return True  # _read_pdu_data reports it

    def _read_pdu_data(self) -> None:
        """Process the input: fragments of P-DATA-TF, or one complete PDU of another type, which pynetdicom decodes."""
        reader = self.socket.pdu_reader
        if not self._has_pending_input() and not self.socket.read_available():
            self.event_queue.put(CONNECTION_CLOSED)
        if self._stream_is_invalid:
            reader.discard_all()
            return
        try:
            if reader.holds_data:
                self._queue_fragments(reader.read_fragments())
            elif reader.pending:
                super()._read_pdu_data()
        except MalformedPdu:
            self._stream_is_invalid = True
            reader.discard_all()
            self.event_queue.put(INVALID_PDU)

    def _queue_fragments(self, fragments: list[Fragment]) -> None:
        if fragments:
            self._recv_pdu.put(cast(Any, PDataFragments(fragments)))
            self.event_queue.put(P_DATA_PDU)


class StreamingDimse(DIMSEServiceProvider):
    """Assembles DIMSE messages in bounded memory and serves each C-STORE as soon as it is complete."""

    def __init__(self, association: Association, open_data_set: DataSetOpener) -> None:
        super().__init__(association)
        self._open_data_set = open_data_set
        self._streamed: BytesIO | None = None  # destination of the C-STORE data set under way
        self._is_failed = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Process fragments in order, up to the first that violates PS3.8 annex E."""
        for context, fragment in cast(list[Fragment], primitive.presentation_data_value_list):
            if self._is_failed:
                return
            if not self._is_valid_fragment(context, fragment) or not self._process_fragment(context, fragment):
                self._is_failed = True
                self.dul.event_queue.put(INVALID_PDU)

    def _is_valid_fragment(self, context: int, fragment: memoryview) -> bool:
        """Tell whether the fragment continues the message: its command set, then its data set, in one presentation context."""
        message = self.message
        if fragment[0] & COMMAND:
            begun = message is not None and message.context_id is not None
            return not begun and (message is None or message.encoded_command_set.tell() + len(fragment) <= MAX_COMMAND_SET_BYTES)
        if message is None or message.context_id != context:
            return False
        held = 0 if self._streamed is not None else cast(BytesIO, message.data_set).tell() + len(fragment)
        return held <= MAX_HELD_DATA_SET_BYTES

    def _process_fragment(self, context: int, fragment: memoryview) -> bool:
        single = P_DATA()
        single.presentation_data_value_list.append(cast(Any, (context, fragment)))
        try:
            super().receive_primitive(single)
            if self.message is None:
                self._streamed = None
                self._serve_store_request()
            elif self._streamed is None and isinstance(self.message, C_STORE_RQ) and context in self.assoc._accepted_cx:
                self._streamed = self.message.data_set = self._open_data_set(self.assoc, context, self.message.command_set)
        except Exception as error:  # pynetdicom raises exceptions of any type on an invalid command set
            log.warning("message cannot be understood", error=type(error).__name__)
            return False
        return True

    def _serve_store_request(self) -> None:
        """Serve a complete C-STORE on this thread; leave any other request to the association's thread."""
        context, request = self.peek_msg()
        established = self.assoc.is_established and context in self.assoc._accepted_cx
        if not isinstance(request, C_STORE) or not established or self.msg_queue.qsize() > 1:
            cast(ReactorCheckpoint, self.assoc._reactor_checkpoint).wake()
            return
        with suppress(queue.Empty), cast(EventDrivenDul, self.dul).suspend_idle_timer():
            context, request = self.msg_queue.get(block=False)
            self.assoc.abort = self.assoc._abort_nonblocking  # type: ignore[method-assign] # as pynetdicom does in event handlers
            self.assoc._serve_request(cast(Any, request), cast(int, context))

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send a message. A plain success of C-STORE goes out as one PDV, encoded without pydicom."""
        success = store_response.as_plain_success(primitive)
        command = bytes([COMMAND | LAST]) + store_response.encode_command_set(success) if success is not None else b""
        if not command or 0 < self.maximum_pdu_size < LENGTH_BYTES + 1 + len(command):  # the peer's limit for a PDV item
            super().send_msg(primitive, context_id)
            return
        fragment = P_DATA()
        fragment.presentation_data_value_list.append((context_id, command))
        self.dul.send_pdu(fragment)

    def close_data_sets(self) -> None:
        """Close the data sets that were unfinished or unserved when the connection ended."""
        unfinished: list[BytesIO | None] = [self._streamed]
        with suppress(queue.Empty):
            while True:
                unfinished.append(getattr(self.msg_queue.get(block=False)[1], "DataSet", None))
        for data_set in unfinished:
            if data_set is not None:
                data_set.close()


class UpperLayerRequestHandler(RequestHandler):
    """The request handler of a `DataSetServer`: each new association gets the upper layer above."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        checkpoint = ReactorCheckpoint()
        dul = EventDrivenDul(association, checkpoint)
        association.dul, association._reactor_checkpoint = dul, checkpoint
        association.acse_timeout = self.ae.acse_timeout  # sets the timers of the replaced parts
        association.network_timeout = self.ae.network_timeout
        dul.socket = BufferedAssociationSocket(association, cast(socket.socket, self.request))
        association.dimse = StreamingDimse(association, cast(DataSetServer, self.server).open_data_set)
        return association
