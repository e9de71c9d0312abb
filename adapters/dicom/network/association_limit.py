"""So many associations at once, and no more; who comes later waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

from pynetdicom.association import Association

POLL_SECONDS = 0.1
"""A place may come free in another process, or by an association that died without a word."""


class AssociationSlots(Protocol):
    """So many places, perhaps shared with other processes."""

    def acquire(self) -> int | None:
        """Return a place, or None where all are taken."""

    def release(self, slot: int) -> None:
        """Give a place back."""


class ProcessSlots:
    """The places of one process."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))

    def acquire(self) -> int | None:
        return self._free.pop() if self._free else None

    def release(self, slot: int) -> None:
        self._free.append(slot)


class AssociationLimit:
    """Associations get places in the order in which they came."""

    def __init__(self, slots: AssociationSlots) -> None:
        self._places = slots
        self._held: dict[Association, int] = {}
        self._queue: deque[Association] = deque()
        self._changed = threading.Condition()

    def acquire(self, association: Association) -> float:
        """Wait for a place; return how long, seconds."""
        begun = time.monotonic()
        with self._changed:
            self._queue.append(association)
            while (place := self._try_acquire_slot(association)) is None:
                self._changed.wait(POLL_SECONDS)
            self._queue.popleft()
            self._held[association] = place
            self._changed.notify_all()
        return time.monotonic() - begun

    def _try_acquire_slot(self, association: Association) -> int | None:
        if self._queue[0] is not association:
            return None
        for dead in [one for one in self._held if not one.is_alive()]:
            self._places.release(self._held.pop(dead))
        return self._places.acquire()

    def release(self, association: Association) -> None:
        """Give the place back."""
        with self._changed:
            place = self._held.pop(association, None)
            if place is not None:
                self._places.release(place)
            self._changed.notify_all()
