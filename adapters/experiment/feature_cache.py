"""Feature cache: model inputs and features of films, one folder per pair of weights and films.

    KEY/films.npy         float16 [N, S, S]  model inputs in 0..1 by `Preprocess.make_model_input`; a memory map
    KEY/features.npy      float32 [N, D]     unit vectors
    KEY/pooled.npy        float32 [N, W]     input of the projection; W = 0 where the tower cannot be partitioned
    KEY/pixel_sha256.npy  str [N]            of each model input
    KEY/card.json         shapes and SHA-256, written last

While it is being filled the folder is named KEY.part; its file `rows` holds the number of complete rows, for resumption.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap

from adapters.experiment.bases import ChosenBase
from adapters.experiment.case_source import CaseSource
from adapters.ml.error_translation import translate_model_errors
from models.encoder.activations import compute_activations, encode_activations
from models.encoder.encoder import Encoder
from models.errors import CannotPartition
from models.fingerprint import file_sha256, fingerprint
from pipeline.domain import Image
from pipeline.errors import OutOfResources, PermanentError, TransientError, WeightsRejected

FORMAT = 1
BATCH = 64
"""Films per pass of the encoder. Batches always hold the same rows, so a resumed run gives the results of an uninterrupted one."""
VERIFIED_ROWS = 2048
"""Maximum number of model inputs hashed when a cache is loaded, evenly spread."""
GREY_LEVEL_TOLERANCE = 2e-3
"""Tolerance of a grey level on rereading: processors differ in float16 rounding."""
REREAD_FILMS = 3
"""Films reread from the source when a cache is loaded, to verify that the source is the same."""
FILMS, FEATURES, POOLED, PIXELS = "films.npy", "features.npy", "pooled.npy", "pixel_sha256.npy"
ROWS, CARD = "rows", "card.json"


@dataclass(frozen=True)
class FeatureCache:
    """Cached arrays, one row per film of the source."""

    films: npt.NDArray[np.float16]  # [N, S, S] memory map
    features: torch.Tensor  # [N, D]
    pooled: torch.Tensor  # [N, W]
    pixel_sha256: npt.NDArray[np.str_]  # [N]


def load_or_fill_cache(
    root: Path,
    source: CaseSource,
    base: ChosenBase,
    *,
    device: torch.device,
    workers: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> FeatureCache:
    """Return the cache of the films and weights, completing it where necessary. `advance` receives the number of finished rows.

    TransientError where another process fills it, PermanentError where the films of the source have changed, OutOfResources for
    disk errors.
    """
    folder = root / cache_key(source, base)
    with _translate_disk_errors(root):
        if not (folder / CARD).is_file():
            root.mkdir(parents=True, exist_ok=True)
            with _hold_lock(folder.with_suffix(".lock")):
                if not (folder / CARD).is_file():
                    _fill_cache(folder.with_suffix(".part"), source, base, device, workers, advance)
                    _publish_cache(folder.with_suffix(".part"), folder)
        return _load_cache(folder, source, base)


def cache_key(source: CaseSource, base: ChosenBase) -> str:
    """Return the name of the folder: 32 hex digits for weights, preprocessing and films."""
    parts = {"format": FORMAT, "weights": base.sha256, "preprocess": base.preprocess.fingerprint, "films": source.fingerprint}
    return fingerprint(parts)[:32]


class _CacheArrays:
    """The files of a cache under construction."""

    def __init__(self, part: Path, rows: int, size: int, features: int, pooled: int, *, done: int) -> None:
        def open_array(name: str, kind: str, *shape: int) -> Any:
            path = part / name
            return open_memmap(path, "r+") if done else open_memmap(path, "w+", dtype=np.dtype(kind), shape=(rows, *shape))

        self.films, self.features, self.pixels = (
            open_array(FILMS, "f2", size, size),
            open_array(FEATURES, "f4", features),
            open_array(PIXELS, "U64"),
        )
        self.pooled = open_array(POOLED, "f4", pooled) if pooled else None  # a memory map cannot be empty

    def write_rows(self, start: int, model_inputs: npt.NDArray[np.float16], encoded: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Write rows from `start` on and flush them."""
        rows = slice(start, start + len(model_inputs))
        self.films[rows], self.pixels[rows] = model_inputs, [_hash_model_input(model_input) for model_input in model_inputs]
        self.features[rows] = encoded[0].numpy()
        if self.pooled is not None:
            self.pooled[rows] = encoded[1].numpy()
        for array in (self.films, self.pixels, self.features, self.pooled):
            if array is not None:
                array.flush()


