"""Stored files to model inputs, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable

ModelInput = Any
"""Input of one scorer. Its type is known to that scorer alone."""


class InputTransform(Protocol):
    """Image -> model input. Two steps, since another process may decode the file: the port names both and knows neither's types."""

    @property
    def decoder_transform(self) -> Callable[[Any], Any]:
        """First step, where the file is decoded. Picklable; may raise any exception."""

    def to_device(self, decoded: Any, /) -> ModelInput:
        """Second step, in the process of the scorer, on any thread. The arrays of `decoded` are valid during the call only."""


class ImageReader(Protocol):
    """Stored bytes to an image."""

    def read(self, instance: StoredInstance) -> Image:
        """Decode and render. PixelsUnreadable where the file holds no image."""

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        """Yield the model input of each instance, in order, or the reason why there is none.

        Later instances may be decoded and transformed meanwhile.
        """
