"""Segmented palette colour lookup tables (PS3.3 C.7.9.2): discrete, linear and indirect segments -> entries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from adapters.dicom.image.lookup_table import MAX_ENTRIES

DISCRETE, LINEAR, INDIRECT = 0, 1, 2
"""Types of segments."""
BYTE_BITS = 8

Entries = list[int]


def expand_segments(content: bytes, *, bits: int, little_endian: bool) -> npt.NDArray[np.uint16]:
    """Return the entries of a segmented table, at most MAX_ENTRIES. `bits`: of an entry by the descriptor; 8 or fewer are bytes.

    ValueError for data that are no segments.
    """
    words = np.frombuffer(content[: len(content) // 2 * 2], "<u2" if little_endian else ">u2").astype("<u2")
    units = np.frombuffer(words.tobytes(), np.uint8) if bits <= BYTE_BITS else words
    return np.array(_Expansion([int(unit) for unit in units], units.itemsize).run(), dtype=np.uint16)


class _Expansion:
    """The expansion of one table of `units`: bytes, or words of two bytes."""

    def __init__(self, units: Entries, unit_bytes: int) -> None:
        self._units, self._unit_bytes = units, unit_bytes
        self._entries: Entries = []

    def run(self) -> Entries:
        place = 0
        while place + 1 < len(self._units) and len(self._entries) < MAX_ENTRIES:  # a last unit by itself is padding
            place = self._expand_segment(place, is_copied=False)
        return self._entries[:MAX_ENTRIES]

    def _expand_segment(self, place: int, *, is_copied: bool) -> int:
        """Append the entries of the segment at a place; return the place behind it."""
        kind, length = self._read_units(place, 2)
        if kind == DISCRETE:
            self._entries += self._read_units(place + 2, length)
            return place + 2 + length
        if kind == LINEAR:
            (last,) = self._read_units(place + 2, 1)
            self._entries += self._interpolate_line(last, length)
            return place + 3
        if kind != INDIRECT or is_copied:
            raise ValueError("an unknown segment" if kind != INDIRECT else "an indirect segment of an indirect segment")
        parts = 4 // self._unit_bytes
        self._copy_segments(self._read_units(place + 2, parts), length)
        return place + 2 + parts

    def _copy_segments(self, offset: Entries, count: int) -> None:
        """Expand `count` segments again. `offset`: where the first stands, in bytes; the lowest part first."""
        start = sum(part << (8 * self._unit_bytes * index) for index, part in enumerate(offset))
        place, remainder = divmod(start, self._unit_bytes)
        if remainder:
            raise ValueError("an indirect segment that begins within an entry")
        for _ in range(count):
            if len(self._entries) >= MAX_ENTRIES:
                return
            place = self._expand_segment(place, is_copied=True)

    def _interpolate_line(self, last: int, length: int) -> Iterator[int]:
        """Yield `length` entries on the line from the last entry, which is not repeated, to `last`."""
        if not self._entries:
            raise ValueError("a linear segment without an entry before it")
        first = self._entries[-1]
        return (first + round((last - first) * step / length) for step in range(1, length + 1))

    def _read_units(self, place: int, count: int) -> Entries:
        read = self._units[place : place + count]
        if len(read) < count:
            raise ValueError("a segment that is not whole")
        return read
