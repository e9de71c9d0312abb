"""So many associations at once, and no more; who comes later waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Protocol

from pynetdicom.association import Association

LOOK_AGAIN_SECONDS = 0.1
"""A place may come free in another process, or by an association that died without a word."""


class Places(Protocol):
    """So many places, perhaps shared with other processes."""

    def take(self) -> int | None:
        """Return a place, or None where all are taken."""

    def give(self, place: int) -> None:
        """Give a place back."""


class OwnPlaces:
    """The places of one process."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))

    def take(self) -> int | None:
        return self._free.pop() if self._free else None

    def give(self, place: int) -> None:
        self._free.append(place)


class Waiting:
    """Associations get places in the order in which they came."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._held: dict[Association, int] = {}
        self._queue: deque[Association] = deque()
        self._changed = threading.Condition()

    def take(self, association: Association) -> float:
        """Wait for a place; return how long, seconds."""
        begun = time.monotonic()
        with self._changed:
            self._queue.append(association)
            while (place := self._place_for(association)) is None:
                self._changed.wait(LOOK_AGAIN_SECONDS)
            self._queue.popleft()
            self._held[association] = place
            self._changed.notify_all()
        return time.monotonic() - begun

    def _place_for(self, association: Association) -> int | None:
        if self._queue[0] is not association:
            return None
        for dead in [one for one in self._held if not one.is_alive()]:
            self._places.give(self._held.pop(dead))
        return self._places.take()

    def give(self, association: Association) -> None:
        """Give the place back."""
        with self._changed:
            place = self._held.pop(association, None)
            if place is not None:
                self._places.give(place)
            self._changed.notify_all()
