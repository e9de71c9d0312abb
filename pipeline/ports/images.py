"""Stored files to what a scorer looks at, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable


@dataclass(frozen=True, slots=True)
class Window:
    """Which stored values are black and white (black may be the larger); what lies between is grey in proportion.

    Those from the first to the last of `padding` are black, wherever they lie.
    """

    black: float
    white: float
    padding: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WindowedPixelData:
    """Stored values [H, W], integers as the detector gave them, and the window that makes the image of them."""

    stored: npt.NDArray[Any]
    window: Window


class SliceableImage(Protocol):
    """An image of which rows are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Image: ...


class DeferredImage(SliceableImage, Protocol):
    """An image that is made of stored values when rows of it are asked for.

    Of what only weighs and sums, as a resize does, it gives the values before they become greys: `levelled` makes them so after.
    """

    @property
    def clipped(self) -> SliceableImage: ...

    @property
    def windowed(self) -> WindowedPixelData | None:
        """The stored values themselves, where a window is all that stands between them and the image."""

    def normalised(self, values: Image, /) -> Image:
        """Bring values to 0..1, in place."""


DecoderTransform = Callable[[Image | DeferredImage], Image | WindowedPixelData]
"""What a scorer looks at of an image. It goes to other processes, and may raise whatever it likes."""


def read_whole_image(image: Image | DeferredImage) -> Image:
    """See all of it."""
    return image[:]


ModelInput = Any
"""That, where the scorer wants it: what it is, only the scorer knows."""

DeviceTransfer = Callable[[Image | WindowedPixelData], ModelInput]
"""Takes what a sight gave to where the scorer wants it, on any thread. The arrays that it is given last as long as the call."""


def copy_to_host(decoded: Image | WindowedPixelData, /) -> Image | WindowedPixelData:
    """Land in memory of its own."""
    return replace(decoded, stored=np.array(decoded.stored)) if isinstance(decoded, WindowedPixelData) else np.array(decoded)


class ImageReader(Protocol):
    """Stored bytes to an image."""

    def read(self, instance: StoredInstance) -> Image:
        """Decode and render. PixelsUnreadable where no image can be made of it."""

    def read_ahead(
        self, instances: Sequence[StoredInstance], transform: DecoderTransform, to_device: DeviceTransfer = copy_to_host
    ) -> Iterator[ModelInput | PixelsUnreadable]:
        """Yield of each, in order, what `sight` makes of its image, landed, or why there is none.

        Later ones may be decoded, and land, meanwhile.
        """
