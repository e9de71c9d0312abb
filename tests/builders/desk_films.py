"""Films whose rendering differs: polarity, windows, lookup tables, signed values, padding, 8 bits, colour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.builders.dicom_files import dx, gradient, lookup_item, pixels

ROWS, COLUMNS, BITS = 300, 260, 12
WINDOW = {"WindowCenter": 2200, "WindowWidth": 2600}


def _build_film(**elements: object) -> Dataset:
    return dx(rows=ROWS, columns=COLUMNS, bits=BITS, **elements)  # type: ignore[arg-type]  # elements of the data set


def _build_table() -> Dataset:
    curve = (np.linspace(0, 1, 4096) ** 1.8 * 65535).astype(np.uint16)
    return _build_film(VOILUTSequence=Sequence([lookup_item(curve, bits=16)]))


def _build_signed() -> Dataset:
    film = _build_film(WindowCenter=-100, WindowWidth=1800, RescaleSlope=0.5, RescaleIntercept=-120)
    values = gradient(ROWS, COLUMNS, BITS).astype(np.int16) - 2048
    film.PixelRepresentation, film.PixelData = 1, values.tobytes()
    return film


def _build_padded() -> Dataset:
    film = _build_film(**WINDOW, PixelPaddingValue=4095)
    values = gradient(ROWS, COLUMNS, BITS)
    values[:, :20] = 4095
    film.PixelData = values.tobytes()
    return film


def _build_eight_bits() -> Dataset:
    film = _build_film()
    pixels(film, gradient(ROWS, COLUMNS, 8), bits=8)
    return film


DESK_FILMS: dict[str, Callable[[], Dataset]] = {
    "window": lambda: _build_film(**WINDOW),
    "no window": _build_film,
    "MONOCHROME1": lambda: _build_film(**WINDOW, PhotometricInterpretation="MONOCHROME1"),
    "VOI LUT Sequence": _build_table,
    "SIGMOID": lambda: _build_film(**WINDOW, VOILUTFunction="SIGMOID"),
    "LINEAR_EXACT": lambda: _build_film(**WINDOW, VOILUTFunction="LINEAR_EXACT"),
    "signed with rescale": _build_signed,
    "padding": _build_padded,
    "8 bits": _build_eight_bits,
}
"""Name -> builder of a data set."""
