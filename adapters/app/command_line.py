"""The command line of this radclipd, for the processes that it starts."""

from __future__ import annotations

import sys
from pathlib import Path


def command_line(path: Path | None) -> list[str]:
    """Return the start of a command line that runs a verb of this radclipd with this configuration file.

    `-P` keeps the working directory out of the module search path.
    """
    return [sys.executable, "-P", "-m", "adapters.cli", *(["--config", str(path)] if path else [])]
