"""What enters the first unfrozen block, kept for each image: training and re-scoring the archive read it in place of pixels.

Beside it the image's features, what the frozen encoder makes of it with all its blocks, so that these are never passed again.

A cache: whatever is lost, torn, stale or evicted is reported missing, and whoever asked makes it again from the image. Below
`root` lies one folder for each identity (weights, preprocessing, k, shape), in it shards (`prefix_shard`) named by the time they
were begun. Writing to one identity removes the others, and the oldest shards wherever a new one would not fit the limit.

Several processes may use one store at a time; within a process a store belongs to one thread. Keys are the caller's, as the name
of the stored file and the view; only their SHA-256 is written down.
"""

from __future__ import annotations

import errno
import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import structlog
import torch

from adapters.ml.activation_shard import ActivationShard, remove_shard, shard_bytes
from models.encoder.activations import SplitActivations, activation_shape
from models.encoder.base import Base
from models.encoder.partition import partition
from models.fingerprint import fingerprint
from pipeline.errors import ConfigurationError, OutOfResources

FORMAT = 2
"""Raised whenever the same identity would mean other bytes."""
TOLERANCE = 2e-3
"""Largest difference of any number of a unit vector made from stored activations from one made from the pixels.

float16 has 11 significant bits: each activation is off by up to 5e-4 of itself."""

_SUFFIX = ".shard"
_SHARD_BYTES = 64 << 20
_MIN_SHARDS, _MAX_SHARDS = 4, 256  # within the limit: eviction takes a part and not all, and each is an open file
_IDENTITY = re.compile(r"[0-9a-f]{64}")
_REFUSED_WRITE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}

_log = structlog.get_logger("radclipd.gpu")
_DEFAULT_PRECISION = "float32"


