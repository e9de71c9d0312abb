"""PALETTE COLOR (PS3.3 C.7.6.3.1.5): stored values are places in three tables, not greys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from adapters.dicom.image.element_values import get_binary, get_integer, is_little_endian
from adapters.dicom.image.image_file import PALETTE_COLOURS
from adapters.dicom.image.lookup_table import DESCRIPTOR_BYTES, LookupTable, build_lookup_table, read_lookup_table
from adapters.dicom.image.segmented_table import expand_segments
from pipeline.domain import Image
from pipeline.errors import PixelsUnreadable

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def apply_palette(stored: npt.NDArray[Any], dataset: Dataset) -> Image:
    """Return the luminance in 0..1 of stored values [H, W]. PixelsUnreadable without a palette, and for one that is damaged."""
    tables = [_read_palette(dataset, colour) for colour in PALETTE_COLOURS]
    full_scale = max((table.full_scale for table in tables if table is not None), default=1.0)
    luminance = np.zeros(stored.shape, dtype=np.float32)
    signed = get_integer(dataset, "PixelRepresentation") == 1
    for table, weight in zip(tables, LUMINANCE, strict=True):
        if table is None:
            raise PixelsUnreadable("a colour palette is missing", hint=_HINT)
        luminance += table.look_up(stored, signed=signed) * (weight / np.float32(full_scale))
    return np.clip(luminance, 0, 1, out=luminance)


def _read_palette(dataset: Dataset, colour: str) -> LookupTable | None:
    """Return the table of a colour, plain or in segments; None without one."""
    little_endian, descriptor = is_little_endian(dataset), f"{colour}PaletteColorLookupTableDescriptor"
    plain = read_lookup_table(
        dataset, little_endian=little_endian, descriptor=descriptor, data=f"{colour}PaletteColorLookupTableData"
    )
    described, _ = get_binary(dataset, descriptor)
    content, vr = get_binary(dataset, f"Segmented{colour}PaletteColorLookupTableData")
    if plain is not None or len(described) < DESCRIPTOR_BYTES or not content:
        return plain
    bits = int.from_bytes(described[4:DESCRIPTOR_BYTES], "little" if little_endian else "big")
    try:
        entries = expand_segments(content, bits=bits, little_endian=little_endian or vr == "OB")
    except ValueError as error:
        raise PixelsUnreadable(f"a colour palette in segments is damaged: {error}", hint=_HINT) from error
    return build_lookup_table(entries, described, little_endian=little_endian)


_HINT = "let the sender send it as MONOCHROME2"
