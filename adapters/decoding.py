"""A process that decodes: stored files in, images out, one at a time. `dicom.decode_pool` starts it and speaks with it.

Codecs are foreign C code over bytes from anywhere: what crashes or hangs here costs one film. An image leaves by a piece of memory
that both processes hold and that has no name, so the kernel frees it with the last of them, however they end.
"""

from __future__ import annotations

import mmap
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from adapters.dicom.pixels import DicomImageReader
from adapters.host.image_store import FileImageStore
from adapters.parent import end_with
from pipeline.errors import PixelsUnreadable
from pipeline.image_ports import Sight


def main() -> None:
    """Serve until the other end is gone.

    Arguments: descriptors of the connection and of the memory, process id of the parent, folder of the image store.
    """
    connection, memory, parent, folder = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    end_with(parent)  # also where a codec hangs and nobody reads the connection
    reader = DicomImageReader(FileImageStore(folder))
    connection.send(None)  # ready
    while True:
        try:
            instance, sight = connection.recv()
        except EOFError:
            return
        connection.send(_answer(reader, instance, sight, memory))


def _answer(reader: DicomImageReader, instance: object, sight: Sight | None, memory: int) -> object:
    """Return the shape of the image that was put into the memory, or why there is none: message and hint."""
    try:
        image = reader.seen(instance, sight)  # type: ignore[arg-type] # what the pool sends
    except PixelsUnreadable as error:
        return str(error), error.hint
    os.ftruncate(memory, max(image.nbytes, os.fstat(memory).st_size))
    with mmap.mmap(memory, image.nbytes) as shared:
        np.frombuffer(shared, dtype=np.float32)[:] = image.ravel()
    return image.shape


if __name__ == "__main__":
    main()
