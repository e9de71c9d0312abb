"""A ModelVersion, loaded and proved, as the pipeline's Scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
import torch

from adapters.ml.activation_cache import Kept, KeptSettings, key_of
from adapters.ml.error_translation import in_the_pipelines_words
from adapters.ml.model_input import Squares, squares_for
from adapters.model_files import HEAD, base_folder, version_folder
from models.classifier import bfloat16
from models.classifier.classifier import Classifier
from models.classifier.version_weights import Addition
from models.encoder.activations import Cut, cut
from models.encoder.base import Base, read_base
from models.encoder.checkpoint import read_tensors
from models.encoder.cpu_parallel import Lanes
from models.encoder.golden import DEVICE_TOLERANCE, TOLERANCE, Golden
from models.encoder.precision import Precision
from pipeline.domain import FINDINGS, Image, ModelVersion, Scores, StoredInstance
from pipeline.errors import ConfigurationError, WeightsCorrupt, WeightsIncompatible
from pipeline.ports.images import Landing, Seen, Sight

_RECALLED = 64  # films at a time

_log = structlog.get_logger("radclipd.gpu")


class ClipScorer:
    """Implements ports.Scorer."""

    def __init__(
        self, version: ModelVersion, classifier: Classifier, kept: Kept, *, batch_size: int, squares: Squares | None = None
    ) -> None:
        """`squares`: made elsewhere than is best for the classifier's device."""
        self._version = version
        self._classifier = classifier
        self._kept = kept
        self._batch_size = batch_size
        self._squares = squares or squares_for(classifier.preprocess, classifier.encoder.device)
        self._lanes = Lanes(torch.get_num_threads() if classifier.encoder.device.type == "cpu" else 1)

    @property
    def version(self) -> ModelVersion:
        return self._version

    @property
    def sight(self) -> Sight:
        return self._squares.sight

    @property
    def land(self) -> Landing:
        return self._squares.land

    def recall(self, films: Sequence[StoredInstance]) -> dict[str, Scores]:
        k = self._kept.k
        if k is None or not self._classifier.scores_from(k):
            return {}
        found: dict[str, Scores] = {}
        for start in range(0, len(films), _RECALLED):
            some = films[start : start + _RECALLED]
            there = self._kept.read([key_of(film) for film in some])
            known = [film for film in some if key_of(film) in there]
            if known:
                with in_the_pipelines_words():
                    scores = self._classifier.score_cut(Cut.of(there[key_of(film)] for film in known), k=k)
                found |= {film.header.sop_instance_uid: row for film, row in zip(known, scores, strict=True)}
        return found

    def score(self, images: Sequence[Image | Seen], films: Sequence[StoredInstance] = ()) -> Scores:
        with in_the_pipelines_words():
            parts = [self._score(some, of) for some, of in self._batches(images, films)]
            return np.concatenate(parts) if parts else np.zeros((0, len(FINDINGS)), dtype=np.float32)

    def not_kept(self, films: Sequence[StoredInstance]) -> list[StoredInstance]:
        missing = set(self._kept.missing([key_of(film) for film in films])) if self._kept.k is not None else set()
        return [film for film in films if key_of(film) in missing and self._kept.admits(film)]

    def keep(self, images: Sequence[Image | Seen], films: Sequence[StoredInstance]) -> None:
        if (k := self._kept.k) is None:
            return
        with in_the_pipelines_words():
            for some, of in self._batches(images, films):
                self._write(of, cut(self._classifier.encoder, self._pixels(some), k=k))

    @property
    def room(self) -> int:
        return self._kept.capacity

    def close(self) -> None:
        """Release the files of what is kept, and end the lanes."""
        self._kept.close()
        self._lanes.close()

    def _score(self, images: Sequence[Image | Seen], films: Sequence[StoredInstance]) -> Scores:
        score = self._classifier.score_pixels
        if (k := self._kept.k) is None or not films:
            return np.concatenate(self._lanes.over(lambda some: score(self._pixels(some)), images))
        score_and_cut = partial(self._classifier.score_and_cut, k=k)
        parts, done = self._lanes.over(lambda some: score_and_cut(self._pixels(some)), images), 0
        for scores, made in parts:
            self._write(films[done : done + len(scores)], made)
            done += len(scores)
        return np.concatenate([scores for scores, _ in parts])

    def _write(self, films: Sequence[StoredInstance], made: Cut) -> None:
        rows = [row for row, film in enumerate(films) if self._kept.admits(film)]
        self._kept.write([key_of(films[row]) for row in rows], made.rows(rows))

    def _pixels(self, images: Sequence[Image | Seen]) -> torch.Tensor:
        return self._classifier.preprocess.normalised(self._squares.of(images))

    def _batches(
        self, images: Sequence[Image | Seen], films: Sequence[StoredInstance]
    ) -> Iterator[tuple[Sequence[Image | Seen], Sequence[StoredInstance]]]:
        for start in range(0, len(images), self._batch_size):
            yield images[start : start + self._batch_size], films[start : start + self._batch_size]


