"""Stored files to what a scorer looks at, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable


class Rows(Protocol):
    """An image of which rows are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Image: ...


class Film(Rows, Protocol):
    """An image that is made of stored values when rows of it are asked for.

    Of what only weighs and sums, as a resize does, it gives the values before they become greys: `levelled` makes them so after.
    """

    @property
    def clipped(self) -> Rows: ...

    def levelled(self, values: Image, /) -> Image:
        """Bring values to 0..1, in place."""


Sight = Callable[[Image | Film], Image]
"""What a scorer looks at of an image, as an image. It goes to other processes, and may raise whatever it likes."""


class ImageReader(Protocol):
    """Stored bytes to an image."""

    def read(self, instance: StoredInstance) -> Image:
        """Decode and render. PixelsUnreadable where no image can be made of it."""

    def read_ahead(self, instances: Sequence[StoredInstance], sight: Sight) -> Iterator[Image | PixelsUnreadable]:
        """Yield of each, in order, what `sight` makes of its image, or why there is none. Later ones may be decoded meanwhile."""
