"""The elements of a data set's top level, watched while pydicom reads them: where to stop, and where a length lies.

A damaged element that nobody needs must not hide the pixel data behind it. pydicom goes by the length that an element states; here
the place behind it is looked at. Where no element begins there, the items of a sequence say where it ends, and an unknown VR is
read with the long length field that the standard gives to future VRs (PS3.5 6.2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from pydicom.datadict import dictionary_has_tag
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import VR

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM, SEQUENCE_DELIMITATION = 0xFFFEE000, 0xFFFEE0DD
KNOWN_VRS = {vr.value for vr in VR if len(vr.value) == 2}
KNOWN_ENCODED_VRS = {vr.encode() for vr in KNOWN_VRS}
MAX_PLAUSIBLE_LENGTH = 1 << 28
"""Longer values of implicit VR are taken for something else, unless they are of undefined length."""


@dataclass(frozen=True, slots=True)
class ElementHeader:
    """Tag, VR (None: implicit), length, and offset of the value, of an element in a stream."""

    tag: int
    vr: str | None
    length: int
    offset: int


class ElementScan:
    """`stop_when` of pydicom's reader. `stopped_at`: the element at which it stopped; None where the stream ended before."""

    def __init__(self, stream: BinaryIO, *, little_endian: bool, whole: bool, stop: Callable[[int], bool]) -> None:
        """`whole`: the stream holds the data set to its end. `stop` tells by the tag whether to stop before an element."""
        self._stream, self._whole, self._stop = stream, whole, stop
        self._order = "<" if little_endian else ">"
        self.stopped_at: ElementHeader | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Tell whether to stop before this element; else leave the stream so that pydicom goes on behind its true end."""
        if self._stop(tag):
            self.stopped_at = ElementHeader(tag, vr, length, self._stream.tell())
            return True
        if vr is not None and vr not in KNOWN_VRS:
            self._skip_unknown_vr(tag, length)
        elif length not in (0, UNDEFINED_LENGTH) and vr in (None, "SQ", "UN"):
            self._correct_length(ElementHeader(tag, vr, length, self._stream.tell()))
        return False

    def _skip_unknown_vr(self, tag: int, length: int) -> None:
        """Skip a value behind a length field of four bytes, of which pydicom has read the reserved bytes before it."""
        start = self._stream.tell()
        field = self._stream.read(4)
        end = start + 4 + struct.unpack(f"{self._order}L", field)[0] if len(field) == 4 else start
        is_short = length != 0 or self._begins_element(start, tag, implicit=False)
        self._stream.seek(start if is_short or not self._begins_element(end, tag, implicit=False) else end)

    def _correct_length(self, header: ElementHeader) -> None:
        """Move the stream so that the value of this length ends where its items end."""
        implicit = header.vr is None
        end: int | None = header.offset + header.length
        if not self._begins_element(header.offset + header.length, header.tag, implicit=implicit):
            end = self._find_sequence_end(header)
        beginning = header.offset if end is None else end - header.length
        self._stream.seek(beginning if beginning >= 0 else header.offset)

    def _begins_element(self, offset: int, after: int, *, implicit: bool) -> bool:
        """Tell whether an element of the top level begins here, behind the element `after`; also at the end of the data."""
        self._stream.seek(offset)
        encoded = self._stream.read(8)
        if not encoded:
            return not self._whole or offset == self._stream.seek(0, SEEK_END)
        if len(encoded) < 8:
            return not self._whole
        group, element, length = struct.unpack(f"{self._order}HHL", encoded)
        tag = group << 16 | element
        return tag > after and (_is_plausible_tag(tag, length) if implicit else encoded[4:6] in KNOWN_ENCODED_VRS)

    def _find_sequence_end(self, header: ElementHeader) -> int | None:
        """Return the offset behind the last item of a sequence; None where its items do not end before an element."""
        self._stream.seek(header.offset)
        implicit = header.vr is None
        try:
            for _ in range(header.length // 8 + 1):
                offset = self._stream.tell()
                encoded = self._stream.read(8)
                group, element, length = struct.unpack(f"{self._order}HHL", encoded)
                tag = group << 16 | element
                if tag == SEQUENCE_DELIMITATION:
                    return offset + 8
                if tag != ITEM:
                    return offset if self._begins_element(offset, header.tag, implicit=implicit) else None
                bounded = None if length == UNDEFINED_LENGTH else length
                read_dataset(self._stream, implicit, self._order == "<", bytelength=bounded, at_top_level=False)
        except Exception:  # pydicom raises exceptions of any type on invalid bytes
            return None
        return None


def _is_plausible_tag(tag: int, length: int) -> bool:
    """Tell whether the first bytes of an element of implicit VR may be one: a tag of the dictionary, or a private one."""
    is_private = bool(tag >> 16 & 1)
    is_known = is_private or tag & 0xFFFF == 0 or dictionary_has_tag(tag)
    return is_known and (length <= MAX_PLAUSIBLE_LENGTH or length == UNDEFINED_LENGTH)
