"""LUT items (PS3.3 C.11.1, C.11.2, C.7.6.3.1.5) as senders write them: one reader for Modality LUT, VOI LUT and palettes.

What the descriptor says of the table is often wrong, so the table itself decides: how many entries, packed or not, how deep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from adapters.dicom.image.element_values import decode_sign, get_binary

MAX_ENTRIES = 1 << 16
"""Entries where the descriptor says 0 (PS3.3 C.11.2.1.1)."""
DESCRIPTOR_BYTES = 6

FloatValues = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LookupTable:
    """Entries float32 [n] and the input value that the first of them belongs to. `first_signed`: the same, read as signed."""

    entries: FloatValues
    first: int
    first_signed: int
    stated_bits: int

    @property
    def is_ambiguous(self) -> bool:
        """Tell whether the first input value depends on the sign of the values."""
        return self.first != self.first_signed

    @property
    def full_scale(self) -> float:
        """The entry that is white, by the depth of the entries: some senders state 16 bits for entries of 12."""
        largest = int(self.entries.max())
        depth = largest.bit_length()
        return float(largest if depth > self.stated_bits > 0 else max(1, (1 << depth) - 1))

    def look_up(self, values: npt.NDArray[np.generic], *, signed: bool) -> FloatValues:
        """Return the entries of values; values outside the table get its first or last entry."""
        first = self.first_signed if signed else self.first
        index = np.rint(values).astype(np.int64) - first
        return np.asarray(self.entries[np.clip(index, 0, len(self.entries) - 1)], dtype=np.float32)


def read_lookup_table(
    item: Dataset, *, little_endian: bool, descriptor: str = "LUTDescriptor", data: str = "LUTData"
) -> LookupTable | None:
    """Return the table of an item; None where it holds none."""
    described, _ = get_binary(item, descriptor)
    content, vr = get_binary(item, data)
    if len(described) < DESCRIPTOR_BYTES or len(content) == 0:
        return None
    order = "<u2" if little_endian else ">u2"
    count, first, bits = (int(word) for word in np.frombuffer(described[:DESCRIPTOR_BYTES], order))
    entries = _read_entries(content, count or MAX_ENTRIES, order="<u2" if vr == "OB" else order)
    if not len(entries):
        return None
    return LookupTable(entries.astype(np.float32), first, decode_sign(first, signed=True), bits)


def _read_entries(content: bytes, count: int, *, order: str) -> npt.NDArray[np.generic]:
    """Return the entries: words, or bytes where two entries are packed into each word."""
    words = np.frombuffer(content[: len(content) // 2 * 2], order)
    if count <= len(content) <= count + count % 2:
        packed = words.astype("<u2").tobytes() + content[len(words) * 2 :]  # the first entry is in the low byte
        return np.frombuffer(packed, np.uint8)[:count]
    return words[:count]
