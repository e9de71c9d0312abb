"""pynetdicom's upper layer, read in large pieces and woken by what happens: decision 0015.

pynetdicom 3.0.4 stays the protocol engine: negotiation, PDU classes, state machine, DIMSE messages. Four of its parts are replaced
by subclasses of theirs, because theirs read 4096 bytes at a time, keep whole PDUs and data sets in memory, block in the middle of a
PDU, and look for work a thousand times a second:

* `BufferedAssociationSocket` reads whatever has come into one buffer of fixed size and cuts P-DATA-TF PDUs (PS3.8 9.3.5) into
  fragments there;
* `EventDrivenDul` waits for the socket or for something to send, and hands the state machine fragments in place of whole PDUs;
* `StreamingDimse` lets the data set of a C-STORE flow into whatever `opened` returns, bounds everything else, and serves the
  request on
  the thread that read it, so that nothing more is read from a sender before it has its answer (`answer`);
* `ReactorCheckpoint` rests the association's own thread until there is something for it.

PDUs other than P-DATA-TF go through pynetdicom's own code, once they are there whole.
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
from typing import Any, cast

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
"""The release whose private names are used here; another one must be read before it is let in."""
if pynetdicom.__version__ != PYNETDICOM_VERSION:
    raise ImportError(
        f"adapters/dicom/network/upper_layer.py knows pynetdicom {PYNETDICOM_VERSION}, found {pynetdicom.__version__}"
    )

LARGEST_COMMAND = 1 << 16
LARGEST_OTHER_DATA_SET = 1 << 20
"""Of a message that is no C-STORE."""
MAX_QUEUED_MESSAGES = 8
"""With more requests waiting than this, a sender is not read from."""
TICK_SECONDS = 0.05
"""pynetdicom's timers and flags are looked at as often as this, whatever happens."""

INVALID_PDU, P_DATA_PDU, CONNECTION_CLOSED = "Evt19", "Evt10", "Evt17"  # PS3.8 table 9-7
WAITING_FOR_CLOSE = "Sta13"  # PS3.8 table 9-5

log = structlog.get_logger("radclipd.listener")

DataSetOpener = Callable[[Association, int, Dataset], BytesIO]
"""Association, presentation context and command set of a C-STORE to where its data set is written."""


class PDataFragments:
    """The part of one or several P-DATA-TF PDUs that has come."""

    def __init__(self, fragments: list[Fragment]) -> None:
        self._fragments = fragments

    def to_primitive(self) -> P_DATA:
        """Return them as pynetdicom's state machine wants them."""
        primitive = P_DATA()
        primitive.presentation_data_value_list.extend(cast(Any, self._fragments))
        return primitive


class BufferedAssociationSocket(AssociationSocket):
    """Reads what has come, never more than its buffer holds, and never waits for more."""

    def __init__(self, association: Association, client: socket.socket) -> None:
        super().__init__(association, client_socket=client)
        self.pdu_reader = PduReader()
        self._descriptor = client.fileno()
        self._poll = select.poll()
        self._poll.register(client, select.POLLIN)

    def register_wakeup(self, descriptor: int) -> None:
        """Let wait() end when this descriptor is readable."""
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until something has come from the peer or somebody woke us; return whether it is the former."""
        return any(found == self._descriptor for found, _ in self._poll.poll(seconds * 1000))

    @property
    def ready(self) -> bool:
        """Whether a read would find something; also the end of the connection, once."""
        return self.socket is not None and self.wait(0)

    def read_available(self) -> bool:
        """Read once; False where the connection has ended, which is told only once."""
        try:
            count = self.socket.recv_into(self.pdu_reader.get_buffer()) if self.socket is not None else 0
        except OSError:  # reset by the peer, or shut down by the association's own thread
            count = 0
        self.pdu_reader.buffer_updated(count)
        if count == 0:
            self._poll.unregister(self._descriptor)
        return count > 0

    def recv(self, nr_bytes: int) -> bytearray:
        """Return bytes of a PDU that is there whole."""
        return self.pdu_reader.read(nr_bytes)


class EventFd:
    """Wakes a thread that polls its descriptor."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # a descriptor that was closed may be another file's the next moment

    def signal(self) -> None:
        """Wake the thread, or have it not fall asleep."""
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Let it be still again."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Close the descriptor; ringing does nothing from here on."""
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1


