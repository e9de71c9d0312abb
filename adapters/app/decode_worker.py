"""The process that decodes: stored files in, images out, one at a time. `adapters/dicom/image/decode_pool.py` starts it.

Codecs are foreign C code over bytes of any origin: a crash or a hang here costs one instance. An image leaves through anonymous
memory that both processes hold, so the kernel frees it with the last of them.
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
from pipeline.errors import OutOfResources, PixelsUnreadable


def main() -> None:
    """Serve until the other end of the connection is closed.

    Arguments: descriptors of the connection and of the memory, process id of the parent, folder of the image store.
    """
    connection, memory, parent, folder = Connection(int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    die_with_parent(parent)  # also while a codec hangs and the connection is not read
    reader = DicomImageReader(FileImageStore(folder))
    connection.send(None)  # ready
    while True:
        try:
            instance, transform = connection.recv()
        except EOFError:
            return
        connection.send(_decode_instance(reader, instance, transform, memory))


def _decode_instance(reader: DicomImageReader, instance: object, transform: DecoderTransform, memory: int) -> object:
    """Write the frame to the memory and return its layout; else the reason, as message, hint, and whether it may pass."""
    try:
        frame = reader.read_transformed(instance, transform)  # type: ignore[arg-type] # the pool sends a StoredInstance
    except (PixelsUnreadable, OutOfResources) as error:
        return str(error), error.hint, isinstance(error, OutOfResources)
    return SharedFrame.write(frame, memory)


if __name__ == "__main__":
    main()
