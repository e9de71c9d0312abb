"""Peers from Debian: a test that needs one skips where it is absent; with RADCLIPD_REQUIRE_PEERS=1 it fails instead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("RADCLIPD_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Real films, never part of the project."""


def require(program: str, package: str) -> str:
    """Return the program's path."""
    found = shutil.which(program)
    if found is None:
        absent(f"{program} is not installed (Debian package {package})")
    assert found is not None
    return found


def absent(reason: str) -> None:
    """Skip, or fail where peers are required."""
    if os.environ.get("RADCLIPD_REQUIRE_PEERS") == "1":
        pytest.fail(f"required peer absent: {reason}")
    pytest.skip(reason)


def shared(path: str) -> Path:
    """Return a file of the shared test data, or skip."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"{path} of the shared test data is not here (RADCLIPD_TEST_DATA)")
    return found
