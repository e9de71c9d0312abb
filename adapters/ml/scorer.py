"""The pipeline's Scorer: a ModelVersion, loaded and checked against its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
import torch
from torch.nn.functional import adaptive_avg_pool2d

from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings, activation_key
from adapters.ml.error_translation import translate_model_errors
from adapters.ml.model_input import ModelInputBuilder, choose_model_input_builder
from adapters.storage.model_files import base_folder, version_folder
from models.checkpoint_files import HEAD
from models.classifier import bfloat16
from models.classifier.classifier import Classifier
from models.classifier.version_weights import VersionWeights
from models.encoder.activations import SplitActivations, encode_split
from models.encoder.base import Base, read_base
from models.encoder.checkpoint import read_tensors
from models.encoder.cpu_parallel import CpuDataParallel
from models.encoder.golden import DEVICE_TOLERANCE, TOLERANCE, GoldenEmbedding
from models.encoder.precision import Precision
from pipeline.domain import FINDINGS, Image, ModelVersion, Scores, StoredInstance
from pipeline.errors import ConfigurationError, WeightsCorrupt, WeightsIncompatible
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.thumbnails import THUMBNAIL_SIDE

_RECALL_BATCH = 64  # instances read from the cache at a time

_log = structlog.get_logger("radclipd.ml")


class ClipScorer:
    """Implements `ports.services.Scorer`."""

    def __init__(
        self,
        version: ModelVersion,
        classifier: Classifier,
        cache: ActivationCache,
        *,
        batch_size: int,
        input_builder: ModelInputBuilder | None = None,
    ) -> None:
        """`input_builder`: None chooses the one for the classifier's device."""
        self._version = version
        self._classifier = classifier
        self._cache = cache
        self._batch_size = batch_size
        self._input_builder = input_builder or choose_model_input_builder(classifier.preprocess, classifier.encoder.device)
        self._cpu_parallel = CpuDataParallel(torch.get_num_threads() if classifier.encoder.device.type == "cpu" else 1)

    @property
    def version(self) -> ModelVersion:
        return self._version

    @property
    def input_transform(self) -> InputTransform:
        return self._input_builder

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        k = self._cache.k
        if k is None or not self._classifier.can_score_from(k):
            return {}
        found: dict[str, Scores] = {}
        for start in range(0, len(instances), _RECALL_BATCH):
            batch = instances[start : start + _RECALL_BATCH]
            cached = self._cache.read([activation_key(instance) for instance in batch])
            known = [instance for instance in batch if activation_key(instance) in cached]
            if known:
                split = SplitActivations.stack(cached[activation_key(instance)] for instance in known)
                with translate_model_errors():
                    scores = self._classifier.score_activations(split, k=k)
                found |= {instance.header.sop_instance_uid: row for instance, row in zip(known, scores, strict=True)}
        return found

    def score(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance] = ()) -> Scores:
        with translate_model_errors():
            parts = [self._score_batch(batch, of) for batch, of in self._split_batches(images, instances)]
            return np.concatenate(parts) if parts else np.zeros((0, len(FINDINGS)), dtype=np.float32)

    def thumbnails(self, images: Sequence[Image | ModelInput]) -> list[bytes]:
        with translate_model_errors():
            tiles = [
                adaptive_avg_pool2d(self._input_builder.build(images[start : start + self._batch_size]), THUMBNAIL_SIDE)
                for start in range(0, len(images), self._batch_size)
            ]
        return [(255 * tile).round().to(torch.uint8).cpu().numpy().tobytes() for tile in torch.cat(tiles)] if tiles else []

    def uncached(self, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        if self._cache.k is None:
            return []
        missing = set(self._cache.missing([activation_key(instance) for instance in instances]))
        return [instance for instance in instances if activation_key(instance) in missing and self._cache.admits(instance)]

    def cache_activations(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance]) -> None:
        if (k := self._cache.k) is None:
            return
        with translate_model_errors():
            for batch, of in self._split_batches(images, instances):
                self._write_activations(of, encode_split(self._classifier.encoder, self._prepare_pixels(batch), k=k))

    @property
    def cache_capacity(self) -> int:
        return self._cache.capacity

    def close(self) -> None:
        """Release the activation cache and end the threads."""
        self._cache.close()
        self._cpu_parallel.close()

    def _score_batch(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance]) -> Scores:
        score = self._classifier.score_pixels
        if (k := self._cache.k) is None or not instances:
            return np.concatenate(self._cpu_parallel.map_chunks(lambda chunk: score(self._prepare_pixels(chunk)), images))
        score_and_split = partial(self._classifier.score_and_split, k=k)
        parts, done = self._cpu_parallel.map_chunks(lambda chunk: score_and_split(self._prepare_pixels(chunk)), images), 0
        for scores, split in parts:
            self._write_activations(instances[done : done + len(scores)], split)
            done += len(scores)
        return np.concatenate([scores for scores, _ in parts])

    def _write_activations(self, instances: Sequence[StoredInstance], split: SplitActivations) -> None:
        rows = [row for row, instance in enumerate(instances) if self._cache.admits(instance)]
        self._cache.write([activation_key(instances[row]) for row in rows], split.select(rows))

    def _prepare_pixels(self, images: Sequence[Image | ModelInput]) -> torch.Tensor:
        return self._classifier.preprocess.normalise(self._input_builder.build(images))

    def _split_batches(
        self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance]
    ) -> Iterator[tuple[Sequence[Image | ModelInput], Sequence[StoredInstance]]]:
        for start in range(0, len(images), self._batch_size):
            yield images[start : start + self._batch_size], instances[start : start + self._batch_size]


