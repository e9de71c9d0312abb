"""How an image goes from a process that decodes to the one that asked for it: by memory that both hold, in one copy."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Self

import numpy as np

from adapters.ipc.decoded_image import DecodedImage, Window, WindowedPixelData


@dataclass(frozen=True, slots=True)
class SharedFrame:
    """What lies in the memory. `window`: of stored values; None where it is an image."""

    dtype: str
    shape: tuple[int, ...]
    window: Window | None

    @classmethod
    def write(cls, frame: DecodedImage, memory: int) -> Self:
        """Put it there, in the place of what was there before. `memory`: a descriptor. MemoryError."""
        array, window = (frame.stored, frame.window) if isinstance(frame, WindowedPixelData) else (frame, None)
        if os.pwrite(memory, np.ascontiguousarray(array).data, 0) != array.nbytes:  # mapped, each page would be a fault of its own
            raise MemoryError("no room for the film in shared memory")
        return cls(array.dtype.str, array.shape, window)

    def read(self, memory: int) -> DecodedImage:
        """Return it as it lies there: only to be read, and before the next is put there."""
        count, dtype = int(np.prod(self.shape)), np.dtype(self.dtype)
        shared = mmap.mmap(memory, count * dtype.itemsize, prot=mmap.PROT_READ)  # unmapped with the last array on it
        array = np.frombuffer(shared, dtype).reshape(self.shape)
        return array if self.window is None else WindowedPixelData(array, self.window)
