"""Values of elements as senders write them: an element whose value cannot be read counts as absent (wrong VR, VM or length)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

WORD_BITS = 16
"""Bits of a value of VR US or SS."""


def get_integer(dataset: Dataset, keyword: str) -> int | None:
    """Return the first value as an integer, or None."""
    values = get_decimals(dataset, keyword)
    number = values[0] if values else None
    return int(number) if number is not None and number.is_integer() else None


def get_decimals(dataset: Dataset, keyword: str) -> list[float | None]:
    """Return the values of an element as finite numbers, with None for each value that is none."""
    return [_parse_decimal(value) for value in _list_values(dataset, keyword)]


def get_text(dataset: Dataset, keyword: str) -> str:
    """Return the first value in capitals, without padding; "" where there is none."""
    values = _list_values(dataset, keyword)
    return str(values[0]).replace("\0", " ").strip().upper() if values else ""


def get_items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence."""
    return [item for item in _list_values(dataset, keyword) if isinstance(item, Dataset)]


def get_binary(dataset: Dataset, keyword: str) -> tuple[bytes, str]:
    """Return the encoded value of a binary element, in the byte order of its file, and its VR; b"" where there is none."""
    tag = Tag(keyword)
    if tag not in dataset:
        return b"", ""
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        return bytes(element.value or b""), element.VR or ""
    value = element.value
    if isinstance(value, bytes | bytearray):
        return bytes(value), element.VR
    order = "<u2" if is_little_endian(dataset) else ">u2"
    words = value if isinstance(value, Sequence) else [] if value is None else [value]
    return (np.array(words, dtype=np.int64) & 0xFFFF).astype(order).tobytes(), element.VR


def is_little_endian(dataset: Dataset) -> bool:
    """Tell the byte order of a data set's file. A data set that was never encoded counts as little endian."""
    return dataset.original_encoding[1] is not False


def decode_sign(value: int, *, signed: bool, bits: int = WORD_BITS) -> int:
    """Return a value of VR US or SS by the sign that Pixel Representation states, whichever of the two VRs was written.

    `bits`: of a stored value, which some senders take for the width of this one too.
    """
    if not -(1 << WORD_BITS - 1) <= value < 1 << WORD_BITS:
        return value
    word = value & 0xFFFF
    if not signed:
        return word
    number = word - (1 << WORD_BITS) if word >> (WORD_BITS - 1) else word
    return number - (1 << bits) if 1 << (bits - 1) <= number < 1 << bits else number


def _list_values(dataset: Dataset, keyword: str) -> list[Any]:
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises exceptions of any type for a value that breaks its VR
        return []
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) or _is_sequence(value) else [value]


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _parse_decimal(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type] # of whatever type pydicom gave it
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
