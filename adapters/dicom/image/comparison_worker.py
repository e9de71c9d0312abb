"""The process that compares two files of one instance, or digests one. `adapters/dicom/image/comparison_process.py` starts it.

It decodes what a sender has sent, so its memory has a limit. It ends by itself when nothing is asked.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import BinaryIO

from adapters.dicom.image.instance_comparison import compare_files, digest_pixels
from adapters.ipc.worker_process import connect_to_parent
from pipeline.domain import InstanceDifference

MAX_FILE_BYTES = 256 << 20
IDLE_SECONDS = 60.0


def main() -> None:
    """Serve until nothing has come for a while."""
    connection, _ = connect_to_parent()
    connection.send(None)  # ready
    while connection.poll(IDLE_SECONDS):
        try:
            stored, has_incoming = connection.recv()
            incoming = os.fdopen(recv_handle(connection), "rb") if has_incoming else None
        except EOFError:
            return
        with ExitStack() as opened:
            if incoming is not None:
                opened.enter_context(incoming)
            connection.send(_answer_request(stored and Path(stored), incoming))


def _answer_request(stored: Path | None, incoming: BinaryIO | None) -> InstanceDifference | str | None:
    """Return the difference of two files, or the digest of the one that is given; None where it cannot be told."""
    try:
        with ExitStack() as opened:
            ours = opened.enter_context(stored.open("rb")) if stored is not None else None
            given = [file for file in (ours, incoming) if file is not None]
            if max(os.fstat(file.fileno()).st_size for file in given) > MAX_FILE_BYTES:
                return None
            contents = [_read_whole(file) for file in given]
        return digest_pixels(*contents) if len(contents) == 1 else compare_files(*contents)
    except Exception:  # of any type: the files are of any origin
        return None


def _read_whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


if __name__ == "__main__":
    main()
