"""What the learn worker and its ranks say to each other: words as JSON, and arrays in memory that has no name.

The kernel frees such memory with the last process that holds it, however that ends, so nothing of a round is ever left on a disk.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MessageFields = dict[str, Any]
NamedArrays = dict[str, npt.NDArray[Any]]

_MAX_MESSAGE_BYTES = 1 << 16  # bytes of the words of one message
_ALIGNMENT_BYTES = 64  # bytes


class ChannelClosed(Exception):
    """The other end has closed the line, or has ended."""


@dataclass(frozen=True)
class SharedArrays:
    """Arrays in a piece of memory. `contents`: of each name, kind of number, shape and place, JSON-able."""

    descriptor: int
    layout: tuple[tuple[str, str, tuple[int, ...], int], ...]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> SharedArrays:
        """Copy arrays into new memory. OSError where there is not enough."""
        descriptor, contents = os.memfd_create("radclipd-learning"), []
        with open(descriptor, "wb", closefd=False) as memory:
            for name, array in arrays.items():
                memory.seek(-memory.tell() % _ALIGNMENT_BYTES, os.SEEK_CUR)
                contents.append((name, array.dtype.str, array.shape, memory.tell()))
                memory.write(np.ascontiguousarray(array).data.cast("B"))
        return cls(descriptor, tuple(contents))

    def map_arrays(self) -> NamedArrays:
        """Return the arrays as they lie in the memory, which lasts as long as any of them. What is written to one stays here."""
        memory = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)
        return {
            name: np.frombuffer(memory, np.dtype(kind), count=int(np.prod(shape)), offset=place).reshape(shape)
            for name, kind, shape, place in self.layout
        }

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self.descriptor)


class Channel:
    """One end of a connection. Messages come whole and in order."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """Connect. OSError where nobody listens."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(str(path))
        return cls(end)

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable when there is something to hear."""
        return self._end.fileno()

    def send(self, fields: MessageFields, arrays: SharedArrays | None = None) -> None:
        """Send. Gone."""
        enclosed = [arrays.descriptor] if arrays is not None else []
        message = fields | ({"enclosed": arrays.layout} if arrays is not None else {})
        try:
            socket.send_fds(self._end, [json.dumps(message).encode()], enclosed)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed from error

    def receive(self) -> tuple[MessageFields, NamedArrays]:
        """Wait for a message, and return its words and what was enclosed. Gone."""
        try:
            received, descriptors, _, _ = socket.recv_fds(self._end, _MAX_MESSAGE_BYTES, 1)
        except ConnectionResetError:  # told once, of an end that closed unread, and before what that end had said last
            received, descriptors, _, _ = socket.recv_fds(self._end, _MAX_MESSAGE_BYTES, 1)
        if not received:
            raise ChannelClosed
        words = json.loads(received)
        if not descriptors:
            return words, {}
        contents = tuple((name, kind, tuple(shape), place) for name, kind, shape, place in words.pop("enclosed"))
        with closing(SharedArrays(descriptors[0], contents)) as parcel:
            return words, parcel.map_arrays()

    def shutdown_and_wait(self, seconds: float) -> None:
        """Say that nothing more comes, and wait for the other end to close or end, at most so long; then let go."""
        with suppress(OSError), closing(self._end):  # of which a TimeoutError is one
            self._end.shutdown(socket.SHUT_WR)
            self._end.settimeout(seconds)
            with suppress(ChannelClosed):
                while True:
                    self.receive()

    def close(self) -> None:
        """End the connection."""
        self._end.close()
