"""The process that decodes: stored files in, images out, one at a time. `adapters/dicom/image/decode_pool.py` starts it.

Codecs are foreign C code over bytes of any origin: a crash, a hang, or a decompression bomb here costs one instance. An image
leaves through anonymous memory that both processes hold, so the kernel frees it with the last of them.
"""

from __future__ import annotations

import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from adapters.dicom.image.pixels import DicomImageReader
from adapters.ipc.decoded_image import DecodeFailure, DecoderTransform
from adapters.ipc.parent_death import die_with_parent
from adapters.ipc.shared_frame import SharedFrame
from adapters.storage.image_store import FileImageStore
from pipeline.domain import StoredInstance
from pipeline.errors import OutOfResources, PixelsUnreadable


def main() -> None:
    """Serve until the other end of the connection is closed.

    Arguments: descriptors of the connection and of the memory, process id of the parent, limit of the address space in bytes,
    folder of the image store.
    """
    descriptor, memory, parent, memory_bytes = map(int, sys.argv[1:5])
    connection, folder = Connection(descriptor), Path(sys.argv[5])
    die_with_parent(parent)  # also while a codec hangs and the connection is not read
    _limit_memory(memory_bytes)
    reader = DicomImageReader(FileImageStore(folder))
    connection.send(None)  # ready
    while True:
        try:
            instance, transform = connection.recv()
        except EOFError:
            return
        connection.send(_decode_instance(reader, instance, transform, memory))


def _limit_memory(limit: int) -> None:
    """Limit the address space, at most to the limit that the process has already."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounded = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bounded, bounded))


def _decode_instance(
    reader: DicomImageReader, instance: StoredInstance, transform: DecoderTransform, memory: int
) -> SharedFrame | DecodeFailure:
    """Write the frame to the memory and return its layout; else the reason."""
    try:
        return SharedFrame.write(reader.read_transformed(instance, transform), memory)
    except (PixelsUnreadable, OutOfResources) as error:
        return DecodeFailure(str(error), error.hint, may_pass=isinstance(error, OutOfResources))
    except MemoryError:
        return DecodeFailure(
            f"instance {instance.header.sop_instance_uid}: it needs more memory than a decoder may have",
            "no radiograph of a usual size does; if it is one, raise score.decode_memory",
            out_of_memory=True,
        )


if __name__ == "__main__":
    main()
