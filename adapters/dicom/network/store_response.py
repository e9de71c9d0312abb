"""The C-STORE-RSP of a stored instance (PS3.7 9.3.1.2), encoded without pydicom: the most frequent message of the listener."""

from __future__ import annotations

import struct

from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.network.dimse import SUCCESS

_C_STORE_RSP, _NO_DATA_SET = 0x8001, 0x0101  # PS3.7 E.1-1


def as_plain_success(primitive: object) -> C_STORE | None:
    """Return the primitive if it is a C-STORE response of status Success without comment or offending element; else None."""
    if not isinstance(primitive, C_STORE) or primitive.MessageIDBeingRespondedTo is None or primitive.Status != SUCCESS:
        return None
    return primitive if primitive.ErrorComment is None and primitive.OffendingElement is None else None


def encode_command_set(response: C_STORE) -> bytes:
    """Return the command set of a plain success, implicit VR little endian (PS3.7 6.3.1, table 9.3-2)."""
    elements = b"".join(
        (
            _encode_uid(0x0002, response.AffectedSOPClassUID),
            _encode_unsigned_short(0x0100, _C_STORE_RSP),
            _encode_unsigned_short(0x0120, response.MessageIDBeingRespondedTo),
            _encode_unsigned_short(0x0800, _NO_DATA_SET),
            _encode_unsigned_short(0x0900, SUCCESS),
            _encode_uid(0x1000, response.AffectedSOPInstanceUID),
        )
    )
    return struct.pack("<HHLL", 0, 0, 4, len(elements)) + elements


def _encode_unsigned_short(element: int, value: int | None) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def _encode_uid(element: int, value: str | None) -> bytes:
    encoded = (value or "").encode("ascii")
    encoded += b"\0" * (len(encoded) % 2)
    return struct.pack("<HHL", 0, element, len(encoded)) + encoded
