"""The image of a decoding process, handed to the process that asked for it through memory that both hold: one copy."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Self

from adapters.ipc.decoded_image import DecodedImage, Window, WindowedPixelData
from adapters.ipc.shared_arrays import ArrayLayout


@dataclass(frozen=True, slots=True)
class SharedFrame:
    """Layout of one frame in the memory. `window`: of stored values; None where the frame is an image."""

    layout: ArrayLayout
    window: Window | None

    @classmethod
    def write(cls, frame: DecodedImage, memory: int) -> Self:
        """Copy a frame into the memory of this descriptor, over the frame before. OSError where memory is short."""
        array, window = (frame.stored, frame.window) if isinstance(frame, WindowedPixelData) else (frame, None)
        return cls(ArrayLayout.write(array, memory), window)

    def read(self, memory: int) -> DecodedImage:
        """Return the frame on the memory of this descriptor: read-only, and valid until the next frame is written."""
        array = self.layout.view(mmap.mmap(memory, self.layout.end, prot=mmap.PROT_READ))  # unmapped with the last array on it
        return array if self.window is None else WindowedPixelData(array, self.window)
