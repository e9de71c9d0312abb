"""Arrays in anonymous shared memory (memfd_create(2)), handed to another process by descriptor.

The kernel frees the memory with the last process that holds it, however that process ends. Nothing is left on a disk.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
NamedArrays = dict[str, Array]

ALIGNMENT_BYTES = 64
"""Each array begins at a multiple of this offset."""


def create_memory(name: str) -> int:
    """Return the descriptor of new, empty memory. `name` shows in /proc/PID/fd. OSError."""
    return os.memfd_create(f"radclipd-{name}")


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Place and type of one array in shared memory. `dtype`: numpy's string; `offset`: bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def end(self) -> int:
        """Offset of the first byte after the array."""
        return self.offset + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @classmethod
    def write(cls, array: Array, descriptor: int, offset: int = 0) -> Self:
        """Copy an array into the memory, over its former content. OSError where memory is short."""
        content = np.ascontiguousarray(array).data.cast("B")
        written = 0
        while written < len(content):  # by pwrite(2): in mapped memory each page would cost a fault
            written += os.pwrite(descriptor, content[written:], offset + written)
        return cls(array.dtype.str, array.shape, offset)

    def view(self, memory: mmap.mmap) -> Array:
        """Return the array on the mapped memory, without a copy. The mapping lasts as long as the array."""
        return np.frombuffer(memory, np.dtype(self.dtype), count=int(np.prod(self.shape)), offset=self.offset).reshape(self.shape)


@dataclass(frozen=True)
class SharedArrays:
    """Named arrays in one piece of memory."""

    descriptor: int
    layouts: Mapping[str, ArrayLayout]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> SharedArrays:
        """Copy arrays into new memory. OSError where memory is short."""
        descriptor, layouts, end = create_memory("learning"), dict[str, ArrayLayout](), 0
        for name, array in arrays.items():
            layouts[name] = ArrayLayout.write(array, descriptor, end + -end % ALIGNMENT_BYTES)
            end = layouts[name].end
        return cls(descriptor, layouts)

    @classmethod
    def from_message(cls, descriptor: int, fields: Iterable[Any]) -> SharedArrays:
        """Return the arrays of received memory, from the other side's `message_fields`."""
        return cls(descriptor, {name: ArrayLayout(dtype, tuple(shape), offset) for name, dtype, shape, offset in fields})

    def message_fields(self) -> list[Any]:
        """Return the layouts, JSON-able: name, dtype, shape, offset of each array."""
        return [(name, layout.dtype, layout.shape, layout.offset) for name, layout in self.layouts.items()]

    def map_arrays(self) -> NamedArrays:
        """Return the arrays on a private copy-on-write mapping: writes to them stay in this process."""
        memory = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)
        return {name: layout.view(memory) for name, layout in self.layouts.items()}

    def close(self) -> None:
        """Close the descriptor. Mapped arrays stay valid."""
        os.close(self.descriptor)
