"""A wake-up for a thread that sleeps in poll(2) or select(2)."""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class EventFd:
    """A Linux event descriptor (eventfd(2)) that wakes the thread polling it."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # the number of a closed descriptor may be reused at once

    def signal(self) -> None:
        """Wake the thread; one that is not asleep returns at once from its next poll."""
        with self._lock:
            if self.descriptor >= 0:
                os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        """Reset the descriptor."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def close(self) -> None:
        """Close the descriptor; later signals have no effect."""
        with self._lock:
            if self.descriptor >= 0:
                os.close(self.descriptor)
            self.descriptor = -1
