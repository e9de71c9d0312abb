"""Where a demonstration lives while it runs, and after: a folder that the next one clears away."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import Refused

PREFIX = "radclipd-demo-"
MARK = "pid"
"""File that holds the process id of the demonstration that made the folder."""


def scratch_folder(wanted: Path | None) -> Path:
    """Return an empty folder: the wanted one (Refused where something lies in it), or a fresh one below the temporary folder.

    Fresh ones that earlier demonstrations of this user left are removed: each holds the weights of a whole encoder.
    """
    if wanted is None:
        _clear_away(Path(tempfile.gettempdir()))
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    else:
        folder = wanted.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Refused(f"{folder} is not empty", hint="name a folder that is new or empty, or leave --folder out")
    (folder / MARK).write_text(str(os.getpid()))
    return folder


def _clear_away(parent: Path) -> None:
    for folder in parent.glob(PREFIX + "*"):
        mark = folder / MARK
        if folder.is_symlink() or not mark.is_file() or folder.stat().st_uid != os.getuid():
            continue
        if not _alive(mark.read_text()):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True
