"""Data sets that are all the same but for a few values: encoded once, with blanks, and filled in for each.

Explicit VR Little Endian (PS3.5 7.1.2), sequences and items of defined length (7.5), text in UTF-8. A blank is an element that is
named by its keyword, at any depth; the lengths of all that holds it follow what is filled in.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import DSfloat

UTF_8 = "ISO_IR 192"
LONG_LENGTH = {"SQ", "UT"}
"""Of the value representations written here: those with a length of four bytes, PS3.5 table 7.1-1."""
ITEM = b"\xfe\xff\x00\xe0"
CONTENT_SEQUENCE = 0x0040A730


def encoded(dataset: Dataset) -> bytes:
    """Return the data set's bytes."""
    stream = _stream()
    write_dataset(stream, dataset, parent_encoding=UTF_8)
    return stream.getvalue()


def item(body: bytes) -> bytes:
    """Return an item of a sequence that holds these elements."""
    return b"".join((ITEM, struct.pack("<L", len(body)), body))


def sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """Return a sequence of these items."""
    return _element(tag, "SQ", b"".join(items))


def value(vr: str, said: Any) -> bytes:
    """Return a value in UI, DS, FD or UT, of even length (PS3.5 6.2). ValueError for a DS that is not finite."""
    if vr == "FD":
        return struct.pack("<d", said)
    text = (str(DSfloat(said, auto_format=True)) if vr == "DS" else str(said)).encode()
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


class Form:
    """A data set with blanks."""

    def __init__(self, dataset: Dataset, blanks: Collection[str]) -> None:
        self._parts = _parts(dataset, frozenset(blanks))

    def filled(self, **values: Any) -> bytes:
        """Return the data set's bytes with these values, keyword by keyword. KeyError where a blank gets none."""
        return _filled(self._parts, values)


@dataclass(frozen=True, slots=True)
class _Blank:
    tag: int
    vr: str
    keyword: str


@dataclass(frozen=True, slots=True)
class _Holder:
    """A sequence with a blank somewhere below."""

    tag: int
    items: list[list[_Part]]


_Part = bytes | _Blank | _Holder


def _parts(dataset: Dataset, blanks: frozenset[str]) -> list[_Part]:
    return [_part(element, blanks) for element in dataset]


def _part(element: DataElement, blanks: frozenset[str]) -> _Part:
    if element.keyword in blanks:
        return _Blank(int(element.tag), element.VR, element.keyword)
    if element.VR == "SQ":
        items = [_parts(below, blanks) for below in element.value]
        if any(not isinstance(part, bytes) for parts in items for part in parts):
            return _Holder(int(element.tag), items)
    stream = _stream()
    write_data_element(stream, element, UTF_8)
    return stream.getvalue()


def _filled(parts: list[_Part], values: Mapping[str, Any]) -> bytes:
    written = []
    for part in parts:
        if isinstance(part, _Blank):
            part = _element(part.tag, part.vr, value(part.vr, values[part.keyword]))
        elif isinstance(part, _Holder):
            part = sequence(part.tag, (item(_filled(below, values)) for below in part.items))
        written.append(part)
    return b"".join(written)


def _element(tag: int, vr: str, content: bytes) -> bytes:
    length = struct.pack("<2xL" if vr in LONG_LENGTH else "<H", len(content))
    return b"".join((struct.pack("<HH", BaseTag(tag).group, BaseTag(tag).element), vr.encode(), length, content))


def _stream() -> DicomBytesIO:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    return stream
