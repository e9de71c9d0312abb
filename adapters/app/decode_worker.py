"""A process that decodes: stored files in, images out, one at a time. `dicom.decode_pool` starts it and speaks with it.

Codecs are foreign C code over bytes from anywhere: what crashes or hangs here costs one film. An image leaves by a piece of memory
that both processes hold and that has no name, so the kernel frees it with the last of them, however they end.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from pathlib import Path

from adapters.dicom.image.pixels import DicomImageReader
from adapters.ipc.decoded_image import DecoderTransform
from adapters.ipc.parent_death import die_with_parent
from adapters.ipc.shared_frame import SharedFrame
from adapters.storage.image_store import FileImageStore
from pipeline.errors import PixelsUnreadable


def main() -> None:
    """Serve until the other end is gone.

    Arguments: descriptors of the connection and of the memory, process id of the parent, folder of the image store.
    """
    connection, memory, parent, folder = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    die_with_parent(parent)  # also where a codec hangs and nobody reads the connection
    reader = DicomImageReader(FileImageStore(folder))
    connection.send(None)  # ready
    while True:
        try:
            instance, transform = connection.recv()
        except EOFError:
            return
        connection.send(_decode_instance(reader, instance, transform, memory))


def _decode_instance(reader: DicomImageReader, instance: object, transform: DecoderTransform, memory: int) -> object:
    """Return what was put into the memory, or why there is nothing: message and hint."""
    try:
        seen = reader.read_transformed(instance, transform)  # type: ignore[arg-type] # what the pool sends
    except PixelsUnreadable as error:
        return str(error), error.hint
    return SharedFrame.write(seen, memory)


if __name__ == "__main__":
    main()
