"""A limit that several processes share: slots in a file, each a byte that its holder locks (fcntl(2), advisory record locks).

The file's content names the owner of each slot. The kernel releases a slot when the process that holds it ends, whatever ended it.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import FatalError

OWNER_BYTES = 128
"""Length of an owner in the file, padded with NUL."""
EXCLUSION_OFFSET = 1 << 32
"""The byte whose lock excludes other processes: behind every slot."""


class SharedSlots:
    """`count` slots for all processes that open the same file. Not to be carried over a fork; safe for threads."""

    def __init__(self, path: Path, count: int) -> None:
        """Open the file, or create it. FatalError where its permissions forbid that."""
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise FatalError(f"{path} cannot be opened: {error.strerror}", hint="make it writable for radclipd") from error
        with suppress(OSError):  # a full disk: slots without their owners are slots all the same
            os.posix_fallocate(self._descriptor, 0, count * OWNER_BYTES)
        self._count = count
        self._held: dict[int, str] = {}  # in this process: a record lock never conflicts with another lock of its own process
        self._lock = threading.Lock()

    @contextmanager
    def exclude_others(self) -> Iterator[None]:
        """Let no other process that does the same acquire a slot within the block."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, EXCLUSION_OFFSET)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, EXCLUSION_OFFSET)

    def owners(self) -> Sequence[str]:
        """Return the owner of each slot that is held in any process. A process that has ended leaves its owners, but no lock."""
        with self._lock:
            content = os.pread(self._descriptor, self._count * OWNER_BYTES, 0)
            named = {slot: _cut_owner(content, slot) for slot in range(self._count) if slot not in self._held}
            return [*self._held.values(), *(owner for slot, owner in named.items() if owner and self._is_held_elsewhere(slot))]

    def _is_held_elsewhere(self, slot: int) -> bool:
        if not self._try_lock(slot):
            return True
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)
        return False

    def acquire(self, owner: str) -> int | None:
        """Return the number of a free slot, now held by the owner; None where all are held."""
        with self._lock:
            for slot in range(self._count):
                if slot not in self._held and self._try_lock(slot):
                    self._held[slot] = owner
                    self._write_owner(slot, owner)
                    return slot
        return None

    def _try_lock(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _write_owner(self, slot: int, owner: str) -> None:
        with suppress(OSError):  # a full disk that has no room for the file: see above
            os.pwrite(self._descriptor, owner.encode()[:OWNER_BYTES].ljust(OWNER_BYTES, b"\0"), slot * OWNER_BYTES)

    def release(self, slot: int) -> None:
        """Release a slot."""
        with self._lock:
            self._write_owner(slot, "")
            del self._held[slot]
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)


def _cut_owner(content: bytes, slot: int) -> str:
    return content[slot * OWNER_BYTES : (slot + 1) * OWNER_BYTES].rstrip(b"\0").decode(errors="replace")