class ReactorCheckpoint(threading.Event):
    """Where pynetdicom's association thread passes in each round; it rests here until there is something for it."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Event()
        self.set()

    def wake(self) -> None:
        """Say that there is something."""
        self._news.set()

    def set(self) -> None:
        super().set()
        self._news.set()

    def wait(self, timeout: float | None = None) -> bool:
        self._news.wait(TICK_SECONDS)
        self._news.clear()
        return super().wait(timeout)


class _NotifyingQueue(queue.Queue[Any]):
    """A queue that says when something is put into it."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._tell = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._tell()


class EventDrivenDul(DULServiceProvider):
    """The upper layer's thread: it sleeps until there is something to read or to send."""

    socket: BufferedAssociationSocket

    def __init__(self, association: Association, checkpoint: ReactorCheckpoint) -> None:
        self._bell, self._killed = EventFd(), False
        super().__init__(association)
        self.daemon = True
        self.to_user_queue = _NotifyingQueue(checkpoint.wake)
        self._checkpoint = checkpoint
        self._run_loop_delay = 0.0
        self._lost = False  # what follows in the stream makes no sense
        self._serving = False

    @property
    def _kill_thread(self) -> bool:
        return self._killed

    @_kill_thread.setter
    def _kill_thread(self, killed: bool) -> None:
        self._killed = killed
        self._bell.signal()

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self._bell.signal()

    def idle_timer_expired(self) -> bool:
        """Whether the peer has been silent for too long; while it waits for our answer, it has not."""
        return not self._serving and bool(super().idle_timer_expired())

    @contextmanager
    def suspend_idle_timer(self) -> Iterator[None]:
        """Answer a request on this thread."""
        self._serving = True
        try:
            yield
        finally:
            self._idle_timer.restart()
            self._serving = False

    def run_reactor(self) -> None:
        """Run until killed."""
        self.socket.register_wakeup(self._bell.descriptor)
        try:
            super().run_reactor()
        finally:
            cast(StreamingDimse, self.assoc.dimse).close_data_sets()
            self._bell.close()
            self._checkpoint.wake()

    def _process_recv_primitive(self) -> bool:
        if not self.event_queue.empty():  # one thing at a time: what has happened decides what may be sent
            return False
        queued = self.to_provider_queue.queue
        while self.state_machine.current_state == WAITING_FOR_CLOSE and queued and isinstance(queued[0], P_DATA):
            self.to_provider_queue.get()  # an answer for which it is too late
        return bool(super()._process_recv_primitive())

    def _is_transport_event(self) -> bool:
        if self.state_machine.current_state == WAITING_FOR_CLOSE:
            return self.event_queue.empty() and bool(super()._is_transport_event())
        if self.assoc.dimse.msg_queue.qsize() >= MAX_QUEUED_MESSAGES:
            time.sleep(TICK_SECONDS)
            return False
        if not self.event_queue.empty():  # fragments that were not looked at would be overwritten
            return False
        if not self._has_pending_input() and not self.socket.wait(TICK_SECONDS):
            self._bell.clear()
            return False
        self._read_pdu_data()
        return True

    def _has_pending_input(self) -> bool:
        try:
            return self.socket.pdu_reader.pending
        except MalformedPdu:
            return True  # _read_pdu_data says so

    def _read_pdu_data(self) -> None:
        """Take what has come: fragments of P-DATA-TF, or one whole PDU of another kind, which pynetdicom decodes itself."""
        cutter = self.socket.pdu_reader
        if not self._has_pending_input() and not self.socket.read_available():
            self.event_queue.put(CONNECTION_CLOSED)
        if self._lost:
            cutter.discard_all()
            return
        try:
            if cutter.holds_data:
                self._queue_fragments(cutter.read_fragments())
            elif cutter.pending:
                super()._read_pdu_data()
        except MalformedPdu:
            self._lost = True
            cutter.discard_all()
            self.event_queue.put(INVALID_PDU)

    def _queue_fragments(self, fragments: list[Fragment]) -> None:
        if fragments:
            self._recv_pdu.put(cast(Any, PDataFragments(fragments)))
            self.event_queue.put(P_DATA_PDU)


class StreamingDimse(DIMSEServiceProvider):
    """Puts messages together, each with bounded memory, and has C-STOREs answered at once."""

    def __init__(self, association: Association, opened: DataSetOpener) -> None:
        super().__init__(association)
        self._opened = opened
        self._flowing: BytesIO | None = None
        self._lost = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments, in order, for as long as they make sense (PS3.8 annex E)."""
        for context, fragment in cast(list[Fragment], primitive.presentation_data_value_list):
            if self._lost:
                return
            if not self._is_valid_fragment(context, fragment) or not self._process_fragment(context, fragment):
                self._lost = True
                self.dul.event_queue.put(INVALID_PDU)

    def _is_valid_fragment(self, context: int, fragment: memoryview) -> bool:
        """One message at a time: its command, then its data set, in one presentation context."""
        message = self.message
        if fragment[0] & COMMAND:
            begun = message is not None and message.context_id is not None
            return not begun and (message is None or message.encoded_command_set.tell() + len(fragment) <= LARGEST_COMMAND)
        if message is None or message.context_id != context:
            return False
        held = 0 if self._flowing is not None else cast(BytesIO, message.data_set).tell() + len(fragment)
        return held <= LARGEST_OTHER_DATA_SET

    def _process_fragment(self, context: int, fragment: memoryview) -> bool:
        one = P_DATA()
        one.presentation_data_value_list.append(cast(Any, (context, fragment)))
        try:
            super().receive_primitive(one)
            if self.message is None:
                self._flowing = None
                self._serve_store_request()
            elif self._flowing is None and isinstance(self.message, C_STORE_RQ) and context in self.assoc._accepted_cx:
                self._flowing = self.message.data_set = self._opened(self.assoc, context, self.message.command_set)
        except Exception as error:  # pynetdicom raises whatever a command set makes it stumble over
            log.warning("message cannot be understood", error=type(error).__name__)
            return False
        return True

    def _serve_store_request(self) -> None:
        """Serve a C-STORE here and now: nothing more is read from this sender before. Others are the association's thread's."""
        context, request = self.peek_msg()
        established = self.assoc.is_established and context in self.assoc._accepted_cx
        if not isinstance(request, C_STORE) or not established or self.msg_queue.qsize() > 1:
            cast(ReactorCheckpoint, self.assoc._reactor_checkpoint).wake()
            return
        with suppress(queue.Empty), cast(EventDrivenDul, self.dul).suspend_idle_timer():
            context, request = self.msg_queue.get(block=False)
            self.assoc.abort = self.assoc._abort_nonblocking  # type: ignore[method-assign] # as pynetdicom does in events
            self.assoc._serve_request(cast(Any, request), cast(int, context))

    def send_msg(self, primitive: Any, context_id: int) -> None:
        """Send; that an instance was kept, the answer of all days, in one piece and without pydicom's part in it."""
        kept = store_response.as_plain_success(primitive)
        command = bytes([COMMAND | LAST]) + store_response.encode_command_set(kept) if kept is not None else b""
        if not command or 0 < self.maximum_pdu_size < LENGTH_BYTES + 1 + len(command):  # that of the peer, of its PDV items
            super().send_msg(primitive, context_id)
            return
        whole = P_DATA()
        whole.presentation_data_value_list.append((context_id, command))
        self.dul.send_pdu(whole)

    def close_data_sets(self) -> None:
        """Close what was under way when the connection ended."""
        left: list[BytesIO | None] = [self._flowing]
        with suppress(queue.Empty):
            while True:
                left.append(getattr(self.msg_queue.get(block=False)[1], "DataSet", None))
        for data_set in left:
            if data_set is not None:
                data_set.close()


class StreamingRequestHandler(RequestHandler):
    """Gives each connection the parts above. Its server has `opened`."""

    def _create_association(self) -> Association:
        association = super()._create_association()
        checkpoint = ReactorCheckpoint()
        dul = EventDrivenDul(association, checkpoint)
        association.dul, association._reactor_checkpoint = dul, checkpoint
        association.acse_timeout = self.ae.acse_timeout  # sets the timers of the parts that were replaced
        association.network_timeout = self.ae.network_timeout
        dul.socket = BufferedAssociationSocket(association, cast(socket.socket, self.request))
        association.dimse = StreamingDimse(association, cast(Any, self.server).opened)
        return association
