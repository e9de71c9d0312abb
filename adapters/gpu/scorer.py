"""A ModelVersion, loaded and proved, as the pipeline's Scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
import torch

from adapters.gpu.words import in_the_pipelines_words
from adapters.model_files import HEAD, base_folder, version_folder
from models.addition import Addition
from models.base import Base, read_base
from models.checkpoint import read_tensors
from models.classifier import Classifier
from models.golden import DEVICE_TOLERANCE, TOLERANCE, Golden
from pipeline.domain import FINDINGS, Image, ModelVersion, Scores
from pipeline.errors import ConfigurationError, WeightsRejected

_log = structlog.get_logger("radclipd.gpu")


class ClipScorer:
    """Implements ports.Scorer."""

    def __init__(self, version: ModelVersion, classifier: Classifier, *, batch_size: int) -> None:
        self._version = version
        self._classifier = classifier
        self._batch_size = batch_size

    @property
    def version(self) -> ModelVersion:
        return self._version

    def score(self, images: Sequence[Image]) -> Scores:
        with in_the_pipelines_words():
            return self._classifier.score(images, batch_size=self._batch_size)


class ClipScorers:
    """Implements ports.Scorers. Holds one loaded version; another one takes its place."""

    def __init__(self, store_root: Path, *, device: str = "auto", batch_size: int, threads: int) -> None:
        self._store_root = store_root
        self._device = device
        self._batch_size = batch_size
        self._threads = threads
        self._loaded: ClipScorer | None = None

    def load(self, version: ModelVersion) -> ClipScorer:
        if self._loaded is None or self._loaded.version.device_uid != version.device_uid:
            self._loaded = None  # frees the old weights before the new ones come
            self._loaded = load_scorer(
                version, self._store_root, device=self._device, batch_size=self._batch_size, threads=self._threads
            )
        return self._loaded


def load_scorer(version: ModelVersion, store_root: Path, *, device: str = "auto", batch_size: int, threads: int) -> ClipScorer:
    """Load a version and hold its files to the catalog's card: hashes, architecture, preprocessing, golden embeddings.

    `device`: auto, cpu, cuda or cuda:N. `threads`: of torch on the CPU; 0 leaves torch's choice. Raises NoWeights where files
    are missing, WeightsRejected where they are not what the card says, ConfigurationError for a device that is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = choose_device(device)
    with in_the_pipelines_words():
        base = read_base(base_folder(store_root, version.base), expected=version.card)
        if base.sha256 != version.weights_sha256:
            raise WeightsRejected(
                f"version {version.number} contradicts itself on the SHA-256 of its weights", hint="import the weights again"
            )
        classifier = Classifier.of(base, read_addition(version, store_root)).to(chosen)
        _prove(version, base, classifier, tolerance=TOLERANCE if chosen.type == "cpu" else DEVICE_TOLERANCE)
    _log.info("model loaded", version=version.number, base=version.base, device=str(chosen), marking=version.marking)
    return ClipScorer(version, classifier, batch_size=batch_size)


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

    CheckpointMissing, CheckpointCorrupt, WeightsIncompatible, WeightsRejected.
    """
    sha256 = str(version.card.get("head", {}).get("sha256", ""))
    addition = Addition.from_tensors(read_tensors(version_folder(store_root, version.number), HEAD, sha256=sha256))
    if len(addition.head.bias) != len(FINDINGS):
        raise WeightsRejected(
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