class ClipScorers:
    """Implements `ports.services.Scorers`. Holds one loaded version at a time."""

    def __init__(
        self,
        store_root: Path,
        *,
        device: str = "auto",
        batch_size: int,
        threads: int,
        precision: Precision = "float32",
        cache_settings: ActivationCacheSettings | None = None,
    ) -> None:
        self._load = partial(
            load_scorer,
            store_root=store_root,
            device=device,
            batch_size=batch_size,
            threads=threads,
            precision=precision,
            cache_settings=cache_settings,
        )
        self._loaded: ClipScorer | None = None

    def load(self, version: ModelVersion) -> ClipScorer:
        if self._loaded is None or self._loaded.version.device_uid != version.device_uid:
            if self._loaded is not None:
                self._loaded.close()
            self._loaded = None  # frees the old weights before the new ones are read
            self._loaded = self._load(version)
        return self._loaded


def load_scorer(
    version: ModelVersion,
    store_root: Path,
    *,
    device: str = "auto",
    batch_size: int,
    threads: int,
    precision: Precision = "float32",
    cache_settings: ActivationCacheSettings | None = None,
) -> ClipScorer:
    """Load a version and check its files against the catalog's card: hashes, architecture, preprocessing, golden embeddings.

    `device`: auto, cpu, cuda or cuda:N. `threads`: of torch on the CPU; 0 leaves torch's choice. `precision`: bfloat16 only where
    its scores agree with float32. `cache_settings`: None keeps no activations. Raises NoWeights for missing files,
    WeightsRejected for files that differ from the card, ConfigurationError for a missing device.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    with translate_model_errors():
        base = read_base(base_folder(store_root, version.base), expected=version.card)
        if base.sha256 != version.weights_sha256:
            raise WeightsCorrupt(
                f"version {version.number} contradicts itself on the SHA-256 of its weights", hint="import the weights again"
            )
        classifier = Classifier.of(base, read_version_weights(version, store_root)).to(chosen)
        _check_golden(version, base, classifier, tolerance=TOLERANCE if chosen.type == "cpu" else DEVICE_TOLERANCE)
        classifier = apply_precision(classifier, precision)
    _log.info(
        "model loaded",
        version=version.number,
        base=version.base,
        device=str(chosen),
        precision=str(classifier.encoder.precision),
        notice=version.notice,
    )
    return ClipScorer(
        version, classifier, ActivationCache(replace(base, encoder=classifier.encoder), cache_settings), batch_size=batch_size
    )


def apply_precision(classifier: Classifier, precision: Precision) -> Classifier:
    """Return the classifier in bfloat16 where it is wanted, faster, and agrees with float32. The comparison is logged."""
    served, compared, reason = bfloat16.choose_serving_precision(classifier, precision)
    figures = {} if compared is None else {name: round(value, 5) for name, value in asdict(compared).items()}
    if reason:
        _log.warning(
            "scoring in float32, which is slower",
            reason=reason,
            **figures,
            hint='[score] precision = "float32" skips the comparison',
        )
    elif compared is not None:
        _log.info("scoring in bfloat16", **figures, allowed=bfloat16.MAX_SCORE_DIFFERENCE)
    return served


def choose_device(device: str) -> torch.device:
    """Return the device; ConfigurationError where it is missing. TF32 is turned off: scores must not depend on the GPU model."""
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


def read_version_weights(version: ModelVersion, store_root: Path) -> VersionWeights:
    """Read the tensors that a version adds to its base and check them against the catalog: hash, number of findings.

    CheckpointMissing, CheckpointCorrupt, CheckpointIncompatible; WeightsIncompatible for another number of findings.
    """
    sha256 = str(version.card.get("head", {}).get("sha256", ""))
    weights = VersionWeights.from_tensors(read_tensors(version_folder(store_root, version.number), HEAD, sha256=sha256))
    if len(weights.head.bias) != len(FINDINGS):
        raise WeightsIncompatible(
            f"the head of version {version.number} scores {len(weights.head.bias)} findings, not {len(FINDINGS)}"
        )
    return weights


def _check_golden(version: ModelVersion, base: Base, classifier: Classifier, *, tolerance: float) -> None:
    """Check the golden embeddings again: on a device other than the CPU, where the base was read, and for fine-tuned blocks."""
    device = classifier.encoder.device
    if device.type != "cpu":
        base.golden.check(classifier.encoder, classifier.preprocess, tolerance=tolerance)
    if classifier.unfrozen is not None:
        golden = GoldenEmbedding.from_card(version.card.get("moved_golden", {}))
        golden.check(classifier.unfrozen.encoder, classifier.preprocess, tolerance=tolerance)
