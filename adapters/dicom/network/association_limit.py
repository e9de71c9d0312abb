"""The limit on open associations: above it, requestors wait in the order of their arrival."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

from pynetdicom.association import Association

POLL_SECONDS = 0.1
"""A slot may become free without notice: in another process, or by an association that died."""


class AssociationSlots(Protocol):
    """A fixed number of slots, possibly shared with other processes."""

    def acquire(self) -> int | None:
        """Return a slot, or None where none is free."""

    def release(self, slot: int) -> None:
        """Return a slot to the free ones."""


class ProcessSlots:
    """The slots of one process."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))

    def acquire(self) -> int | None:
        return self._free.pop() if self._free else None

    def release(self, slot: int) -> None:
        self._free.append(slot)


class AssociationLimit:
    """A queue of associations in front of the slots: first come, first served."""

    def __init__(self, slots: AssociationSlots) -> None:
        self._slots = slots
        self._held: dict[Association, int] = {}
        self._queue: deque[Association] = deque()
        self._changed = threading.Condition()

    def acquire(self, association: Association) -> float:
        """Wait for a slot; return the time waited, seconds."""
        begun = time.monotonic()
        with self._changed:
            self._queue.append(association)
            while (slot := self._try_acquire_slot(association)) is None:
                self._changed.wait(POLL_SECONDS)
            self._queue.popleft()
            self._held[association] = slot
            self._changed.notify_all()
        return time.monotonic() - begun

    def _try_acquire_slot(self, association: Association) -> int | None:
        if self._queue[0] is not association:
            return None
        for dead in [holder for holder in self._held if not holder.is_alive()]:
            self._slots.release(self._held.pop(dead))
        return self._slots.acquire()

    def release(self, association: Association) -> None:
        """Release the slot of the association, if it holds one."""
        with self._changed:
            slot = self._held.pop(association, None)
            if slot is not None:
                self._slots.release(slot)
            self._changed.notify_all()
