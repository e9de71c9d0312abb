"""The received files: durable before anyone hears of them, each named by its own SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.domain import StoredFile
from pipeline.errors import OutOfResources, Refused

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOENT}
PART = ".part"


class FileImageStore:
    """ports.ImageStore below one folder, in two levels of shards: `ab/cd/abcd....dcm`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file_of(self, content: bytes) -> StoredFile:
        digest = hashlib.sha256(content).hexdigest()
        return StoredFile(f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, len(content))

    def write(self, content: bytes) -> StoredFile:
        file = self.file_of(content)
        if not self.exists(file):
            with self._translated():
                self._write(self._path(file), content)
        return file

    def _write(self, path: Path, content: bytes) -> None:
        self._make_folder(path.parent)
        part = path.with_name(f"{path.stem[:16]}-{secrets.token_hex(4)}{PART}")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            with os.fdopen(descriptor, "wb", buffering=0) as stream:
                rest = memoryview(content)
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            os.replace(part, path)  # noqa: PTH105 - the fault tests count the system calls by these names
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make the folder and those above it, each durable in its own parent."""
        if folder.is_dir():
            return
        if folder != self.root and folder.parent != folder:
            self._make_folder(folder.parent)
        folder.mkdir(mode=0o750, parents=folder == self.root, exist_ok=True)
        _sync_folder(folder.parent)

    def read(self, file: StoredFile) -> bytes:
        try:
            content = self._path(file).read_bytes()
        except OSError as error:
            raise Refused(
                f"file {file.key} of the image store cannot be read: {error.strerror}",
                hint="send the study again: an instance whose file is lost is taken anew",
            ) from error
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            raise Refused(
                f"file {file.key} of the image store is not what was written: its SHA-256 differs",
                hint="remove the damaged file, check the disk, and send the study again",
            )
        return content

    def exists(self, file: StoredFile) -> bool:
        try:
            return self._path(file).stat().st_size == file.size
        except OSError:
            return False

    def remove(self, file: StoredFile) -> None:
        self._path(file).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        with self._translated():
            self._make_folder(self.root)
            found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def sweep(self, *, older_than_seconds: float) -> int:
        """Remove what half-finished writes left behind that long ago; return how many."""
        before = time.time() - older_than_seconds
        left = [part for part in self.root.rglob(f"*{PART}") if part.stat().st_mtime < before]
        for part in left:
            part.unlink(missing_ok=True)
        return len(left)

    def _path(self, file: StoredFile) -> Path:
        return self.root / file.key

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise OutOfResources(
                f"image store {self.root} cannot be written: {error.strerror}",
                hint="free disk space, or make storage.directory writable for radclipd",
            ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
