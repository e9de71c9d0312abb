"""The process that compares two files of one instance. `adapters/dicom/image/comparison_process.py` starts it.

It decodes what a sender has sent, so its memory has a limit. It ends by itself when nothing is asked.
"""

from __future__ import annotations

import os
import warnings
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import BinaryIO

from adapters.dicom.image.instance_comparison import describe_difference
from adapters.ipc.worker_process import connect_to_parent

MAX_FILE_BYTES = 256 << 20
IDLE_SECONDS = 60.0


def main() -> None:
    """Serve until nothing has come for a while."""
    connection, _ = connect_to_parent()
    warnings.simplefilter("ignore")  # pydicom's, of what a sender has sent: they may quote it
    connection.send(None)  # ready
    while connection.poll(IDLE_SECONDS):
        try:
            stored, incoming = connection.recv(), os.fdopen(recv_handle(connection), "rb")
        except EOFError:
            return
        with incoming:
            connection.send(_compare_files(Path(stored), incoming))


def _compare_files(stored: Path, incoming: BinaryIO) -> tuple[bool, str]:
    """Return whether they hold the same instance, and what differs, or why that is unknown."""
    try:
        if max(stored.stat().st_size, os.fstat(incoming.fileno()).st_size) > MAX_FILE_BYTES:
            return False, "too large to compare"
        incoming.seek(0)
        difference = describe_difference(stored.read_bytes(), incoming.read())
    except Exception as error:  # of any type: the files are of any origin
        return False, f"cannot be compared: {type(error).__name__}"
    return difference is not None, difference or "another image or another document"


if __name__ == "__main__":
    main()
