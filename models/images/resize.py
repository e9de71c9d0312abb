"""The antialiased resize that torch and Pillow do, as products with banded matrices, reading its source a band of rows at a time.

A film of 2560 x 2048 pixels is shrunk to 224 in a third of torch's time, and what lies before the resize (from stored bits to
grey) can be done band by band, while a band is in the processor's cache. No torch: processes that only decode need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Interpolation = Literal["bicubic", "bilinear"]

_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
_KEYS_A = -0.5  # of Keys' kernel, as antialiasing resizes have it
_BAND_ROWS = 4
"""Rows of the result that one product makes: more would be multiplied by more zeros."""
_BANDS_PER_READ = 2
"""Whose sources are asked for at once, some 140 rows of a large film: they stay in the second-level cache."""

Matrix = npt.NDArray[np.float32]

_SINGLE_THREAD_MULTIPLICATIONS = 1 << 18
"""Multiplications of a product up to which OpenBLAS keeps to one thread."""
_CACHE_LINE_COLUMNS = 64
"""Columns: a product of so many, or a multiple, begins and ends with a line of the processor's cache."""


class ResizableRows(Protocol):
    """An image of which rows are asked for, as float32 [rows, W]: an array, or what makes them when asked."""

    @property
    def shape(self) -> tuple[Any, ...]: ...

    def __getitem__(self, rows: slice, /) -> npt.NDArray[np.float32]: ...


class ResizeWindow(Protocol):
    """Which stored values are black and white. Those from the first to the last of `padding` are black, wherever they lie."""

    @property
    def black(self) -> float: ...

    @property
    def white(self) -> float: ...

    @property
    def padding(self) -> tuple[int, int] | None: ...


class ResizeWindowedValues(Protocol):
    """Integers [H, W], and the window that makes greys of them."""

    @property
    def stored(self) -> npt.NDArray[Any]: ...

    @property
    def window(self) -> ResizeWindow: ...


class ResizableImage(Protocol):
    """An image of stored values: rows of those that may be weighed and summed, and what makes greys of the sums, in place.

    `windowed`: the stored values themselves, where a window is all that it takes.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def clipped(self) -> ResizableRows: ...

    @property
    def windowed(self) -> ResizeWindowedValues | None: ...

    def normalised(self, values: Matrix, /) -> Matrix: ...


def resize_image(image: ResizableRows, height: int, width: int, interpolation: Interpolation) -> Matrix:
    """Return float32 [height, width] of an image [H, W]. Bicubic overshoots at edges; what is not finite stays so."""
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
    """Return float32 [target, source], which resizes a column of an image by one product, zeros and all."""
    whole = np.zeros((target, source), dtype=np.float32)
    for band in _build_bands(source, target, interpolation):
        whole[band.first : band.last, band.low : band.high] = band.matrix
    return whole


def _multiply_in_chunks(matrix: Matrix, columns: Matrix, result: Matrix) -> None:
    """Write matrix @ columns, so many at a time that BLAS keeps to one thread: others would spin where processors are busy."""
    some = max(_CACHE_LINE_COLUMNS, _SINGLE_THREAD_MULTIPLICATIONS // matrix.size // _CACHE_LINE_COLUMNS * _CACHE_LINE_COLUMNS)
    for first in range(0, columns.shape[1], some):
        np.matmul(matrix, columns[:, first : first + some], out=result[:, first : first + some])


@dataclass(frozen=True, slots=True)
class _ResizeBand:
    """Rows `first` to `last` of the result, those from `low` to `high` of the source, and the matrix from these to those."""

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
    """First pixel of the source that a pixel of the result is made of, and the weights, which sum to 1, of it and the next ones.

    The kernel is stretched over all that a pixel of the result stands for.
    """
    scale = source / target
    stretch, centre = max(scale, 1.0), scale * (row + 0.5)
    support = _SUPPORT[interpolation] * stretch
    low, high = max(0, int(centre - support + 0.5)), min(source, int(centre + support + 0.5))
    weights = _evaluate_kernel(np.abs(np.arange(low, high) + 0.5 - centre) / stretch, interpolation)
    return low, weights / weights.sum()


def _evaluate_kernel(x: npt.NDArray[np.float64], interpolation: Interpolation) -> npt.NDArray[np.float64]:
    """Keys 1981 for bicubic, the triangle for bilinear; x is not negative."""
    if interpolation == "bilinear":
        return np.clip(1 - x, 0, None)
    near, far = ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1, ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
