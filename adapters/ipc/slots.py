"""A limit that several processes share: slots in a file, each a byte that its holder locks (fcntl(2), advisory record locks).

The kernel releases a slot when the process that holds it ends, whatever ended it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from pipeline.errors import FatalError


class SharedSlots:
    """`count` slots for all processes that open the same file. Not to be carried over a fork; safe for threads."""

    def __init__(self, path: Path, count: int) -> None:
        """Open the file, or create it. FatalError where its permissions forbid that."""
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise FatalError(f"{path} cannot be opened: {error.strerror}", hint="make it writable for radclipd") from error
        self._free = set(range(count))  # in this process: a record lock never conflicts with another lock of its own process
        self._lock = threading.Lock()

    def acquire(self) -> int | None:
        """Return the number of a free slot, now held; None where all are held."""
        with self._lock:
            for slot in sorted(self._free):
                if self._try_lock(slot):
                    self._free.remove(slot)
                    return slot
        return None

    def _try_lock(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, slot: int) -> None:
        """Release a slot."""
        with self._lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)
            self._free.add(slot)
