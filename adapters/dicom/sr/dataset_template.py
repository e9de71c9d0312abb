"""Templates of data sets that differ in a few values: encoded once, with blanks, and filled for each data set.

Explicit VR Little Endian (PS3.5 7.1.2), sequences and items of defined length (7.5), text in UTF-8. A blank is an element named by
its keyword, at any depth. Filling it updates the lengths of all items and sequences around it.
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
LONG_LENGTH_VRS = {"SQ", "UT"}
"""Value representations with a length field of four bytes, of those written here: PS3.5 table 7.1-1."""
ITEM_TAG = b"\xfe\xff\x00\xe0"
CONTENT_SEQUENCE = 0x0040A730


def encode_dataset(dataset: Dataset) -> bytes:
    """Return the encoded data set."""
    stream = _create_stream()
    write_dataset(stream, dataset, parent_encoding=UTF_8)
    return stream.getvalue()


def encode_item(body: bytes) -> bytes:
    """Return a sequence item of these encoded elements."""
    return b"".join((ITEM_TAG, struct.pack("<L", len(body)), body))


def encode_sequence(tag: int, items: Iterable[bytes]) -> bytes:
    """Return a sequence of these encoded items."""
    return _encode_element(tag, "SQ", b"".join(items))


def encode_value(vr: str, content: Any) -> bytes:
    """Return a value of VR UI, DS, FD or UT, of even length (PS3.5 6.2). ValueError for a DS that is not finite."""
    if vr == "FD":
        return struct.pack("<d", content)
    text = (str(DSfloat(content, auto_format=True)) if vr == "DS" else str(content)).encode()
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


class DatasetTemplate:
    """An encoded data set with blanks."""

    def __init__(self, dataset: Dataset, blanks: Collection[str]) -> None:
        self._parts = _compile_parts(dataset, frozenset(blanks))

    def fill(self, **values: Any) -> bytes:
        """Return the encoded data set with these values by keyword. KeyError for a blank without a value."""
        return _fill_parts(self._parts, values)


@dataclass(frozen=True, slots=True)
class _BlankElement:
    tag: int
    vr: str
    keyword: str


@dataclass(frozen=True, slots=True)
class _SequenceWithBlanks:
    """A sequence with a blank at any depth."""

    tag: int
    items: list[list[_TemplatePart]]


_TemplatePart = bytes | _BlankElement | _SequenceWithBlanks


def _compile_parts(dataset: Dataset, blanks: frozenset[str]) -> list[_TemplatePart]:
    return [_compile_part(element, blanks) for element in dataset]


def _compile_part(element: DataElement, blanks: frozenset[str]) -> _TemplatePart:
    if element.keyword in blanks:
        return _BlankElement(int(element.tag), element.VR, element.keyword)
    if element.VR == "SQ":
        items = [_compile_parts(below, blanks) for below in element.value]
        if any(not isinstance(part, bytes) for parts in items for part in parts):
            return _SequenceWithBlanks(int(element.tag), items)
    stream = _create_stream()
    write_data_element(stream, element, UTF_8)
    return stream.getvalue()


def _fill_parts(parts: list[_TemplatePart], values: Mapping[str, Any]) -> bytes:
    encoded = []
    for part in parts:
        if isinstance(part, _BlankElement):
            part = _encode_element(part.tag, part.vr, encode_value(part.vr, values[part.keyword]))
        elif isinstance(part, _SequenceWithBlanks):
            part = encode_sequence(part.tag, (encode_item(_fill_parts(below, values)) for below in part.items))
        encoded.append(part)
    return b"".join(encoded)


def _encode_element(tag: int, vr: str, content: bytes) -> bytes:
    length = struct.pack("<2xL" if vr in LONG_LENGTH_VRS else "<H", len(content))
    return b"".join((struct.pack("<HH", BaseTag(tag).group, BaseTag(tag).element), vr.encode(), length, content))


def _create_stream() -> DicomBytesIO:
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    return stream
