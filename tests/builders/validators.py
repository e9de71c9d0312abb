"""DICOM validators of other projects: dicom3tools, dcmtk."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.builders import peers


def run(tool: str, package: str, *arguments: str | Path) -> str:
    """Run a validator of this Debian package; return its output."""
    done = subprocess.run([peers.require(tool, package), *arguments], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def errors_in(output: str) -> list[str]:
    """The lines of a validator's output that report an error."""
    return [line for line in output.splitlines() if line.startswith(("Error", "E:", "F:")) or "Different Patient" in line]
