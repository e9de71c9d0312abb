"""Folder of a demonstration, removed by the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import PermanentError

FOLDER_PREFIX = "radclipd-demo-"
PID_FILE = "pid"
"""File with the process ID of the demonstration that created the folder."""


def scratch_folder(wanted: Path | None) -> Path:
    """Return an empty folder: `wanted` (PermanentError where it is not empty), or a new one in the temporary folder.

    Temporary folders of this user's earlier demonstrations are removed: each holds the weights of a whole encoder.
    """
    if wanted is None:
        _remove_stale_folders(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    else:
        folder = wanted.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise PermanentError(f"{folder} is not empty", hint="name a folder that is new or empty, or leave --folder out")
    (folder / PID_FILE).write_text(str(os.getpid()))
    return folder


def _remove_stale_folders(parent: Path) -> None:
    for folder in parent.glob(FOLDER_PREFIX + "*"):
        pid_file = folder / PID_FILE
        if folder.is_symlink() or not pid_file.is_file() or folder.stat().st_uid != os.getuid():
            continue
        if not _is_process_alive(pid_file.read_text()):
            shutil.rmtree(folder, ignore_errors=True)


def _is_process_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True
