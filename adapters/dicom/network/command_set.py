"""Command sets (PS3.7 6.3): decoding of requests, encoding of responses. Implicit VR little endian, group 0000 only.

Values are taken as the peer wrote them: whether a UID is valid decides the status of the response, never the end of an association.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF  # Command Field, PS3.7 E.1-1
N_EVENT_REPORT_RQ, N_ACTION_RQ = 0x0100, 0x0130
RESPONSE = 0x8000
"""Bit of the Command Field of every response."""
NO_DATA_SET = 0x0101  # Command Data Set Type; any other value: there is one
COMMENT_LENGTH = 64  # characters of Error Comment, VR LO

AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, COMMAND_FIELD, MESSAGE_ID = 0x0002, 0x0003, 0x0100, 0x0110
MESSAGE_ID_BEING_RESPONDED_TO, COMMAND_DATA_SET_TYPE, STATUS = 0x0120, 0x0800, 0x0900
ERROR_COMMENT, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID = 0x0902, 0x1000, 0x1001
EVENT_TYPE_ID = 0x1002
HAS_DATA_SET = 0x0001
ELEMENT_HEADER = 8


class MalformedCommandSet(Exception):
    """A command set that cannot be answered: `str(error)` says why."""


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The elements of a request that the listener reads. A UID that is missing is ""."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def decode_command_set(encoded: bytes | bytearray) -> CommandSet:
    """Decode a request. MalformedCommandSet where it cannot be parsed, or lacks what a response needs."""
    elements = _split_elements(encoded)
    field = _decode_unsigned_short(elements, COMMAND_FIELD)
    is_request = not field & RESPONSE and field != C_CANCEL_RQ
    return CommandSet(
        field=field,
        message_id=_decode_unsigned_short(elements, MESSAGE_ID) if is_request else 0,
        has_data_set=_decode_unsigned_short(elements, COMMAND_DATA_SET_TYPE) != NO_DATA_SET,
        sop_class_uid=_decode_uid(elements.get(AFFECTED_SOP_CLASS_UID) or elements.get(REQUESTED_SOP_CLASS_UID, b"")),
        sop_instance_uid=_decode_uid(elements.get(AFFECTED_SOP_INSTANCE_UID) or elements.get(REQUESTED_SOP_INSTANCE_UID, b"")),
    )


def encode_response(request: CommandSet, status: int, comment: str = "") -> bytes:
    """Return the command set of the response (PS3.7 9.3.1.2, 9.3.5.2), without a data set; the comment shortened to VR LO."""
    elements = [
        _encode_uid(AFFECTED_SOP_CLASS_UID, request.sop_class_uid),
        _encode_unsigned_short(COMMAND_FIELD, request.field | RESPONSE),
        _encode_unsigned_short(MESSAGE_ID_BEING_RESPONDED_TO, request.message_id),
        _encode_unsigned_short(COMMAND_DATA_SET_TYPE, NO_DATA_SET),
        _encode_unsigned_short(STATUS, status),
    ]
    if comment:
        text = comment.encode("ascii", "replace")[:COMMENT_LENGTH].replace(b"\\", b"/")
        elements.append(_encode_element(ERROR_COMMENT, text + b" " * (len(text) % 2)))
    if request.sop_instance_uid:
        elements.append(_encode_uid(AFFECTED_SOP_INSTANCE_UID, request.sop_instance_uid))
    return _join_elements(elements)


def encode_event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RQ (PS3.7 10.3.1.1), which a data set follows."""
    return _join_elements(
        [
            _encode_uid(AFFECTED_SOP_CLASS_UID, sop_class_uid),
            _encode_unsigned_short(COMMAND_FIELD, N_EVENT_REPORT_RQ),
            _encode_unsigned_short(MESSAGE_ID, message_id),
            _encode_unsigned_short(COMMAND_DATA_SET_TYPE, HAS_DATA_SET),
            _encode_uid(AFFECTED_SOP_INSTANCE_UID, sop_instance_uid),
            _encode_unsigned_short(EVENT_TYPE_ID, event_type),
        ]
    )


def _join_elements(elements: list[bytes]) -> bytes:
    encoded = b"".join(elements)
    return _encode_element(0, struct.pack("<L", len(encoded))) + encoded


def _split_elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """Return element number -> value, in any order; of an element that stands twice the first."""
    elements: dict[int, bytes] = {}
    start = 0
    while start < len(encoded):
        if len(encoded) - start < ELEMENT_HEADER:
            raise MalformedCommandSet("it ends within an element")
        group, element, length = struct.unpack_from("<HHL", encoded, start)
        end = start + ELEMENT_HEADER + length
        if group != 0 or end > len(encoded):
            raise MalformedCommandSet("an element is not of group 0000" if group else "an element is longer than the command set")
        elements.setdefault(element, bytes(encoded[start + ELEMENT_HEADER : end]))
        start = end
    return elements


def _decode_unsigned_short(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element)
    if value is None or len(value) < 2:
        raise MalformedCommandSet(f"(0000,{element:04X}) is {'missing' if value is None else 'too short'}")
    return int.from_bytes(value[:2], "little")


def _decode_uid(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace").replace("\ufffd", "?")


def _encode_unsigned_short(element: int, value: int) -> bytes:
    return _encode_element(element, struct.pack("<H", value))


def _encode_uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return _encode_element(element, value + b"\0" * (len(value) % 2))


def _encode_element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, element, len(value)) + value
