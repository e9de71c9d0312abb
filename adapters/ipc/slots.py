"""A limit that several processes share: so many places in a file, each a byte locked by whoever holds it.

The kernel gives a place back when the process that holds it ends, however it ends (fcntl(2), advisory record locks).
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from pipeline.errors import FatalError


class SharedSlots:
    """`count` places for all processes that name the same file. Not to be carried over a fork; safe for threads."""

    def __init__(self, path: Path, count: int) -> None:
        """Open the file, made where there is none. FatalError where that is not allowed."""
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise FatalError(f"{path} cannot be opened: {error.strerror}", hint="make it writable for radclipd") from error
        self._free = set(range(count))  # as far as this process is concerned: a process never waits for its own locks
        self._lock = threading.Lock()

    def acquire(self) -> int | None:
        """Return a place, or None where all are taken."""
        with self._lock:
            for place in sorted(self._free):
                if self._try_lock(place):
                    self._free.remove(place)
                    return place
        return None

    def _try_lock(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, slot: int) -> None:
        """Give a place back."""
        with self._lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)
            self._free.add(slot)
