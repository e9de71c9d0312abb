"""Fakes of ports.ImageStore, ports.ImageReader and ports.DocumentReader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import BinaryIO

import numpy as np

from adapters.dicom.image import part10
from pipeline.domain import (
    Document,
    Image,
    StoredFile,
    StoredInstance,
)
from pipeline.errors import PermanentError, PixelsUnreadable
from pipeline.ports.images import ImageReader, InputTransform, ModelInput
from pipeline.ports.services import (
    Buffer,
    DocumentReader,
    ImageStore,
)


class FakeIncomingFile:
    """ports.IncomingFile in memory; its bytes count against the free bytes of its store, if it has one."""

    def __init__(self, store: FakeImageStore | None = None) -> None:
        self.content, self.store, self.kept, self.discarded = b"", store, False, False

    @property
    def file(self) -> StoredFile:
        return FakeImageStore().file_of(self.content)

    def write(self, content: Buffer) -> None:
        self.content += bytes(content)
        if self.store:
            self.store.free -= len(content)

    def open(self) -> BinaryIO:
        return BytesIO(self.content)

    def commit(self) -> StoredFile:
        self.kept = True
        return self.store.write(self.content) if self.store else self.file

    def discard(self) -> None:
        if not self.kept:
            self.discarded = True
        if self.store and self.discarded:
            self.store.free += len(self.content)
            self.content = b""


class FakeImageStore:
    """ports.ImageStore in a dict; `free_bytes` returns `free`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.unclaimed: set[tuple[StoredFile, str]] = set()
        self.free = 1 << 40

    def open_incoming(self) -> FakeIncomingFile:
        return FakeIncomingFile(self)

    def file_of(self, content: bytes) -> StoredFile:
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, len(content))

    def write(self, content: bytes) -> StoredFile:
        file = self.file_of(content)
        self.files[file.key] = bytes(content)
        return file

    def write_unclaimed(self, content: bytes, owner: str) -> StoredFile:
        self.unclaimed.add((self.file_of(content), owner))
        return self.write(content)

    def mark_claimed(self, file: StoredFile, owner: str) -> None:
        self.unclaimed = {(other, uid) for other, uid in self.unclaimed if (other.key, uid) != (file.key, owner)}

    def list_unclaimed(self, *, older_than_seconds: float) -> list[tuple[StoredFile, str]]:
        return sorted(self.unclaimed, key=lambda entry: entry[1])

    def read(self, file: StoredFile) -> bytes:
        if file.key not in self.files:
            raise PermanentError(f"{file.key} is missing")
        return self.files[file.key]

    def exists(self, file: StoredFile) -> bool:
        return file.key in self.files

    def remove(self, file: StoredFile) -> None:
        self.free += len(self.files.pop(file.key, b""))

    def free_bytes(self) -> int:
        return self.free


class FakeImageReader:
    """ports.ImageReader: every pixel is the first byte of the file's digest; instances in `broken` cannot be read."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.asked: list[str] = []

    def read(self, instance: StoredInstance) -> Image:
        uid = instance.header.sop_instance_uid
        self.asked.append(uid)
        if uid in self.broken:
            raise PixelsUnreadable(f"instance {uid}: no image can be made of it")
        return np.full((4, 5), int(instance.file.sha256[:2], 16) / 255, dtype=np.float32)

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        for instance in instances:
            try:
                yield transform.to_device(transform.decoder_transform(self.read(instance)))
            except PixelsUnreadable as error:
                yield error


class FakeDocuments:
    """ports.DocumentReader: the document that `said` holds for a content; without findings for any other."""

    def __init__(self) -> None:
        self.said: dict[bytes, Document] = {}

    def read(self, content: bytes) -> Document:
        return self.said.get(content, Document(reason="codes none of the 14 findings"))


# The type checker holds each fake against its port.
def _images(fake: FakeImageStore) -> ImageStore:
    return fake


def _reader(fake: FakeImageReader) -> ImageReader:
    return fake


def _documents(fake: FakeDocuments) -> DocumentReader:
    return fake


def stored_instance(store: ImageStore, content: bytes) -> StoredInstance:
    """The instance of a DICOM file, stored as received."""
    header = part10.read_header(*part10.split_file(content))
    return StoredInstance(header, store.write(content), datetime(2026, 1, 2, tzinfo=UTC))
