"""Exit codes of every process of radclipd (sysexits.h beyond 2)."""

from __future__ import annotations

import os

from pipeline.errors import FatalError, RadclipdError, TransientError

FAILED = 1
"""Refused or failed."""
USAGE = 2
"""The command line is wrong."""
TRY_AGAIN = os.EX_TEMPFAIL  # 75
"""Failed for now: a later attempt may succeed."""
CANNOT_START = os.EX_CONFIG  # 78
"""Starting again would fail again: the supervisor and systemd do not restart."""


def exit_code_of(error: RadclipdError) -> int:
    """Return the exit code of a process that ends with this error."""
    if isinstance(error, FatalError):
        return CANNOT_START
    return TRY_AGAIN if isinstance(error, TransientError) else FAILED
