"""The files of cached activations: names of records, and their removal without torch."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.errors import OutOfResources

SUFFIX = ".sqlite"
BUSY_SECONDS = 5.0


def hash_key(fingerprint: str, key: str) -> bytes:
    """Return the SHA-256 of a key in the file of an activation identity."""
    return hashlib.sha256(f"{fingerprint} {key}".encode()).digest()


def shorten_hash(digest: bytes) -> int:
    """Return the name of a record in the table. The checksum tells keys of one name apart."""
    return int.from_bytes(digest[:8], "big", signed=True)


class ActivationFolder:
    """`ports.erasure.ActivationFiles`: all files of a cache, whatever their identity."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def remove(self, sha256s: Collection[str]) -> int:
        """Remove the records of files, by their SHA-256, and overwrite them; return their number. OutOfResources."""
        return sum(_remove_records(path, sha256s) for path in sorted(self._root.glob(f"*{SUFFIX}")))

    def retain(self, sha256s: Iterable[str]) -> int:
        """Remove every record but the unaugmented ones of these files; return the number of removed ones. OutOfResources."""
        kept = list(sha256s)
        return sum(_retain_records(path, kept) for path in sorted(self._root.glob(f"*{SUFFIX}")))


def _remove_records(path: Path, sha256s: Collection[str]) -> int:
    with _open_records(path) as database:
        return (
            database.executemany("DELETE FROM activations WHERE name = ?", _name_records(path, sha256s)).rowcount if sha256s else 0
        )


def _retain_records(path: Path, sha256s: Collection[str]) -> int:
    with _open_records(path) as database:
        database.execute("CREATE TEMPORARY TABLE kept (name INTEGER PRIMARY KEY)")
        database.executemany("INSERT OR IGNORE INTO kept (name) VALUES (?)", _name_records(path, sha256s))
        return database.execute("DELETE FROM activations WHERE name NOT IN (SELECT name FROM kept)").rowcount


def _name_records(path: Path, sha256s: Collection[str]) -> Iterator[tuple[int]]:
    fingerprint = path.name.removesuffix(SUFFIX)
    return ((shorten_hash(hash_key(fingerprint, sha256)),) for sha256 in sha256s)


@contextmanager
def _open_records(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file in a transaction whose deletions overwrite. OutOfResources."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as database:
            database.execute("PRAGMA secure_delete = ON")
            with database:
                yield database
    except sqlite3.Error as error:
        raise OutOfResources(
            f"the activation cache {path.parent} cannot be cleared: {error}", hint="delete the folder: the cache is made anew"
        ) from error
