"""A backfill source over a tree of DICOM files. Other files in it are skipped."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from adapters.dicom.sources import incoming
from adapters.storage.folders import user_name
from pipeline.domain import Sender
from pipeline.errors import ArchiveUnreachable, PermanentError
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, ReceivedInstance, StoreObject

FILES_PER_UNIT = 100
"""Maximum of one backfill unit."""
PREAMBLE_BYTES = 132
"""Bytes of the preamble and the prefix DICM (PS3.10 7.1)."""
BARE_DATA_SET_PREFIXES = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""First bytes of a file without preamble: group 0008 or 0002."""
DICOMDIR = "DICOMDIR"
NAME_LENGTH = 255
UNAVAILABLE_ERRNOS = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT}
"""Faults of the disk or the file server, not of one file."""


class FolderSource:
    """`ports.backfill.BackfillSource`. A unit is up to FILES_PER_UNIT files of one folder, last names first: names often are dates.

    `days`: instances with another Study Date, or none, are skipped.
    """

    supports_dates = False

    def __init__(self, root: Path, *, days: DateRange | None, other_storage: str, oldest_first: bool = False) -> None:
        self._root, self._days, self._other_storage, self._oldest_first = root, days, other_storage, oldest_first
        self.sender = Sender("", socket.gethostname()[:64], "")

    @property
    def name(self) -> str:
        span = f" {self._days.first:%Y%m%d}-{self._days.last:%Y%m%d}" if self._days else ""
        path = str(self._root)
        if len(path) > NAME_LENGTH - 40:
            path = f".../{hashlib.sha256(path.encode()).hexdigest()[:32]}"
        return f"folder {path}{span}"

    def require_files(self) -> None:
        """Raise PermanentError where there is nothing to import: no folder, one that cannot be read, no file in it."""
        unreadable: list[OSError] = []
        if not self._root.is_dir():
            fault = "this is not a folder" if self._root.exists() else "no such folder"
        elif any(files for _, _, files in os.walk(self._root, onerror=unreadable.append)):
            return
        else:
            fault = "it holds no file"
        for error in unreadable[:1]:
            fault = f"{error.filename} cannot be read: {error.strerror}"
        raise PermanentError(f"folder {self._root}: {fault}", hint=self._suggest_remedy())

    def list_units(self, days: DateRange | None) -> Iterator[BackfillUnit]:
        self._require_root()
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(self._root, onerror=unreadable.append):
            folders.sort(reverse=not self._oldest_first)
            names = sorted(files, reverse=not self._oldest_first)
            for start in range(0, len(names), FILES_PER_UNIT):
                yield self._build_unit(Path(folder), names[start : start + FILES_PER_UNIT])
        for error in unreadable:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise self._build_unavailable_error(error.strerror)
            yield self._build_unit(Path(error.filename), ["."])  # fetched, the folder itself is refused, so that somebody is told

    def _build_unit(self, folder: Path, names: Sequence[str]) -> BackfillUnit:
        relative = os.fsencode(folder.relative_to(self._root))
        key = hashlib.sha256(relative + b"\0" + os.fsencode(names[0])).hexdigest()
        change_tag = hashlib.sha256(b"\0".join(_fingerprint_file(folder / name) for name in names)).hexdigest()
        return BackfillUnit(key=key, change_tag=change_tag, locations=tuple(str(folder / name) for name in names))

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        for path in unit.locations:
            self._require_root()
            store_object(BackfillObject(path, "", partial(self._read_instance, Path(path))))
        return 0

    def _read_instance(self, path: Path) -> ReceivedInstance | None:
        try:
            if path.is_dir():
                raise PermanentError("a folder cannot be read", hint=self._suggest_remedy())
            content = read_if_dicom(path)
        except OSError as error:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise self._build_unavailable_error(error.strerror) from error
            raise PermanentError(f"a file cannot be read: {error.strerror}", hint=self._suggest_remedy()) from error
        found = incoming.from_file(content, other_storage=self._other_storage) if content else None
        return found if found and self._is_wanted_date(found[0].study_date) else None

    def _is_wanted_date(self, study_date: str) -> bool:
        return self._days is None or f"{self._days.first:%Y%m%d}" <= study_date <= f"{self._days.last:%Y%m%d}"

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise self._build_unavailable_error("no such folder")

    def _build_unavailable_error(self, reason: str | None) -> ArchiveUnreachable:
        return ArchiveUnreachable(f"folder {self._root}: {reason}", hint=self._suggest_remedy())

    def _suggest_remedy(self) -> str:
        return f"is it mounted, and may user {user_name()}, who runs this, read it?"


def _fingerprint_file(path: Path) -> bytes:
    """Return name, size and modification time: a value that differs when the file has changed."""
    try:
        status = path.stat()
    except OSError:
        return os.fsencode(path.name)
    return os.fsencode(path.name) + f" {status.st_size} {status.st_mtime_ns}".encode()


def read_if_dicom(path: Path) -> bytes:
    """Return the content of a file that may be DICOM; b"" for another one, and for anything but a regular file."""
    if path.name == DICOMDIR or not path.is_file():
        return b""
    with path.open("rb") as stream:
        head = stream.read(PREAMBLE_BYTES)
        may_be = head[128:] == b"DICM" or head[:2] in BARE_DATA_SET_PREFIXES
        return head + stream.read() if may_be else b""