def _fill_cache(
    part: Path, source: CaseSource, base: ChosenBase, device: torch.device, workers: int, advance: Callable[[int], None]
) -> None:
    """Encode all missing films, one batch at a time."""
    encoder, count = base.encoder.to(device), len(source.cases)
    part.mkdir(exist_ok=True)
    done = _count_finished_rows(part)
    advance(done)
    arrays: _CacheArrays | None = None
    model_inputs = source.map_films(range(done, count), lambda image: _compute_model_input(base, image), workers=workers)
    for start in range(done, count, BATCH):
        batch = np.stack(list(islice(model_inputs, BATCH)))
        encoded = _encode_batch(encoder, base, batch)
        if arrays is None:
            shapes = (base.preprocess.size, encoded[0].shape[1], encoded[1].shape[1])
            arrays = _CacheArrays(part, count, *shapes, done=done)
        arrays.write_rows(start, batch, encoded)
        _write_atomically(part / ROWS, str(start + len(batch)))
        advance(start + len(batch))


def _count_finished_rows(part: Path) -> int:
    """Return the number of complete rows."""
    rows = part / ROWS
    return int(rows.read_text()) if rows.is_file() else 0


def _compute_model_input(base: ChosenBase, image: Image) -> npt.NDArray[np.float16]:
    with translate_model_errors():
        return np.asarray(base.preprocess.make_model_input(image)[0].numpy(), dtype=np.float16)


def _encode_batch(encoder: Encoder, base: ChosenBase, model_inputs: npt.NDArray[np.float16]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features [n, D] and pooled [n, W] on the CPU. Encodes the rounded model inputs, which are the stored ones."""
    pixels = base.preprocess.normalise(torch.from_numpy(model_inputs.astype(np.float32))[:, None].to(encoder.device))
    with translate_model_errors():
        try:
            with torch.inference_mode():
                pooled, features = encode_activations(encoder, compute_activations(encoder, pixels, k=0), k=0)
        except CannotPartition:
            features = encoder.encode_images(pixels)
            pooled = features[:, :0]
    if not bool(torch.isfinite(features).all()):
        raise WeightsRejected("the encoder gives values that are not finite", hint="import sound weights")
    return features.cpu(), pooled.cpu()


def _publish_cache(part: Path, folder: Path) -> None:
    hashes = {name: file_sha256(part / name) for name in (FEATURES, POOLED, PIXELS) if (part / name).is_file()}
    _write_atomically(part / CARD, json.dumps({"format": FORMAT, "sha256": hashes}))
    shutil.rmtree(folder, ignore_errors=True)  # a folder without a card is incomplete
    part.rename(folder)


def _load_cache(folder: Path, source: CaseSource, base: ChosenBase) -> FeatureCache:
    """Read a cache and verify its hashes, a sample of its model inputs, and some films reread from the source."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    hint = f"remove the folder {folder}: it will be made again"
    for name, sha256 in card["sha256"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise PermanentError(f"{folder / name} is not what was written", hint=hint)
    films = np.load(folder / FILMS, mmap_mode="r")
    pixels, features = np.load(folder / PIXELS), np.load(folder / FEATURES)
    pooled = np.load(folder / POOLED) if POOLED in card["sha256"] else np.zeros((len(films), 0), dtype=np.float32)
    for row in _choose_spread_rows(len(films), VERIFIED_ROWS):
        if _hash_model_input(films[row]) != pixels[row]:
            raise PermanentError(f"{folder / FILMS} is damaged at row {row}", hint=hint)
    for row in _choose_spread_rows(len(films), REREAD_FILMS):
        if float(np.abs(_compute_model_input(base, source.read_film(row)) - films[row]).max()) > GREY_LEVEL_TOLERANCE:
            raise PermanentError(f"the source gives another film at row {row} than when {folder} was filled", hint=hint)
    return FeatureCache(films, torch.from_numpy(features), torch.from_numpy(pooled), pixels)


def _choose_spread_rows(count: int, wanted: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).astype(int).tolist()))


def _hash_model_input(model_input: npt.NDArray[np.float16]) -> str:
    return hashlib.sha256(np.ascontiguousarray(model_input).tobytes()).hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.new")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextmanager
def _hold_lock(lock: Path) -> Iterator[None]:
    """Hold a file lock, released with the process. TransientError where another process holds it."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransientError(
                f"another process fills the cache {lock.stem}", hint="wait for it, or give another --cache"
            ) from error
        yield


@contextmanager
def _translate_disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutOfResources(
            f"the feature cache {root} cannot be used: {error.strerror}", hint="make room, or give another --cache"
        ) from error
