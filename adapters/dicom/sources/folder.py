"""A tree of DICOM files as a backfill's source. Other files in it are passed over."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from adapters.dicom.sources import incoming
from pipeline.domain import Sender
from pipeline.errors import ArchiveUnreachable, Refused
from pipeline.ports.backfill import Days, Incoming, Known, Parcel, Piece, Take

FILES = 100
"""In one parcel, at most."""
HEAD = 132
"""Bytes that tell a DICOM file (PS3.10 7.1): preamble and prefix."""
BARE = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""How a file begins that lacks them: group 0008 or 0002."""
INDEX = "DICOMDIR"
NAME_LENGTH = 255
AWAY = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT}
"""A disk or a server that is in trouble, not a file that is bad."""


class FolderSource:
    """backfill_ports.Source. Parcels are a few files of one folder each, the last names first: names often are dates.

    `days`: instances of studies of other days are passed over; those without a Study Date, too.
    """

    dated = False

    def __init__(self, root: Path, *, days: Days | None, other_storage: str, oldest_first: bool = False) -> None:
        self._root, self._days, self._other_storage, self._oldest_first = root, days, other_storage, oldest_first
        self.sender = Sender("", socket.gethostname()[:64], "")

    @property
    def name(self) -> str:
        span = f" {self._days.first:%Y%m%d}-{self._days.last:%Y%m%d}" if self._days else ""
        place = str(self._root)
        if len(place) > NAME_LENGTH - 40:
            place = f".../{hashlib.sha256(place.encode()).hexdigest()[:32]}"
        return f"folder {place}{span}"

    def parcels(self, days: Days | None) -> Iterator[Parcel]:
        self._require_root()
        for folder, folders, files in os.walk(self._root):
            folders.sort(reverse=not self._oldest_first)
            names = sorted(files, reverse=not self._oldest_first)
            for start in range(0, len(names), FILES):
                yield self._parcel(Path(folder), names[start : start + FILES])

    def _parcel(self, folder: Path, names: Sequence[str]) -> Parcel:
        where = os.fsencode(folder.relative_to(self._root))
        key = hashlib.sha256(where + b"\0" + os.fsencode(names[0])).hexdigest()
        mark = hashlib.sha256(b"\0".join(_state(folder / name) for name in names)).hexdigest()
        return Parcel(key=key, mark=mark, places=tuple(str(folder / name) for name in names))

    def fetch(self, parcel: Parcel, known: Known, take: Take) -> int:
        for place in parcel.places:
            self._require_root()
            take(Piece(place, "", partial(self._read, Path(place))))
        return 0

    def _read(self, path: Path) -> Incoming | None:
        try:
            content = _content(path)
        except OSError as error:
            if error.errno in AWAY:
                raise self._away(error.strerror) from error
            raise Refused(f"a file cannot be read: {error.strerror}", hint="may the user that runs this read it?") from error
        found = incoming.from_file(content, other_storage=self._other_storage) if content else None
        return found if found and self._wanted(found[0].study_date) else None

    def _wanted(self, study_date: str) -> bool:
        return self._days is None or f"{self._days.first:%Y%m%d}" <= study_date <= f"{self._days.last:%Y%m%d}"

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise self._away("no such folder")

    def _away(self, reason: str | None) -> ArchiveUnreachable:
        return ArchiveUnreachable(f"folder {self._root}: {reason}", hint="is it mounted, and may the user that runs this read it?")


def _state(path: Path) -> bytes:
    """Whatever changes where the file does."""
    try:
        found = path.stat()
    except OSError:
        return os.fsencode(path.name)
    return os.fsencode(path.name) + f" {found.st_size} {found.st_mtime_ns}".encode()


def _content(path: Path) -> bytes:
    """Return the bytes of what may be a DICOM file, and nothing for another one, or what is no file at all."""
    if path.name == INDEX or not path.is_file():
        return b""
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        may_be = head[128:] == b"DICM" or head[:2] in BARE
        return head + stream.read() if may_be else b""
