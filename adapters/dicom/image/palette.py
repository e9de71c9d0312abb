"""PALETTE COLOR (PS3.3 C.7.6.3.1.5): stored values are places in three tables, not greys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from adapters.dicom.image.element_values import get_integer, is_little_endian
from adapters.dicom.image.image_file import PALETTE_COLOURS
from adapters.dicom.image.lookup_table import read_lookup_table
from pipeline.domain import Image
from pipeline.errors import PixelsUnreadable

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def apply_palette(stored: npt.NDArray[Any], dataset: Dataset) -> Image:
    """Return the luminance in 0..1 of stored values [H, W]. PixelsUnreadable without a palette, and for one in segments."""
    tables = [
        read_lookup_table(
            dataset,
            little_endian=is_little_endian(dataset),
            descriptor=f"{colour}PaletteColorLookupTableDescriptor",
            data=f"{colour}PaletteColorLookupTableData",
        )
        for colour in PALETTE_COLOURS
    ]
    full_scale = max((table.full_scale for table in tables if table is not None), default=1.0)
    luminance = np.zeros(stored.shape, dtype=np.float32)
    signed = get_integer(dataset, "PixelRepresentation") == 1
    for table, weight in zip(tables, LUMINANCE, strict=True):
        if table is None:
            raise PixelsUnreadable("a colour palette is missing, or in segments", hint="let the sender send it as MONOCHROME2")
        luminance += table.look_up(stored, signed=signed) * (weight / np.float32(full_scale))
    return np.clip(luminance, 0, 1, out=luminance)
