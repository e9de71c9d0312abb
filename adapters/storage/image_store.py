"""The received files: durable before their name is returned, each named by its own SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import xxhash

from adapters.storage.folders import find_folder_fault, nearest_existing, user_name
from pipeline.domain import StoredFile
from pipeline.errors import OutOfResources, PermanentError
from pipeline.ports.services import Buffer

MARKER_FILE = ".radclipd-image-store"
"""In the root of a store, written at its first use: a folder without it may be the mount point of a disk that is not mounted."""
MARKER_TEXT = b"The image store of radclipd. Without this file radclipd takes the folder for a disk that is not mounted.\n"
PART_SUFFIX = ".part"
ARRIVING_FOLDER = "arriving"
"""Folder of the parts: the name of a file is not known before it is complete."""
UNCLAIMED_FOLDER = "unclaimed"
"""Folder of empty files, one for each written file that no row of the catalog names yet: SHA-256, hyphen, owner."""
WRITE_BACK_BYTES = 1 << 22
"""An incoming file is written back to the disk in pieces of this size, so that its fsync has little left to wait for."""

MAX_FOLDER_THREADS = 8
"""Shard folders that are created concurrently, each while its file is synced."""


class FileImageStore:
    """`ports.services.ImageStore` below one folder with a marker, in two levels of shards: `ab/cd/abcd....dcm`."""

    def __init__(self, root: Path, known_files: Callable[[], Sequence[StoredFile]] = tuple) -> None:
        """`known_files`: some files that the store should hold; they decide whether a folder without marker is the store."""
        self.root, self._known_files = root, known_files
        self._folder_pool = ThreadPoolExecutor(max_workers=MAX_FOLDER_THREADS, thread_name_prefix="folder")
        self._adopting = threading.Lock()

    def file_of(self, content: bytes) -> StoredFile:
        return _build_stored_file(hashlib.sha256(content).hexdigest(), len(content), xxhash.xxh3_128_hexdigest(content))

    def write(self, content: bytes) -> StoredFile:
        file = self.file_of(content)
        if not self.exists(file):
            part = self.open_incoming()
            try:
                part.write(content)
                part.commit()
            finally:
                part.discard()
        return file

    def write_unclaimed(self, content: bytes, owner: str) -> StoredFile:
        with self.translate_errors():
            self._require_store()
            self._make_folder(self.root / UNCLAIMED_FOLDER)
            self._locate_mark(self.file_of(content), owner).touch(mode=0o640)  # durable with the file, whose fsync follows
        return self.write(content)

    def mark_claimed(self, file: StoredFile, owner: str) -> None:
        with self.translate_errors():
            self._locate_mark(file, owner).unlink(missing_ok=True)

    def list_unclaimed(self, *, older_than_seconds: float) -> list[tuple[StoredFile, str]]:
        folder = self.root / UNCLAIMED_FOLDER
        marks = sorted(mark for mark in folder.glob("*-*") if _is_older(mark, older_than_seconds)) if folder.is_dir() else []
        named = (mark.name.split("-", 1) for mark in marks)
        return [(_build_stored_file(digest, 0, ""), owner) for digest, owner in named]

    def open_incoming(self) -> PartFile:
        with self.translate_errors():
            self._require_store()
            self._make_folder(self.root / ARRIVING_FOLDER)
            return PartFile(self, self.root / ARRIVING_FOLDER / f"{secrets.token_hex(8)}{PART_SUFFIX}")

    def publish(self, part: Path, descriptor: int, file: StoredFile) -> None:
        """Rename a written file to its own name, in place of an existing one; durable when this returns. OSError."""
        path = self._locate_file(file)
        folder = None if path.parent.is_dir() else self._folder_pool.submit(self._make_folder, path.parent)  # concurrently
        os.fsync(descriptor)
        if folder is not None:
            folder.result()
        os.replace(part, path)  # noqa: PTH105 - the fault tests count the system calls by these names
        _sync_folder(path.parent)

    def _require_store(self) -> None:
        """Make sure that the root is the store, and not the mount point below it. OutOfResources; OSError."""
        if (self.root / MARKER_FILE).exists():
            return
        with self._adopting:
            self._require_known_root()
            self._make_folder(self.root)
            self._write_marker()

    def _require_known_root(self) -> None:
        """OutOfResources for a root that has neither the marker nor any file that the store should hold."""
        if (self.root / MARKER_FILE).exists():
            return
        known = self._known_files()
        if not known or any(self.exists(file) for file in known):
            return
        raise OutOfResources(
            f"{self.root} is not the image store: it has no {MARKER_FILE} and none of the files that the catalog knows",
            hint=f"mount its disk; or, if the files are lost for good: touch {self.root / MARKER_FILE}",
        )

    def _write_marker(self) -> None:
        descriptor = os.open(self.root / MARKER_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.pwrite(descriptor, MARKER_TEXT, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _sync_folder(self.root)

    def _make_folder(self, folder: Path) -> None:
        """Create the folder and its parents, each durable in its own parent; all shards of the first level at once."""
        if folder.is_dir():
            return
        if folder != self.root and folder.parent != folder:
            self._make_folder(folder.parent)
        if folder.parent == self.root:
            for number in range(256):
                (self.root / f"{number:02x}").mkdir(mode=0o750, exist_ok=True)
        folder.mkdir(mode=0o750, parents=folder == self.root, exist_ok=True)
        _sync_folder(folder.parent)

    def read(self, file: StoredFile) -> bytes:
        try:
            content = self._locate_file(file).read_bytes()
        except FileNotFoundError as error:
            if not self._is_store_present():
                raise OutOfResources(f"{self.root} is not the image store", hint="is its disk mounted?") from error
            raise PermanentError(
                f"file {file.key} of the image store is missing",
                hint="send the study again: an instance whose file is lost is taken anew",
            ) from error
        except OSError as error:
            raise OutOfResources(
                f"file {file.key} of the image store cannot be read: {error.strerror}",
                hint="check the disk, and whether radclipd may read storage.directory",
            ) from error
        if len(content) != file.size or _is_damaged(content, file):
            raise PermanentError(
                f"file {file.key} of the image store is not what was written: its checksum differs",
                hint="remove the damaged file, check the disk, and send the study again",
            )
        return content

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a stored file for reading. OSError."""
        return self._locate_file(file).open("rb")

    def _is_store_present(self) -> bool:
        """Whether the root has the marker; or the folders of a store of a release that wrote none."""
        return (self.root / MARKER_FILE).exists() or (self.root / "00").is_dir()

    def exists(self, file: StoredFile) -> bool:
        try:
            return self._locate_file(file).stat().st_size == file.size
        except OSError:
            return False

    def remove(self, file: StoredFile) -> None:
        self._locate_file(file).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        with self.translate_errors():
            self._require_known_root()
            found = os.statvfs(nearest_existing(self.root))
        return found.f_bavail * found.f_frsize

    def probe_write(self) -> None:
        """Write a file as an instance is written, read it back, remove it. OutOfResources.

        A store that is not there yet is not made: its nearest parent is tried. Neither a file nor a folder is left behind. Every
        probe has a name of its own.
        """
        fault = find_folder_fault(self.root)
        if not fault and (folder := next(self.unwritable_folders(levels=1), None)):
            fault = f"{folder} cannot be written by user {user_name()}"
        if fault:
            raise OutOfResources(
                f"image store {self.root} cannot be written: {fault}",
                hint=f"storage.directory names a folder of the service's user: chown -R {user_name()} {self.root}",
            )
        self._require_known_root()
        arriving = self.root / ARRIVING_FOLDER
        try:
            _probe_folder(arriving if arriving.is_dir() else nearest_existing(self.root))
        except OSError as error:
            raise OutOfResources(
                f"image store {self.root} cannot be written: {error.strerror}", hint="is the disk full, read-only or away?"
            ) from error

    def unwritable_folders(self, *, levels: int = 2) -> Iterator[Path]:
        """Yield folders of the store, down to `levels` below it, in which this process cannot make a file."""
        below = [self.root]
        for _ in range(levels):
            below = [Path(entry.path) for folder in below if folder.is_dir() for entry in os.scandir(folder) if entry.is_dir()]
            yield from (folder for folder in below if not os.access(folder, os.R_OK | os.W_OK | os.X_OK))

    def remove_stale_parts(self, *, older_than_seconds: float) -> int:
        """Remove the parts of interrupted writes that are older than this; return their number."""
        removed = 0
        with self.translate_errors():
            for part in self._list_parts():
                with suppress(FileNotFoundError):  # complete by now
                    if _is_older(part, older_than_seconds):
                        part.unlink()
                        removed += 1
        return removed

    def list_files(self, *, older_than_seconds: float) -> Iterator[tuple[str, Path]]:
        """Yield SHA-256 and path of each file below the shards that was written longer ago; "" for a part."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
            if path.suffix in (".dcm", PART_SUFFIX) and _is_older(path, older_than_seconds):
                yield path.stem if path.suffix == ".dcm" else "", path

    def _list_parts(self) -> Iterator[Path]:
        """Yield the parts: of files that arrive, and of probes of a store that has no folder for them yet."""
        for folder in (self.root / ARRIVING_FOLDER, self.root):
            yield from folder.glob(f"*{PART_SUFFIX}")

    def _locate_mark(self, file: StoredFile, owner: str) -> Path:
        return self.root / UNCLAIMED_FOLDER / f"{file.sha256}-{owner}"

    def _locate_file(self, file: StoredFile) -> Path:
        return self.root / file.key

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate every error of the disk to OutOfResources: a local disk is full or read-only, a network disk away or stale."""
        try:
            yield
        except OSError as error:
            raise OutOfResources(
                f"image store {self.root} cannot be written: {error.strerror or type(error).__name__}",
                hint="free disk space, or make storage.directory available to radclipd and writable for it",
            ) from error


