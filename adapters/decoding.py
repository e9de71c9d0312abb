"""A process that decodes: stored files in, images out, one at a time. `dicom.decode_pool` starts it and speaks with it.

Codecs are foreign C code over bytes from anywhere: what crashes or hangs here costs one film. An image leaves by a piece of memory
that both processes hold and that has no name, so the kernel frees it with the last of them, however they end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from adapters.dicom.handover import Handed
from adapters.dicom.pixels import DicomImageReader
from adapters.host.image_store import FileImageStore
from pipeline.errors import PixelsUnreadable
from pipeline.image_ports import Sight

PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Serve until the other end is gone.

    Arguments: descriptors of the connection and of the memory, process id of the parent, folder of the image store.
    """
    connection, memory, parent, folder = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    _end_with(parent)
    reader = DicomImageReader(FileImageStore(folder))
    connection.send(None)  # ready
    while True:
        try:
            instance, sight = connection.recv()
        except EOFError:
            return
        connection.send(_answer(reader, instance, sight, memory))


def _answer(reader: DicomImageReader, instance: object, sight: Sight, memory: int) -> object:
    """Return what was put into the memory, or why there is nothing: message and hint."""
    try:
        seen = reader.seen(instance, sight)  # type: ignore[arg-type] # what the pool sends
    except PixelsUnreadable as error:
        return str(error), error.hint
    return Handed.over(seen, memory)


def _end_with(parent: int) -> None:
    """Also where a codec hangs and nobody reads the connection. Signals of a terminal are the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the request was made
        sys.exit()


if __name__ == "__main__":
    main()
