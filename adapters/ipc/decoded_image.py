"""Types of what leaves a decoding process: an image, or stored values with their window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain import Image


@dataclass(frozen=True, slots=True)
class Window:
    """Stored values that are black and white (black may be the larger); values between them are grey in proportion.

    Values from the first to the last of `padding` are black.
    """

    black: float
    white: float
    padding: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WindowedPixelData:
    """Stored values [H, W], integers of the detector, and the window that makes the image of them."""

    stored: npt.NDArray[Any]
    window: Window


@dataclass(frozen=True, slots=True)
class DecodeFailure:
    """The reason why a decoding process has no image.

    `out_of_memory`: the process has reached its limit. `may_pass`: the image store could not be read, the image may be whole.
    """

    message: str
    hint: str
    out_of_memory: bool = False
    may_pass: bool = False


class SliceableImage(Protocol):
    """An image read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Image: ...


class DeferredImage(SliceableImage, Protocol):
    """An image computed from stored values when its rows are read.

    A linear operation, such as a resize, may run on `clipped` first and bring its smaller result to 0..1 by `normalised`.
    """

    @property
    def clipped(self) -> SliceableImage: ...

    @property
    def windowed(self) -> WindowedPixelData | None:
        """The stored values, where a window alone makes the image of them."""

    def normalised(self, values: Image, /) -> Image:
        """Bring values to 0..1, in place."""


DecodedImage = Image | WindowedPixelData
DecoderTransform = Callable[[Image | DeferredImage], DecodedImage]
"""First step of an `InputTransform`. Picklable; may raise any exception."""


def read_whole_image(image: Image | DeferredImage) -> Image:
    """Return all rows."""
    return image[:]


def copy_to_host(decoded: DecodedImage) -> DecodedImage:
    """Return a copy in memory of its own."""
    return replace(decoded, stored=np.array(decoded.stored)) if isinstance(decoded, WindowedPixelData) else np.array(decoded)


@dataclass(frozen=True, slots=True)
class HostTransform:
    """Implements `InputTransform` for this process's memory: the result of the decoder step, copied."""

    decoder_transform: DecoderTransform = read_whole_image

    def to_device(self, decoded: DecodedImage, /) -> DecodedImage:
        return copy_to_host(decoded)
