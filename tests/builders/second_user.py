"""A second system user, for tests that root runs: who owns a store, and runs radclipd beside root."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
USER = "nobody"


def ids() -> tuple[int, int]:
    """Return user and group id of the second user."""
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


def run_as_user(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as the second user."""
    user, group = ids()
    return subprocess.run(argv, user=user, group=group, extra_groups=[], capture_output=True, text=True, check=False, **options)


def environment() -> dict[str, str]:
    """Return an environment in which any interpreter finds radclipd and its libraries."""
    libraries = [path for path in sys.path if path.endswith("-packages")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *libraries]), "PYTHONDONTWRITEBYTECODE": "1"}


def find_interpreter() -> str:
    """Return a Python of this version that the second user can run with radclipd's libraries; without one skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can work as another user")
    if not any(entry.pw_name == USER for entry in pwd.getpwall()):
        pytest.skip(f"this host has no user {USER}")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        try:
            done = run_as_user([python, "-c", "import adapters.cli, numpy, sqlalchemy"], cwd="/", env=environment(), timeout=60)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    pytest.skip(f"user {USER} can run no Python {name} with radclipd's libraries")


def radclipd_with(python: str, config: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs verbs as root, or, with `as_user`, as the second user."""

    def run(*arguments: str, as_user: bool = False) -> subprocess.CompletedProcess[str]:
        argv = [python, "-m", "adapters.cli", "--config", str(config), *arguments]
        if as_user:
            return run_as_user(argv, cwd="/", env=environment(), timeout=120)
        return subprocess.run(argv, cwd="/", env=environment(), capture_output=True, text=True, check=False, timeout=120)

    return run
