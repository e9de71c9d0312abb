"""The process that compares two files of one instance, or digests one. `adapters/dicom/image/comparison_process.py` starts it.

It decodes what a sender has sent, so its memory has a limit. It ends by itself when nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
            paths = connection.recv()
        except EOFError:
            return
        connection.send(_answer_request([Path(path) for path in paths]))


def _answer_request(paths: Sequence[Path]) -> InstanceDifference | str | None:
    """Return the difference of two files, or the digest of one; None where it cannot be told."""
    try:
        if max(path.stat().st_size for path in paths) > MAX_FILE_BYTES:
            return None
        contents = [path.read_bytes() for path in paths]
        return digest_pixels(*contents) if len(contents) == 1 else compare_files(*contents)
    except Exception:  # of any type: the files are of any origin
        return None


if __name__ == "__main__":
    main()