@dataclass(frozen=True)
class ActivationIdentity:
    """What activations are a function of, beside the stored file. `length`, `width`: L and W of activations [L, W]; `dimension`:
    D of features [D].

    `rendering`: the number of the way in which a file becomes an image. `precision`: of the products in the blocks that it passed.
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
        """Return that of a base in front of its last `k` blocks. CannotPartition."""
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
        """Bytes of one image: activations float16, then features float32."""
        return 2 * self.length * self.width + 4 * self.dimension


@dataclass(frozen=True)
class ActivationReadResult:
    """What a read gave: activations float16 [m, L, W] and features float32 [m, D] of `keys` in the order asked for, and the keys
    that are not there."""

    split: SplitActivations
    keys: tuple[str, ...]
    missing: tuple[str, ...]


class ActivationStore:
    """The activations of one identity. `limit`: bytes that everything below `root` may take.

    `reserve_bytes`: bytes of the file system that it leaves free whatever the limit says, so that a cache never stops reception.
    """

    def __init__(self, root: Path, identity: ActivationIdentity, *, max_bytes: int, reserve_bytes: int = 0) -> None:
        """ConfigurationError where the limit has no room for a few images."""
        self._root = root
        self._reserve = reserve_bytes
        self._identity = identity
        self._folder = root / identity.fingerprint
        self._limit = max_bytes
        self._slots = _compute_slots(max_bytes, identity.record_bytes)
        self._shards: dict[str, ActivationShard] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        self._writing: tuple[ActivationShard, list[int]] | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Take in what other processes have written and forget what they have removed."""
        names = {path.name for path in self._folder.glob(f"*{_SUFFIX}")}
        for name in self._shards.keys() - names:
            self._forget_shard(name)
        for name in sorted(names - self._shards.keys()):
            shard = ActivationShard.open(self._folder / name, self._identity_bytes, record_bytes=self._identity.record_bytes)
            if shard is not None:
                self._shards[name] = shard
        self._places = {key: (name, slot) for name, shard in sorted(self._shards.items()) for slot, key in shard.entries()}

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are not there, in order. A record whose bytes have rotted shows only when read."""
        return [key for key in keys if _hash_key(key) not in self._places]

    @property
    def capacity(self) -> int:
        """Images that the limit has room for, about."""
        return self._limit // self._identity.record_bytes

    def admits(self, received: float) -> bool:
        """Say whether an image received then (seconds since 1970) is to be written, that is, without loss or for older ones.

        What came before the oldest shard was begun never takes the place of what came after.
        """
        if len(self._places) < sum(shard.slots for shard in self._shards.values()) or self._has_room(self._shard_bytes):
            return True
        return bool(self._shards) and _parse_shard_time(min(self._shards)) < received

    def read(self, keys: Sequence[str]) -> ActivationReadResult:
        """Read activations and check them; what does not hold its checksum is forgotten and reported missing."""
        contents = {key: content for key in keys if (content := self._read_record(_hash_key(key))) is not None}
        found = [key for key in keys if key in contents]
        images = self._decode_records([contents[key] for key in found])
        return ActivationReadResult(images, tuple(found), tuple(key for key in keys if key not in contents))

    def write(self, keys: Sequence[str], split: SplitActivations) -> int:
        """Keep n images, activations [n, L, W] and features [n, D], under n keys; return how many were not there before.

        Values beyond the range of float16 are not kept: such an image stays missing. OutOfResources where the disk refuses;
        what was written until then stays.
        """
        entering = split.activations.detach().to("cpu", torch.float16).numpy()
        features = split.features.detach().to("cpu", torch.float32).numpy()
        given, wanted = (
            entering.shape[1:] + features.shape[1:],
            (self._identity.length, self._identity.width, self._identity.dimension),
        )
        if given != wanted or not len(entering) == len(features) == len(keys):
            raise ValueError(f"{len(entering)} images of the shape {given} under {len(keys)} keys of a store of {wanted}")
        known = len(self._places)
        with self._translate_disk_errors():
            for key, *record in zip(keys, entering, features, strict=True):
                if (digest := _hash_key(key)) not in self._places and all(np.isfinite(part).all() for part in record):
                    self._append_record(digest, b"".join(part.tobytes() for part in record))
        return len(self._places) - known

    def size(self) -> int:
        """Return the bytes that everything below the root takes, at most."""
        return sum(path.stat().st_size for path in self._root.glob(f"*/*{_SUFFIX}"))

    def close(self) -> None:
        """Release all files and locks; what is written stays."""
        for name in list(self._shards):
            self._forget_shard(name)

    @property
    def _identity_bytes(self) -> bytes:
        return bytes.fromhex(self._identity.fingerprint)

    def _read_record(self, digest: bytes) -> bytes | None:
        """Return a record whose checksum holds, or None, and forget where it was thought to be."""
        if (place := self._places.get(digest)) is None:
            return None
        name, slot = place
        with self._translate_disk_errors():
            content = self._shards[name].read_record(slot, digest)
        if content is None:
            del self._places[digest]
            _log.warning("stored activations do not hold their checksum", shard=name, slot=slot)
        return content

    def _decode_records(self, records: Sequence[bytes]) -> SplitActivations:
        """Return the content of records as tensors of their own."""
        length, width, dimension = self._identity.length, self._identity.width, self._identity.dimension
        entering, features = np.empty((len(records), length * width), np.float16), np.empty((len(records), dimension), np.float32)
        for row, record in enumerate(records):
            entering[row] = np.frombuffer(record, np.float16, count=length * width)
            features[row] = np.frombuffer(record, np.float32, offset=entering[row].nbytes)
        return SplitActivations(torch.from_numpy(entering).view(-1, length, width), torch.from_numpy(features))

    def _append_record(self, digest: bytes, record: bytes) -> None:
        if self._writing is None or not self._writing[1]:
            self._writing = self._lock_writable_shard()
        shard, free = self._writing
        slot = free.pop(0)
        shard.append(slot, digest, record)
        self._places[digest] = (shard.path.name, slot)

    def _lock_writable_shard(self) -> tuple[ActivationShard, list[int]]:
        """Return a locked shard and its free slots: one that an earlier process left unfilled, or an empty one."""
        if self._writing is not None:
            self._writing[0].unlock()
        for _, shard in sorted(self._shards.items(), reverse=True):
            if (free := shard.free_slots()) and shard.lock():
                if free := shard.free_slots():  # as it is now that nobody else writes
                    return shard, free
                shard.unlock()
        self._make_room()
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self._folder / f"{time.time_ns():020}-{secrets.token_hex(4)}{_SUFFIX}"
        shard = ActivationShard.create(path, self._identity_bytes, slots=self._slots, record_bytes=self._identity.record_bytes)
        self._shards[path.name] = shard
        return shard, shard.free_slots()

    def _make_room(self) -> None:
        """Remove what is stale, then the oldest shards, until another one fits. OutOfResources where others hold them all."""
        for stale in self._root.glob("*/"):
            if stale != self._folder and _IDENTITY.fullmatch(stale.name):
                self._remove_stale(stale)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if self._has_room(self._shard_bytes):
                return
            if remove_shard(path):
                _log.info("stored activations evicted", shard=path.name)
                self._forget_shard(path.name)
        if not self._has_room(self._shard_bytes):
            raise OutOfResources(
                f"the prefix store {self._root} has no room: other processes write all of its shards, or the disk is full",
                hint="give it more room, free disk space, or run fewer workers",
            )

    @property
    def _shard_bytes(self) -> int:
        return shard_bytes(self._slots, self._identity.record_bytes)

    def _has_room(self, needed: int) -> bool:
        """Say whether so many more bytes keep within the limit and leave the reserve free."""
        here = next(folder for folder in (self._folder, *self._folder.parents) if folder.is_dir())
        return self.size() + needed <= self._limit and shutil.disk_usage(here).free - needed >= self._reserve

    def _remove_stale(self, folder: Path) -> None:
        gone = [remove_shard(path) for path in folder.glob(f"*{_SUFFIX}")]
        if all(gone):
            with _ignore_missing_folder():
                folder.rmdir()
            _log.info("stale activations removed", identity=folder.name[:12], shards=len(gone))

    def _forget_shard(self, name: str) -> None:
        if (shard := self._shards.pop(name, None)) is None:
            return
        if self._writing is not None and self._writing[0] is shard:
            self._writing = None
        self._places = {key: place for key, place in self._places.items() if place[0] != name}
        shard.close()

    @contextmanager
    def _translate_disk_errors(self) -> Iterator[None]:
        """Say a refusing disk in the pipeline's words."""
        try:
            yield
        except OSError as error:
            if error.errno not in _REFUSED_WRITE_ERRNOS:
                raise
            raise OutOfResources(
                f"the prefix store {self._root} cannot be written: {error.strerror}",
                hint="free disk space, or make the folder writable for radclipd",
            ) from error


def _parse_shard_time(name: str) -> float:
    """Return when a shard was begun, seconds since 1970. 0 for a file that somebody else put there."""
    nanoseconds = name.split("-", 1)[0]
    return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else 0.0


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _compute_slots(max_bytes: int, record_bytes: int) -> int:
    """Return how many records a shard holds: 64 MiB of them or more, and few enough that several shards fit the limit."""
    room = min(max(_SHARD_BYTES, max_bytes // _MAX_SHARDS), max_bytes // _MIN_SHARDS)
    slots = room // record_bytes
    while slots and shard_bytes(slots, record_bytes) > room:
        slots -= 1
    if not slots:
        raise ConfigurationError(
            f"a prefix store of {max_bytes} bytes has no room for images of {record_bytes} bytes each",
            hint=f"give it at least {_MIN_SHARDS * shard_bytes(1, record_bytes)} bytes",
        )
    return slots


@contextmanager
def _ignore_missing_folder() -> Iterator[None]:
    """Another process may have removed the folder, or put something into it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise
