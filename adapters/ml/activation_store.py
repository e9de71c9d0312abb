"""Activations in front of the last k blocks of the encoder, and features of the frozen encoder, in one SQLite file.

A store of a cache: a lost, torn, stale or evicted record is reported missing, and the caller computes it again. Each identity
(weights, preprocessing, k, shape, precision) has its own file below `root`. Without room for new records, files of other identities
are deleted first, then the oldest records. A damaged file is replaced by an empty one.

Processes and threads may share a store: each has a connection of its own, SQLite locks the file, and a rollback journal undoes the
transaction of a killed process. Nothing is synced; the checksum detects records that a power failure tears. A key of the caller,
such as the name of the stored file and the view, is stored as 8 bytes of its SHA-256; the checksum covers the whole hash.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import structlog
import torch
import xxhash

from adapters.ml.activation_files import SUFFIX, hash_key, shorten_hash
from models.encoder.activations import SplitActivations, activation_shape
from models.encoder.base import Base
from models.encoder.partition import partition
from models.fingerprint import fingerprint
from pipeline.errors import ConfigurationError, OutOfResources

FORMAT = 3
"""Version of the bytes of a record; part of the identity."""
TOLERANCE = 2e-3
"""Largest difference of any number of a unit vector between stored activations and pixels.

float16 has 11 significant bits: each activation is off by up to 5e-4 of itself."""
PAGE_BYTES = 16384

_BATCH = 16  # records per transaction
_TREE_PAGES = 4  # of a transaction, besides the pages of its records
_SHRINK_PAGES = 256  # per transaction
_BUSY_SECONDS = 5.0
_LAYOUT = f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL;"
_TABLE = """PRAGMA synchronous = OFF; PRAGMA secure_delete = OFF; PRAGMA cell_size_check = ON;
CREATE TABLE IF NOT EXISTS activations (
    number INTEGER PRIMARY KEY, name INTEGER NOT NULL UNIQUE, written REAL NOT NULL, checksum BLOB NOT NULL, record BLOB NOT NULL
)"""
_SELECT = "SELECT number, checksum, record FROM activations WHERE name = ?"
_IS_OLDER = "SELECT written < ? FROM activations ORDER BY number LIMIT 1"
_EVICT = "DELETE FROM activations WHERE number IN (SELECT number FROM activations ORDER BY number LIMIT ?)"
_INSERT = "INSERT OR IGNORE INTO activations (name, written, checksum, record) VALUES (?, ?, ?, ?)"
_STORE_NAME = re.compile(rf"[0-9a-f]{{64}}({re.escape(SUFFIX)}(-journal)?)?")  # without a suffix: the folder of an earlier release
_DAMAGE_CODES = {
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR),
    *(sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG),
}
_DEFAULT_PRECISION = "float32"

Answer = TypeVar("Answer")

_log = structlog.get_logger("radclipd.ml")


@dataclass(frozen=True)
class ActivationIdentity:
    """What activations depend on, besides the stored file. `length`, `width`: L and W of activations [L, W]; `dimension`: D of
    features [D].

    `rendering`: version of the rendering of stored files to images. `precision`: of the products in the frozen blocks.
    """

    weights_sha256: str
    preprocess: str
    k: int
    length: int
    width: int
    dimension: int
    rendering: int = 1
    precision: str = _DEFAULT_PRECISION

    @classmethod
    def of_base(cls, base: Base, *, k: int, rendering: int = 1) -> ActivationIdentity:
        """Return the identity of a base in front of its last `k` blocks. CannotPartition."""
        partition(base.encoder.network).last_parts(k)
        rows, width = activation_shape(base.encoder)
        precision = str(base.encoder.precision).removeprefix("torch.")
        return cls(base.sha256, base.preprocess.fingerprint, k, rows, width, base.dimension, rendering, precision)

    @property
    def fingerprint(self) -> str:
        """64 hex digits."""
        named = {name: value for name, value in asdict(self).items() if (name, value) != ("precision", _DEFAULT_PRECISION)}
        return fingerprint({"format": FORMAT, **named})

    @property
    def record_bytes(self) -> int:
        """Size of one record: activations float16, then features float32."""
        return 2 * self.length * self.width + 4 * self.dimension


@dataclass(frozen=True)
class ActivationReadResult:
    """Activations float16 [m, L, W] and features float32 [m, D] of `keys` in the order of the request, and the missing keys."""

    split: SplitActivations
    keys: tuple[str, ...]
    missing: tuple[str, ...]


class ActivationStore:
    """The records of one identity. `max_bytes`: of all files below `root`, with the rollback journal.

    `reserve_bytes`: bytes of the file system that stay free whatever the limit, so that a cache never stops reception.
    """

    def __init__(self, root: Path, identity: ActivationIdentity, *, max_bytes: int, reserve_bytes: int = 0) -> None:
        """ConfigurationError if `max_bytes` has no room for a few batches."""
        self._root, self._identity, self._fingerprint = root, identity, identity.fingerprint
        self._path = root / f"{self._fingerprint}{SUFFIX}"
        self._max_bytes, self._reserve_bytes = max_bytes, reserve_bytes
        self._record_pages = -(-(identity.record_bytes + 64) // PAGE_BYTES)
        self._batch_pages = _BATCH * self._record_pages + _TREE_PAGES
        self._connections: dict[tuple[int, int], tuple[sqlite3.Connection, tuple[int, int] | None]] = {}  # by process and thread
        if max_bytes < (least := 3 * self._batch_pages * PAGE_BYTES):
            raise ConfigurationError(
                f"an activation store of {max_bytes} bytes has no room for images of {identity.record_bytes} bytes each",
                hint=f"give it at least {least} bytes",
            )

    def __len__(self) -> int:
        return self._call_database(lambda database: _fetch_number(database, "SELECT count(*) FROM activations"))

    @property
    def capacity(self) -> int:
        """Approximate number of records within the limit, in whole pages."""
        return self._max_bytes // (self._record_pages * PAGE_BYTES)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the missing keys, in order. Only `read` detects a corrupt record."""
        names = [shorten_hash(self._hash_key(key)) for key in keys]
        stored = self._call_database(lambda database: _find_names(database, names))
        return [key for key, name in zip(keys, names, strict=True) if name not in stored]

    def admits(self, received: float) -> bool:
        """Return whether there is room for an image received at that time (seconds since 1970), or an older record to evict.

        An image never replaces a record that was written after its reception.
        """

        def has_room(database: sqlite3.Connection) -> bool:
            if _count_used_pages(database) <= self._compute_max_pages(self.size()):
                return True
            return bool(_fetch_number(database, _IS_OLDER, received))

        return self._call_database(has_room)

    def read(self, keys: Sequence[str]) -> ActivationReadResult:
        """Read and verify records; a record that does not match its checksum is deleted and reported missing."""
        records = self._call_database(lambda database: self._read_records(database, keys))
        found = tuple(key for key in keys if key in records)
        split = self._decode_records([records[key] for key in found])
        return ActivationReadResult(split, found, tuple(key for key in keys if key not in records))

    def write(self, keys: Sequence[str], split: SplitActivations) -> int:
        """Write activations [n, L, W] and features [n, D] under n keys; return the number of new records.

        An image with values beyond the range of float16 stays missing. OutOfResources if the disk refuses; earlier batches stay.
        """
        activations = split.activations.detach().to("cpu", torch.float16).numpy()
        features = split.features.detach().to("cpu", torch.float32).numpy()
        given = activations.shape[1:] + features.shape[1:]
        wanted = self._identity.length, self._identity.width, self._identity.dimension
        if given != wanted or not len(activations) == len(features) == len(keys):
            raise ValueError(f"{len(activations)} images of the shape {given} under {len(keys)} keys of a store of {wanted}")
        finite = [row for row in range(len(keys)) if np.isfinite(activations[row]).all() and np.isfinite(features[row]).all()]
        written = 0
        for start in range(0, len(finite), _BATCH):
            rows = finite[start : start + _BATCH]
            records = {self._hash_key(keys[row]): activations[row].tobytes() + features[row].tobytes() for row in rows}
            written += self._call_database(partial(self._insert_records, records=records))
        return written

    def size(self) -> int:
        """Return the size of all files below the root, bytes."""
        return sum(_measure_file(path) for path in self._root.rglob("*"))

    def close(self) -> None:
        """Close the connections of this process; a forked process leaves those of its parent alone."""
        for owner in [owner for owner in list(self._connections) if owner[0] == os.getpid()]:
            self._close_connection(owner)

    def _call_database(self, call: Callable[[sqlite3.Connection], Answer], *, retry: bool = True) -> Answer:
        """Call with the database; after damage to the file, or its removal, call again with an empty file.

        OutOfResources if the disk refuses, or another process holds the lock too long.
        """
        owner = os.getpid(), threading.get_ident()
        try:
            return call(self._open_database(owner))
        except (sqlite3.DatabaseError, OSError) as error:
            in_place = self._close_connection(owner) == _identify_file(self._path)
            if not retry or (in_place and not _is_damage(error, self._path)):
                raise OutOfResources(
                    f"the activation store {self._root} cannot be used: {error}",
                    hint="free disk space, or make the folder writable for radclipd",
                ) from error
            if in_place:
                _log.warning("damaged file of stored activations replaced", file=self._path.name, error=str(error))
                with suppress(OSError):  # refused: the second call fails, too
                    self._path.unlink()
        return self._call_database(call, retry=False)

    def _open_database(self, owner: tuple[int, int]) -> sqlite3.Connection:
        """Return the owner's connection to the file at the path: another process may have deleted or replaced the file."""
        if owner in self._connections:
            database, file = self._connections[owner]
            if file == _identify_file(self._path):
                return database
            self._close_connection(owner)
        self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
        with suppress(FileExistsError):  # never open an existing one: its closing would release all POSIX locks of this process
            self._path.touch(mode=0o640, exist_ok=False)
        file = _identify_file(self._path)
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connections[owner] = database, file
        database.text_factory = bytes  # a flipped bit may turn a BLOB into TEXT
        if not _fetch_number(database, "PRAGMA page_count"):
            database.executescript(_LAYOUT)
        database.executescript(_TABLE)
        return database

    def _close_connection(self, owner: tuple[int, int]) -> tuple[int, int] | None:
        """Close the owner's connection, if there is one; return the identity of its file."""
        database, file = self._connections.pop(owner, (None, None))
        if database is not None:
            database.close()
        return file

    def _read_records(self, database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the records that match their checksums, and delete the others."""
        records: dict[str, bytes] = {}
        corrupt: list[tuple[int]] = []
        with database:
            database.execute("BEGIN")
            for key in keys:
                digest = self._hash_key(key)
                for number, checksum, record in database.execute(_SELECT, (shorten_hash(digest),)):
                    if isinstance(record, bytes) and checksum == _compute_checksum(digest, record):
                        records[key] = record
                    else:
                        corrupt.append((number,))
        if corrupt:
            _log.warning("stored activations do not hold their checksum", file=self._path.name, images=len(corrupt))
            database.executemany("DELETE FROM activations WHERE number = ?", corrupt)
        return records

    def _decode_records(self, records: Sequence[bytes]) -> SplitActivations:
        """Return the content of records as tensors with their own memory."""
        length, width, dimension = self._identity.length, self._identity.width, self._identity.dimension
        activations = np.empty((len(records), length * width), np.float16)
        features = np.empty((len(records), dimension), np.float32)
        for row, record in enumerate(records):
            activations[row] = np.frombuffer(record, np.float16, count=length * width)
            features[row] = np.frombuffer(record, np.float32, offset=activations[row].nbytes)
        return SplitActivations(torch.from_numpy(activations).view(-1, length, width), torch.from_numpy(features))

    def _insert_records(self, database: sqlite3.Connection, records: dict[bytes, bytes]) -> int:
        """Write a batch in one transaction, after the evictions that it needs; return the number of new records."""
        stored = _find_names(database, [shorten_hash(digest) for digest in records])
        rows = [
            (name, time.time(), _compute_checksum(digest, record), record)
            for digest, record in records.items()
            if (name := shorten_hash(digest)) not in stored
        ]
        if not rows:
            return 0
        size = self.size()
        max_pages = self._compute_max_pages(size)
        if size > max_pages * PAGE_BYTES:
            self._remove_stale_files()
        self._shrink_file(database, max_pages + self._batch_pages)
        with database:
            database.execute("BEGIN IMMEDIATE")
            self._evict_oldest(database, max_pages)
            if _count_used_pages(database) > max_pages:
                raise OutOfResources(
                    f"the activation store {self._root} has no room: the disk is full",
                    hint="give it more room, or free disk space",
                )
            return database.executemany(_INSERT, rows).rowcount

    def _compute_max_pages(self, size: int) -> int:
        """Return the limit of pages in use before a batch: limit and reserve have room for the batch and its rollback journal.

        `size`: of all files below the root, bytes.
        """
        free = shutil.disk_usage(self._root).free
        return min(self._max_bytes, size + free - self._reserve_bytes) // PAGE_BYTES - 2 * self._batch_pages

    def _evict_oldest(self, database: sqlite3.Connection, max_pages: int) -> None:
        """Delete the oldest records until at most `max_pages` are in use, or no record is left."""
        while (excess := _count_used_pages(database) - max_pages) > 0:
            if not database.execute(_EVICT, (-(-excess // self._record_pages),)).rowcount:
                return

    def _shrink_file(self, database: sqlite3.Connection, max_pages: int) -> None:
        """Return pages to the file system: the limit is lower than before, or other files fill the disk."""
        while (pages := _fetch_number(database, "PRAGMA page_count")) > max_pages:
            target = max(pages - _SHRINK_PAGES, max_pages)
            with database:
                database.execute("BEGIN IMMEDIATE")
                self._evict_oldest(database, target)
                database.execute(f"PRAGMA incremental_vacuum({pages - target})").fetchall()
            if _fetch_number(database, "PRAGMA page_count") >= pages:
                return

    def _remove_stale_files(self) -> None:
        """Delete the files of other identities and the folders of earlier releases."""
        for path in self._root.iterdir():
            if _STORE_NAME.fullmatch(path.name) and not path.name.startswith(self._fingerprint):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                _log.info("stale activations removed", file=path.name)

    def _hash_key(self, key: str) -> bytes:
        return hash_key(self._fingerprint, key)


def _find_names(database: sqlite3.Connection, names: Sequence[int]) -> set[int]:
    """Return the names that have a record."""
    with database:
        database.execute("BEGIN")
        return {name for name in names if _fetch_number(database, "SELECT 1 FROM activations WHERE name = ?", name)}


def _count_used_pages(database: sqlite3.Connection) -> int:
    return _fetch_number(database, "PRAGMA page_count") - _fetch_number(database, "PRAGMA freelist_count")


def _fetch_number(database: sqlite3.Connection, query: str, *parameters: float) -> int:
    """Return the first column of the first row; 0 without a row."""
    row: tuple[int] | None = database.execute(query, parameters).fetchone()
    return 0 if row is None else row[0]


def _is_damage(error: Exception, path: Path) -> bool:
    """Return whether the content of the file is the cause, not the disk or a lock. A damaged header may forbid writing."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE_CODES or (code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK))


def _compute_checksum(digest: bytes, record: bytes) -> bytes:
    checksum = xxhash.xxh3_128(digest)
    checksum.update(record)
    return checksum.digest()


def _identify_file(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _measure_file(path: Path) -> int:
    """Return the size in bytes; 0 for a folder, and for a file that another process has deleted."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
