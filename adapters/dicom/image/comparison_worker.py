"""The process that compares two files of one instance. `adapters/dicom/image/comparison_process.py` starts it.

It decodes what a sender has sent, so its memory has a limit. It ends by itself when nothing is asked.
"""

from __future__ import annotations

import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from adapters.dicom.image.instance_comparison import describe_difference
from adapters.ipc.parent_death import die_with_parent

MEMORY_BYTES = 4 << 30
MAX_FILE_BYTES = 256 << 20
IDLE_SECONDS = 60.0


def main() -> None:
    """Serve until nothing has come for a while. Arguments: descriptor of the connection, process id of the parent."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    connection.send(None)  # ready
    while connection.poll(IDLE_SECONDS):
        try:
            stored, incoming = connection.recv()
        except EOFError:
            return
        connection.send(_compare_files(Path(stored), Path(incoming)))


def _compare_files(stored: Path, incoming: Path) -> tuple[bool, str]:
    """Return whether they hold the same instance, and what differs, or why that is unknown."""
    try:
        if max(stored.stat().st_size, incoming.stat().st_size) > MAX_FILE_BYTES:
            return False, "too large to compare"
        difference = describe_difference(stored.read_bytes(), incoming.read_bytes())
    except Exception as error:  # of any type: the files are of any origin
        return False, f"cannot be compared: {type(error).__name__}"
    return difference is not None, difference or "another image or another document"


if __name__ == "__main__":
    main()