class PartFile:
    """`ports.services.IncomingFile`: a `.part` that is hashed and written back to the disk while it is received."""

    def __init__(self, store: FileImageStore, part: Path) -> None:
        """Create the part. OSError."""
        self._store, self._part = store, part
        self._hash, self._checksum = hashlib.sha256(), xxhash.xxh3_128()
        self._size = self._flushed = 0
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    @property
    def file(self) -> StoredFile:
        return _build_stored_file(self._hash.hexdigest(), self._size, self._checksum.hexdigest())

    def write(self, content: Buffer) -> None:
        rest = memoryview(content)
        self._hash.update(rest)
        self._checksum.update(rest)
        with self._store.translate_errors():
            while rest:
                written = os.write(self._descriptor, rest)
                rest, self._size = rest[written:], self._size + written
        if self._size - self._flushed >= WRITE_BACK_BYTES:
            with suppress(OSError):  # advice only: Linux begins to write these pages back and drops those that are clean
                os.posix_fadvise(self._descriptor, self._flushed, self._size - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self._size

    def open(self) -> BinaryIO:
        if self._descriptor < 0:  # committed
            return self._store.open(self.file)
        stream = os.fdopen(os.dup(self._descriptor), "rb")
        stream.seek(0)
        return stream

    def commit(self) -> StoredFile:
        file = self.file
        with self._store.translate_errors():
            self._store.publish(self._part, self._descriptor, file)
        self._close_descriptor()
        return file

    def discard(self) -> None:
        """Delete the part. A disk that refuses that keeps it, and the hourly sweep tries again."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            self._close_descriptor()

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):  # what was not synced before is of no use
            os.close(descriptor)


def _probe_folder(folder: Path) -> None:
    """Write a part in the folder, sync it, read it back, remove it. OSError. A part that a kill leaves is swept as any other."""
    part, content = folder / f".probe-{secrets.token_hex(8)}{PART_SUFFIX}", secrets.token_bytes(64)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
        if os.pread(descriptor, len(content), 0) != content:
            raise OSError(errno.EIO, "a probe file is not what was written")
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


def _build_stored_file(digest: str, size: int, checksum: str) -> StoredFile:
    return StoredFile(f"{digest[:2]}/{digest[2:4]}/{digest}.dcm", digest, size, checksum)


def _is_older(path: Path, seconds: float) -> bool:
    """Return whether a file was last written longer ago; a time in the future, from a clock that was ahead, counts as long ago."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # gone meanwhile
        return False
    return age > seconds or age < -seconds


def _is_damaged(content: bytes, file: StoredFile) -> bool:
    if file.xxh3:
        return xxhash.xxh3_128_hexdigest(content) != file.xxh3
    return hashlib.sha256(content).hexdigest() != file.sha256


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
