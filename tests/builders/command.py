"""`radclipd` as it is typed: a process for each command line, on one catalog."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
Radclipd = Callable[..., subprocess.CompletedProcess[str]]
"""Runs the verb and the arguments that it is given."""


def radclipd_on(url: str) -> Radclipd:
    """Return what runs verbs on the catalog at this URL, all else as in deploy/radclipd.toml."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "adapters.cli", *arguments],
            cwd=ROOT,
            env={**os.environ, "RADCLIPD_CATALOG__URL": url, "RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run
