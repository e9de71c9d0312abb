"""The parent-death signal: a child process ends when its parent ends, whatever ended the parent (prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # prctl(2)

_prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec nothing may take a lock


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, of this process id, ends. SIGINT of a terminal is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not _set_death_signal(parent):
        sys.exit()


def outlive_parent() -> None:
    """Withdraw the request for a signal at the parent's end."""
    _prctl(PR_SET_PDEATHSIG, 0)


def death_signal_setter(parent: int) -> Callable[[], None]:
    """Return the function that a child of the process `parent` calls between fork and exec: `die_with_parent` without any lock.

    Other threads of the parent may hold locks at the fork, and the child's copies of them are never released.
    """

    def set_or_exit() -> None:
        if not _set_death_signal(parent):
            os._exit(1)

    return set_or_exit


def _set_death_signal(parent: int) -> bool:
    """Ask for SIGKILL at the parent's end. False where the parent ended before the request.

    SIGKILL, for a stopped or wedged child would not heed another signal. Nothing is lost: every step is durable or leased.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent
