"""The antialiased resize of torch and Pillow, as products with banded matrices over bands of source rows.

An image of 2560 x 2048 pixels is reduced to 224 in a third of torch's time, and the steps before the resize (from stored bits to
grey) can run band by band, within the processor's cache. No torch: decoding processes do not load it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Interpolation = Literal["bicubic", "bilinear"]

_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
_KEYS_A = -0.5  # of Keys' kernel, as in antialiased resizes
_BAND_ROWS = 4
"""Result rows per product: more rows would multiply more zeros."""
_BANDS_PER_READ = 2
"""Bands read at once, some 140 rows of a large image, which fit the second-level cache."""

Matrix = npt.NDArray[np.float32]

_SINGLE_THREAD_MULTIPLICATIONS = 1 << 18
"""Largest product that OpenBLAS computes on one thread, multiplications."""
_CACHE_LINE_COLUMNS = 64
"""Columns of a cache line: chunks are multiples of it."""


class ResizableRows(Protocol):
    """An image read by rows, float32 [rows, W]: an array, or an object that computes rows when they are read."""

    @property
    def shape(self) -> tuple[Any, ...]: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[np.float32]: ...


class ResizeWindow(Protocol):
    """Stored values that are black and white. Values from the first to the last of `padding` are black."""

    @property
    def black(self) -> float: ...

    @property
    def white(self) -> float: ...

    @property
    def padding(self) -> tuple[int, int] | None: ...


class ResizeWindowedValues(Protocol):
    """Stored integers [H, W] and the window that maps them to greys."""

    @property
    def stored(self) -> npt.NDArray[Any]: ...

    @property
    def window(self) -> ResizeWindow: ...


class ResizableImage(Protocol):
    """An image computed from stored values. A linear operation may run on the rows of `clipped`; `normalised` maps its result to
    greys, in place.

    `windowed`: the stored values, where a window alone makes the image of them.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def clipped(self) -> ResizableRows: ...

    @property
    def windowed(self) -> ResizeWindowedValues | None: ...

    def normalised(self, values: Matrix, /) -> Matrix: ...


def resize_image(image: ResizableRows, height: int, width: int, interpolation: Interpolation) -> Matrix:
    """Return float32 [height, width] of an image [H, W]. Bicubic overshoots at edges; non-finite pixels stay non-finite."""
    tall, wide = image.shape
    if (tall, wide) == (height, width):
        return np.array(image[:], dtype=np.float32)  # weights of 1 and 0
    narrow, found = np.empty((height, wide), dtype=np.float32), np.empty((height, width), dtype=np.float32)
    down = _build_bands(tall, height, interpolation)
    for some in (down[first : first + _BANDS_PER_READ] for first in range(0, len(down), _BANDS_PER_READ)):
        top = some[0].low
        rows = image[top : some[-1].high]
        for band in some:
            _multiply_in_chunks(band.matrix, rows[band.low - top : band.high - top], narrow[band.first : band.last])
    for band in _build_bands(wide, width, interpolation):
        _multiply_in_chunks(band.matrix, narrow[:, band.low : band.high].T, found[:, band.first : band.last].T)
    return found


def resize_matrix(source: int, target: int, interpolation: Interpolation) -> Matrix:
    """Return float32 [target, source], the dense matrix that resizes a column of an image by one product."""
    whole = np.zeros((target, source), dtype=np.float32)
    for band in _build_bands(source, target, interpolation):
        whole[band.first : band.last, band.low : band.high] = band.matrix
    return whole


def _multiply_in_chunks(matrix: Matrix, columns: Matrix, result: Matrix) -> None:
    """Write matrix @ columns in chunks small enough for one BLAS thread: more threads would spin on busy processors."""
    some = max(_CACHE_LINE_COLUMNS, _SINGLE_THREAD_MULTIPLICATIONS // matrix.size // _CACHE_LINE_COLUMNS * _CACHE_LINE_COLUMNS)
    for first in range(0, columns.shape[1], some):
        np.matmul(matrix, columns[:, first : first + some], out=result[:, first : first + some])


@dataclass(frozen=True, slots=True)
class _ResizeBand:
    """Matrix from rows `low` to `high` of the source to rows `first` to `last` of the result."""

    first: int
    last: int
    low: int
    high: int
    matrix: Matrix


@lru_cache(maxsize=32)
def _build_bands(source: int, target: int, interpolation: Interpolation) -> list[_ResizeBand]:
    rows = [_compute_weights(row, source, target, interpolation) for row in range(target)]
    bands = []
    for first in range(0, target, _BAND_ROWS):
        some = rows[first : first + _BAND_ROWS]
        low, high = some[0][0], some[-1][0] + len(some[-1][1])
        matrix = np.zeros((len(some), high - low), dtype=np.float32)
        for row, (start, weights) in zip(matrix, some, strict=True):
            row[start - low : start - low + len(weights)] = weights
        bands.append(_ResizeBand(first, first + len(some), low, high, matrix))
    return bands


def _compute_weights(row: int, source: int, target: int, interpolation: Interpolation) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the first source pixel of a result pixel, and the weights, of sum 1, of it and the following ones.

    The kernel is stretched by the scale, so that it covers all source pixels of the result pixel.
    """
    scale = source / target
    stretch, centre = max(scale, 1.0), scale * (row + 0.5)
    support = _SUPPORT[interpolation] * stretch
    low, high = max(0, int(centre - support + 0.5)), min(source, int(centre + support + 0.5))
    weights = _evaluate_kernel(np.abs(np.arange(low, high) + 0.5 - centre) / stretch, interpolation)
    return low, weights / weights.sum()


def _evaluate_kernel(x: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    """Evaluate the kernel at x >= 0: Keys 1981 for bicubic, the triangle for bilinear."""
    if interpolation == "bilinear":
        return np.clip(1 - x, 0, None)
    near, far = ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1, ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