class ClipScorers:
    """Implements ports.Scorers. Holds one loaded version; another one takes its place."""

    def __init__(
        self,
        store_root: Path,
        *,
        device: str = "auto",
        batch_size: int,
        threads: int,
        precision: Precision = "float32",
        kept: KeptSettings | None = None,
    ) -> None:
        self._store_root = store_root
        self._device = device
        self._batch_size = batch_size
        self._threads = threads
        self._precision = precision
        self._kept = kept
        self._loaded: ClipScorer | None = None

    def load(self, version: ModelVersion) -> ClipScorer:
        if self._loaded is None or self._loaded.version.device_uid != version.device_uid:
            if self._loaded is not None:
                self._loaded.close()
            self._loaded = None  # frees the old weights before the new ones come
            self._loaded = load_scorer(
                version,
                self._store_root,
                device=self._device,
                batch_size=self._batch_size,
                threads=self._threads,
                precision=self._precision,
                kept=self._kept,
            )
        return self._loaded


def load_scorer(
    version: ModelVersion,
    store_root: Path,
    *,
    device: str = "auto",
    batch_size: int,
    threads: int,
    precision: Precision = "float32",
    kept: KeptSettings | None = None,
) -> ClipScorer:
    """Load a version and hold its files to the catalog's card: hashes, architecture, preprocessing, golden embeddings.

    `device`: auto, cpu, cuda or cuda:N. `threads`: of torch on the CPU; 0 leaves torch's choice. `precision`: bfloat16 only where
    it scores as float32 does. `kept`: where activations are kept; None keeps none. Raises NoWeights where files are missing,
    WeightsRejected where they are not what the card says, ConfigurationError for a device that is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    with in_the_pipelines_words():
        base = read_base(base_folder(store_root, version.base), expected=version.card)
        if base.sha256 != version.weights_sha256:
            raise WeightsCorrupt(
                f"version {version.number} contradicts itself on the SHA-256 of its weights", hint="import the weights again"
            )
        classifier = Classifier.of(base, read_addition(version, store_root)).to(chosen)
        _prove(version, base, classifier, tolerance=TOLERANCE if chosen.type == "cpu" else DEVICE_TOLERANCE)
        classifier = in_precision(classifier, precision)
    _log.info(
        "model loaded",
        version=version.number,
        base=version.base,
        device=str(chosen),
        precision=str(classifier.encoder.precision),
        marking=version.marking,
    )
    return ClipScorer(version, classifier, Kept(replace(base, encoder=classifier.encoder), kept), batch_size=batch_size)


def in_precision(classifier: Classifier, precision: Precision) -> Classifier:
    """Return the classifier in bfloat16 where that is wanted, gains, and scores as float32 does; what was compared is logged."""
    served, compared, reason = bfloat16.served(classifier, precision)
    figures = {} if compared is None else {name: round(value, 5) for name, value in asdict(compared).items()}
    if reason:
        _log.warning("scoring in float32, which is slower", reason=reason, **figures, hint='[score] precision = "float32" says so')
    elif compared is not None:
        _log.info("scoring in bfloat16", **figures, allowed=bfloat16.LARGEST_DIFFERENCE)
    return served


def choose_device(device: str) -> torch.device:
    """Return the device meant; ConfigurationError where it is not there. TF32 is off: scores must not depend on the card."""
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(wanted)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigurationError(
            f"the device {device!r} cannot be used: {reason}", hint="set [model] device to auto, cpu or cuda"
        ) from error
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return chosen


def read_addition(version: ModelVersion, store_root: Path) -> Addition:
    """Read what a version adds to its base and hold it to the catalog: hash, number of findings.

    CheckpointMissing, CheckpointCorrupt; WeightsIncompatible of either tree.
    """
    sha256 = str(version.card.get("head", {}).get("sha256", ""))
    addition = Addition.from_tensors(read_tensors(version_folder(store_root, version.number), HEAD, sha256=sha256))
    if len(addition.head.bias) != len(FINDINGS):
        raise WeightsIncompatible(
            f"the head of version {version.number} scores {len(addition.head.bias)} findings, not {len(FINDINGS)}"
        )
    return addition


def _prove(version: ModelVersion, base: Base, classifier: Classifier, *, tolerance: float) -> None:
    """Compare with the golden embeddings what came on another device than the base was read on, and what moved."""
    device = classifier.encoder.device
    if device.type != "cpu":
        base.golden.check(classifier.encoder, classifier.preprocess, tolerance=tolerance)
    if classifier.unfrozen is not None:
        golden = Golden.from_card(version.card.get("moved_golden", {}))
        golden.check(classifier.unfrozen.encoder, classifier.preprocess, tolerance=tolerance)
