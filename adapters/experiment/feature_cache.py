"""Feature cache: model inputs and features of films, one folder per weights and preprocessing, one row per film.

Rows are found by the identity of their film (`CaseSource.film_keys`): sources share the films that they have in common, and a
changed list of films costs the new ones alone. `feature_files` describes the files. Filling proceeds batch by batch, each durable,
so that an interrupted run resumes.
"""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from adapters.experiment.bases import ChosenBase
from adapters.experiment.case_source import CaseSource
from adapters.experiment.feature_files import FeatureFiles, FilmBatch
from adapters.ml.error_translation import translate_model_errors
from models.encoder.activations import compute_activations, encode_activations
from models.encoder.encoder import Encoder
from models.errors import CannotPartition
from models.fingerprint import fingerprint
from pipeline.domain import Image
from pipeline.errors import OutOfResources, PermanentError, TransientError, WeightsRejected

FORMAT = 2
BATCH = 64
"""Films per pass of the encoder. A resumed run has the batches, and so the results, of an uninterrupted one."""
VERIFIED_ROWS = 2048
"""Maximum number of model inputs hashed when a cache is loaded, evenly spread."""
GREY_LEVEL_TOLERANCE = 2e-3
"""Tolerance of a grey level on rereading: processors differ in float16 rounding."""
REREAD_FILMS = 3
"""Films reread from the source when a cache is loaded, to verify that the source is the same."""


@dataclass(frozen=True)
class FeatureCache:
    """Cached arrays. `films` holds every film of the cache; `rows` are those of the source, one per case."""

    films: npt.NDArray[np.float16]  # [M, S, S] memory map
    rows: npt.NDArray[np.intp]  # [N]
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
    """Return the cached films and features of a source, computing missing ones. `advance` receives the number of finished cases.

    TransientError where another process computes them, PermanentError where films of the source have changed, OutOfResources for
    disk errors.
    """
    folder, films = root / cache_key(base), _name_films(source)
    with _translate_disk_errors(root):
        folder.mkdir(parents=True, exist_ok=True)
        files = FeatureFiles(folder)
        if (files.find_rows(films) < 0).any():
            with _hold_lock(folder / f"{source.fingerprint[:32]}.lock"):
                files.refresh()
                _encode_missing_films(files, films, source, base, device, workers, advance)
        return _load_cache(folder, files, films, source, base)


def cache_key(base: ChosenBase) -> str:
    """Return the name of the folder: 32 hex digits for weights and preprocessing."""
    return fingerprint({"format": FORMAT, "weights": base.sha256, "preprocess": base.preprocess.fingerprint})[:32]


def _name_films(source: CaseSource) -> list[str]:
    return [fingerprint([source.kind, key]) for key in source.film_keys]


def _encode_missing_films(
    files: FeatureFiles,
    films: Sequence[str],
    source: CaseSource,
    base: ChosenBase,
    device: torch.device,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Encode the films that the cache lacks, one batch at a time."""
    encoder = base.encoder.to(device)
    absent = np.flatnonzero(files.find_rows(films) < 0).tolist()
    cases_of_film = Counter(films[case] for case in absent)
    _, first = np.unique([films[case] for case in absent], return_index=True)
    missing = [absent[place] for place in np.sort(first)]
    done = len(films) - len(absent)
    advance(done)
    model_inputs = source.map_films(missing, lambda image: _compute_model_input(base, image), workers=workers)
    for start in range(0, len(missing), BATCH):
        batch = np.stack(list(islice(model_inputs, BATCH)))
        features, pooled = _encode_batch(encoder, base, batch)
        names = [films[case] for case in missing[start : start + BATCH]]
        files.append(FilmBatch(names, batch, features.numpy(), pooled.numpy()))
        done += sum(cases_of_film[name] for name in names)
        advance(done)


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


def _load_cache(folder: Path, files: FeatureFiles, names: Sequence[str], source: CaseSource, base: ChosenBase) -> FeatureCache:
    """Read a cache; verify the features, a sample of the model inputs, and some films reread from the source."""
    rows = files.find_rows(names)
    features, pooled = files.read_features(rows)
    files.verify_model_inputs([int(rows[case]) for case in _choose_spread_rows(len(rows), VERIFIED_ROWS)])
    films = files.read_model_inputs()
    for case in _choose_spread_rows(len(rows), REREAD_FILMS):
        if float(np.abs(_compute_model_input(base, source.read_film(case)) - films[rows[case]]).max()) > GREY_LEVEL_TOLERANCE:
            raise PermanentError(
                f"the source gives another film at row {case} than when {folder} was filled",
                hint=f"remove the folder {folder}: it will be made again",
            )
    return FeatureCache(films, rows, torch.from_numpy(features), torch.from_numpy(pooled), files.hashes_of_model_inputs(rows))


def _choose_spread_rows(count: int, wanted: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).astype(int).tolist()))


@contextmanager
def _hold_lock(lock: Path) -> Iterator[None]:
    """Hold a file lock, released with the process. TransientError where another process holds it."""
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TransientError(
                f"another process fills the cache {lock.parent} with these films", hint="wait for it, or give another --cache"
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
