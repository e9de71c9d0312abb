"""P-DATA-TF PDUs, written byte by byte (PS3.8 9.3.5)."""

from __future__ import annotations

import struct

DATA = 0
"""Message control header of a data set fragment that is not the last."""


def pdv(context: int, control: int, payload: bytes) -> bytes:
    """A presentation data value item: length, presentation context, message control header, payload."""
    return struct.pack(">LBB", len(payload) + 2, context, control) + payload


def p_data(*items: bytes) -> bytes:
    """A P-DATA-TF PDU of these items."""
    body = b"".join(items)
    return struct.pack(">BBL", 4, 0, len(body)) + body
