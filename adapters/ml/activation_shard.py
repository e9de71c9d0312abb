"""One file of a prefix store: a header, a table of entries, and as many records as the table has room for.

    0      magic, SHA-256 of the identity, slots, bytes of a record, CRC-32 of these
    4096   the table: for each slot the key's SHA-256, the CRC-32 of its record, the CRC-32 of the entry itself
    ...    the records, aligned to 4096

A record is written before its entry, and nothing is synced: what a crash tears has an entry, or a record, whose checksum does not
hold, and counts as absent. The file has its full length from the start, sparse.

One process appends to a shard: it holds an exclusive lock on it (flock), which the kernel releases however the process ends.
Reading takes no lock.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

PAGE = 4096
_HEADER = struct.Struct("<16s32sIII")
_MAGIC = b"radclipd prefix1"
_ENTRY = np.dtype([("key", np.uint8, 32), ("record", "<u4"), ("entry", "<u4")])
_CHECKED_ENTRY_BYTES = 36  # bytes of an entry before its own checksum


class ActivationShard:
    """An open shard, for reading; for appending too once `lock` said yes. OSError from the disk is the store's to translate."""

    def __init__(self, path: Path, descriptor: int, *, slots: int, record_bytes: int) -> None:
        self.path = path
        self.slots = slots
        self._record_bytes = record_bytes
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)

    @classmethod
    def create(cls, path: Path, identity: bytes, *, slots: int, record_bytes: int) -> ActivationShard:
        """Make an empty shard, locked. FileExistsError where there is one."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, shard_bytes(slots, record_bytes))
            header = _HEADER.pack(_MAGIC, identity, slots, record_bytes, 0)
            os.pwrite(descriptor, _HEADER.pack(_MAGIC, identity, slots, record_bytes, zlib.crc32(header)), 0)
            return cls(path, descriptor, slots=slots, record_bytes=record_bytes)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: Path, identity: bytes, *, record_bytes: int) -> ActivationShard | None:
        """Open a shard of this identity; None where the file is gone, torn in its header, or another's."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        slots = _parse_slots(os.pread(descriptor, _HEADER.size, 0), identity, record_bytes)
        if not slots or os.fstat(descriptor).st_size < _compute_records_start(slots):
            os.close(descriptor)
            return None
        return cls(path, descriptor, slots=slots, record_bytes=record_bytes)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def lock(self) -> bool:
        """Take the right to append, or to remove; False where another process has it or the file was removed meanwhile."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return os.fstat(self._descriptor).st_nlink > 0

    def unlock(self) -> None:
        """Give the right back."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release file, map and lock. Arrays that `record` gave are copies and stay."""
        self._map.close()
        os.close(self._descriptor)

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield slot and key of each whole entry whose record lies within the file."""
        table = self._read_table()
        for slot in np.flatnonzero(table["entry"]).tolist():
            if self._is_within_file(slot) and zlib.crc32(table[slot].tobytes()[:_CHECKED_ENTRY_BYTES]) == table[slot]["entry"]:
                yield slot, table[slot]["key"].tobytes()

    def read_record(self, slot: int, key: bytes) -> bytes | None:
        """Return a copy of the record; None where the slot is another key's, or the checksum does not hold: that frees it."""
        entry = np.frombuffer(self._read_entries(slot, 1), dtype=_ENTRY)[0]
        if entry["key"].tobytes() != key or not self._is_within_file(slot):
            return None
        start = _compute_records_start(self.slots) + slot * self._record_bytes
        content = self._map[start : start + self._record_bytes]
        if _compute_checksum(key, content) == entry["record"]:
            return content
        _write_bytes(self._descriptor, bytes(_ENTRY.itemsize), PAGE + slot * _ENTRY.itemsize)
        return None

    def free_slots(self) -> list[int]:
        """Return the slots that hold nothing whole, in order."""
        taken = {slot for slot, _ in self.entries()}
        return [slot for slot in range(self.slots) if slot not in taken and self._is_within_file(slot)]

    def append(self, slot: int, key: bytes, content: bytes) -> None:
        """Write a record into a free slot, then its entry. Only with the lock."""
        _write_bytes(self._descriptor, content, _compute_records_start(self.slots) + slot * self._record_bytes)
        entry = np.zeros((), dtype=_ENTRY)
        entry["key"], entry["record"] = np.frombuffer(key, dtype=np.uint8), _compute_checksum(key, content)
        entry["entry"] = zlib.crc32(entry.tobytes()[:_CHECKED_ENTRY_BYTES])
        _write_bytes(self._descriptor, entry.tobytes(), PAGE + slot * _ENTRY.itemsize)

    def _read_table(self) -> npt.NDArray[np.void]:
        return np.frombuffer(self._read_entries(0, self.slots), dtype=_ENTRY)

    def _read_entries(self, slot: int, count: int) -> bytes:
        """Read anew each time: another process may be writing. What a file that was cut short lacks is no entry."""
        wanted = count * _ENTRY.itemsize
        return os.pread(self._descriptor, wanted, PAGE + slot * _ENTRY.itemsize).ljust(wanted, b"\0")

    def _is_within_file(self, slot: int) -> bool:
        """Ask the file itself: reading a map beyond the end of a file that was cut short ends the process."""
        return _compute_records_start(self.slots) + (slot + 1) * self._record_bytes <= min(
            self._size, os.fstat(self._descriptor).st_size
        )


def shard_bytes(slots: int, record_bytes: int) -> int:
    """Return the bytes of a shard of so many slots."""
    return _compute_records_start(slots) + slots * record_bytes


def remove_shard(path: Path) -> bool:
    """Remove a shard unless a process appends to it; True where it is gone. Who has it open goes on reading."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _parse_slots(header: bytes, identity: bytes, record_bytes: int) -> int:
    """Return the slots that a header states; 0 where it is torn, or of another identity or size."""
    if len(header) < _HEADER.size:
        return 0
    magic, found, slots, size, checksum = _HEADER.unpack(header)
    whole = zlib.crc32(_HEADER.pack(magic, found, slots, size, 0)) == checksum
    return slots if whole and (magic, found, size) == (_MAGIC, identity, record_bytes) else 0


def _compute_records_start(slots: int) -> int:
    table_end = PAGE + slots * _ENTRY.itemsize
    return -(-table_end // PAGE) * PAGE


def _compute_checksum(key: bytes, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(key))


def _write_bytes(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
