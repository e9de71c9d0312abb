"""Folders of the configuration: whether this process can write to one, or make it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def nearest_existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists and that this process may see."""
    for candidate in (path, *path.parents):
        try:
            candidate.stat()
        except OSError:
            continue
        return candidate
    return Path(path.anchor)


def find_folder_fault(path: Path) -> str:
    """Say why this process cannot write to the folder or make it; "" where it can. Nothing is made."""
    existing = nearest_existing(path)
    if not existing.is_dir():
        return f"{existing} is a file" if existing == path else f"{existing} is a file, and no folder can be made below it"
    if existing != path and (missing := existing / path.relative_to(existing).parts[0]).is_symlink():
        return f"{missing} is a link to a place that does not exist"
    if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
        return f"{existing} cannot be written by user {user_name()}"
    return ""


def user_name() -> str:
    """Name the user of this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user without an entry
        return str(os.geteuid())
