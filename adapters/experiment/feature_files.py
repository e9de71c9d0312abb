"""Files of a feature cache: rows of films that only ever grow, and an index that says which film each row is of.

    films.f16      float16 [M, S, S]  model inputs in 0..1 by `Preprocess.make_model_input`; read as a memory map
    features.f32   float32 [M, D]     unit vectors
    pooled.f32     float32 [M, W]     input of the projection; absent where W is 0: the tower cannot be partitioned
    index          INDEX_RECORD [M]   film, hash of its model input, hash of its features, check sum of the record
    card.json      S, D, W

Rows are written and synced before their records: every record has its rows. What a crash leaves behind the last whole record is
overwritten by the next rows. Several processes may append: each appends a batch under a lock of `append.lock`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PermanentError

FILMS, FEATURES, POOLED = "films.f16", "features.f32", "pooled.f32"
INDEX, CARD, APPEND_LOCK = "index", "card.json", "append.lock"
INDEX_RECORD = np.dtype([("film", "S64"), ("model_input", "S64"), ("features", "S64"), ("check", "S16")])
"""Three SHA-256 as hex digits, and the first digits of that of the three."""
CHECK_DIGITS = 16


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """Edge of a model input, number of features, width of the projection's input."""

    size: int
    features: int
    pooled: int


@dataclass(frozen=True, slots=True)
class FilmBatch:
    """Rows to append: a name, a model input and the features of each film."""

    films: Sequence[str]  # [n] SHA-256 in hex digits
    model_inputs: npt.NDArray[np.float16]  # [n, S, S]
    features: npt.NDArray[np.float32]  # [n, D]
    pooled: npt.NDArray[np.float32]  # [n, W]

    @property
    def shape(self) -> FeatureShape:
        """Shape of a row of each array."""
        return FeatureShape(self.model_inputs.shape[1], self.features.shape[1], self.pooled.shape[1])

    def select(self, rows: Sequence[int]) -> FilmBatch:
        """Return some of the rows."""
        return FilmBatch(
            [self.films[row] for row in rows], self.model_inputs[list(rows)], self.features[list(rows)], self.pooled[list(rows)]
        )

    def build_records(self) -> npt.NDArray[Any]:
        """Return the records of the index."""
        records = np.zeros(len(self.films), dtype=INDEX_RECORD)
        for row, film in enumerate(self.films):
            hashes = film, hash_row(self.model_inputs[row]), hash_row(self.features[row], self.pooled[row])
            records[row] = (*hashes, _compute_check(*(value.encode() for value in hashes)))
        return records


class FeatureFiles:
    """The files of one folder. PermanentError for damage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records = np.zeros(0, dtype=INDEX_RECORD)
        self._rows: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the records that have come since."""
        path = self._folder / INDEX
        if not path.is_file():
            return
        known, whole = len(self._records), path.stat().st_size // INDEX_RECORD.itemsize
        read = np.fromfile(path, dtype=INDEX_RECORD, count=whole - known, offset=known * INDEX_RECORD.itemsize)
        valid = [record["check"] == _compute_check(*record.tolist()[:3]) for record in read]
        count = valid.index(False) if False in valid else len(valid)
        if any(valid[count:]):  # a crash spoils the end alone
            raise self._build_damage_error(INDEX, f" at row {known + count}")
        for row, record in enumerate(read[:count], known):
            self._rows.setdefault(record["film"].decode(), row)
        self._records = np.concatenate([self._records, read[:count]])

    def find_rows(self, films: Sequence[str]) -> npt.NDArray[np.intp]:
        """Return the row of each film, -1 for an unknown one."""
        return np.array([self._rows.get(film, -1) for film in films], dtype=np.intp)

    def append(self, batch: FilmBatch) -> None:
        """Append the films that no other process has appended, durably."""
        with _hold_lock(self._folder / APPEND_LOCK):
            self.refresh()
            self._claim_shape(batch.shape)
            new = batch.select([row for row, film in enumerate(batch.films) if film not in self._rows])
            for name, array in ((FILMS, new.model_inputs), (FEATURES, new.features), (POOLED, new.pooled)):
                if array[:1].size:
                    self._write_rows(name, array)
            self._write_rows(INDEX, new.build_records())
            self.refresh()

    def read_model_inputs(self) -> npt.NDArray[np.float16]:
        """Return all model inputs as a memory map [M, S, S]."""
        size = self._read_shape().size
        return self._map_rows(FILMS, np.float16, size, size)

    def read_features(self, rows: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return features [n, D] and pooled [n, W] of some rows, verified."""
        shape = self._read_shape()
        features = np.asarray(self._map_rows(FEATURES, np.float32, shape.features)[rows])
        pooled = np.zeros((len(rows), 0), dtype=np.float32)
        if shape.pooled:
            pooled = np.asarray(self._map_rows(POOLED, np.float32, shape.pooled)[rows])
        for place, row in enumerate(rows):
            if hash_row(features[place], pooled[place]).encode() != self._records["features"][row]:
                raise self._build_damage_error(f"{FEATURES} or {POOLED}" if shape.pooled else FEATURES, f" at row {row}")
        return features, pooled

    def hashes_of_model_inputs(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.str_]:
        """Return the SHA-256 of the model inputs of some rows, as written."""
        return self._records["model_input"][rows].astype(np.str_)

    def verify_model_inputs(self, rows: Sequence[int]) -> None:
        """Compare model inputs with the hashes in the index."""
        films = self.read_model_inputs()
        for row in rows:
            if hash_row(films[row]).encode() != self._records["model_input"][row]:
                raise self._build_damage_error(FILMS, f" at row {row}")

    def _map_rows(self, name: str, kind: type[np.generic], *shape: int) -> npt.NDArray[Any]:
        path, whole = self._folder / name, (len(self._records), *shape)
        if not path.is_file() or path.stat().st_size < int(np.prod(whole)) * np.dtype(kind).itemsize:
            raise self._build_damage_error(name, ", but shorter")
        return np.memmap(path, dtype=kind, mode="r", shape=whole)

    def _write_rows(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write rows behind those of the last whole record, over what a crash has left there."""
        path = self._folder / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
            file.seek(len(self._records) * array[:1].nbytes)
            file.write(np.ascontiguousarray(array).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _read_shape(self) -> FeatureShape:
        return FeatureShape(**json.loads((self._folder / CARD).read_text(encoding="utf-8")))

    def _claim_shape(self, shape: FeatureShape) -> None:
        card = self._folder / CARD
        if not card.is_file():
            part = card.with_suffix(".new")
            part.write_text(json.dumps(asdict(shape)), encoding="utf-8")
            part.replace(card)
        if self._read_shape() != shape:
            raise self._build_damage_error(CARD)

    def _build_damage_error(self, name: str, place: str = "") -> PermanentError:
        return PermanentError(
            f"{self._folder / name} is not what was written{place}", hint=f"remove the folder {self._folder}: it will be made again"
        )


def hash_row(*arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of the bytes of one row's arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _compute_check(*hashes: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashes)).hexdigest()[:CHECK_DIGITS].encode()


@contextmanager
def _hold_lock(lock: Path) -> Iterator[None]:
    """Hold a file lock, released with the process; wait for it."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
