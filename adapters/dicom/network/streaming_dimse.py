"""DIMSE messages of the listener (PS3.7): assembled from fragments in bounded memory, served on the thread that read them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any, NamedTuple, Protocol, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from adapters.dicom.network.command_set import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_EVENT_REPORT_RQ,
    RESPONSE,
    CommandSet,
    MalformedCommandSet,
    decode_command_set,
    encode_response,
)
from adapters.dicom.network.dimse import SUCCESS, UNRECOGNIZED_OPERATION
from adapters.dicom.network.pdu_reader import COMMAND, DATA, LAST, LENGTH_BYTES, Fragment, MalformedPdu

MAX_COMMAND_SET_BYTES = 1 << 16
MAX_IGNORED_DATA_SET_BYTES = 1 << 20
"""Limit of the data set of a message that should have none."""
MAX_INFORMATION_BYTES = 1 << 20
"""Limit of the data set of a storage commitment message: about 7000 objects."""
MAX_DISCARD_SECONDS = 10.0
"""Time in which the rest of a refused data set may come, so that the sender gets the status; then the association is aborted."""
MIN_BYTES_PER_SECOND = 1024
"""Lowest mean rate of a message, after its first `network_timeout_seconds`: bytes that trickle must not hold a slot."""


class DimseAnswer(NamedTuple):
    """Status and comment of a response, and the message that follows on the same association: command set and data set."""

    status: int
    comment: str = ""
    message: tuple[bytes, bytes] | None = None


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

    def serve_commitment(self, association: Association, context: int, request: CommandSet, information: bytes) -> DimseAnswer:
        """Return the answer to an N-ACTION or N-EVENT-REPORT, whose data set is complete or b""."""

    def end_association(self, association: Association) -> None:
        """Note that the connection is closed."""


class MessageThread(Protocol):
    """The thread of the upper layer that the messages are read and served on."""

    def fail(self, why: str) -> None:
        """Abort the association for the reason given."""

    def suspend_idle_timer(self) -> AbstractContextManager[None]:
        """Suppress the idle time-out while a request is served."""


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


class CollectedDataSet(BytesIO):
    """The data set of a storage commitment message."""

    def write(self, fragment: Any) -> int:
        """Append the bytes. MalformedPdu above the limit."""
        if self.tell() + len(fragment) > MAX_INFORMATION_BYTES:
            raise MalformedPdu("the data set of a storage commitment message is too long")
        return super().write(fragment)


class StreamingDimse(DIMSEServiceProvider):
    """Assembles DIMSE messages in bounded memory and serves each on the thread that read it."""

    def __init__(self, association: Association, thread: MessageThread, services: AssociationServices) -> None:
        super().__init__(association)
        self._thread, self._services = thread, services
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
                self._thread.fail(str(error))

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
            elif request.field in (N_ACTION_RQ, N_EVENT_REPORT_RQ):
                self._data_set = CollectedDataSet()
            else:
                self._data_set = IgnoredDataSet()

    def _serve_message(self) -> None:
        """Serve a complete request."""
        request, context, data_set = self._request, self._context, self._data_set
        assert request is not None and context is not None
        with self._thread.suspend_idle_timer():
            self._data_set = None
            if request.field == C_STORE_RQ:
                status, comment = self._services.store_instance(self.assoc, request, data_set)
                self._send_response(context, encode_response(request, status, comment))
            elif request.field == C_ECHO_RQ:
                self._send_response(context, encode_response(request, SUCCESS))
            elif request.field in (N_ACTION_RQ, N_EVENT_REPORT_RQ):
                self._serve_commitment(context, request, data_set.getvalue() if data_set is not None else b"")
            elif not request.field & RESPONSE and request.field != C_CANCEL_RQ:
                self._send_response(context, encode_response(request, UNRECOGNIZED_OPERATION))
            self._context = None

    def _serve_commitment(self, context: int, request: CommandSet, information: bytes) -> None:
        answer = self._services.serve_commitment(self.assoc, context, request, information)
        self._send_response(context, encode_response(request, answer.status, answer.comment))
        if answer.message is not None:  # its response, which comes later, needs no answer
            command, data_set = answer.message
            self._send_response(context, command)
            self._send_response(context, data_set, kind=DATA)

    def _send_response(self, context: int, encoded: bytes, kind: int = COMMAND) -> None:
        """Send a command set, or a data set, in fragments no longer than the peer accepts."""
        limit = self.maximum_pdu_size
        size = max(1, limit - LENGTH_BYTES - 2) if limit else len(encoded)
        for start in range(0, len(encoded), size):
            is_last = start + size >= len(encoded)
            fragment = P_DATA()
            control = bytes([kind | LAST if is_last else kind])
            fragment.presentation_data_value_list.append((context, control + encoded[start : start + size]))
            self.dul.send_pdu(fragment)

    def close_data_set(self) -> None:
        """Close the data set that was unfinished when the connection ended."""
        data_set, self._data_set = self._data_set, None
        if data_set is not None and self._request is not None:
            self._services.abandon_data_set(self.assoc, self._request, data_set)
