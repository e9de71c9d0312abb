"""Labelled studies -> a candidate version: films as for scoring, base as for serving, the rest `models.training.training_round`.

The files of a learnt version (`models.classifier.version_weights`): the head and, where the encoder was unfrozen, the tensors
that moved, in one safetensors file whose SHA-256 the catalog keeps.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import structlog
import torch

from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings
from adapters.ml.distributed.ranks import RankPool, choose_devices
from adapters.ml.error_translation import translate_model_errors
from adapters.ml.measures import ScoreMatrix, compare_scores, comparison_card, json_number, measure_scores, select_findings
from adapters.ml.monitoring import MonitoringSample
from adapters.ml.scorer import apply_precision, read_version_weights
from adapters.ml.training_images import TrainingImageReader
from adapters.model_files import HEAD, base_folder
from models.classifier.classifier import Classifier, UnfrozenEncoder
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import Prompts, read_prompts
from models.classifier.version_weights import FineTunedBlocks, OutOfFoldScores, VersionWeights
from models.encoder.activations import SplitActivations
from models.encoder.base import Base, library_versions, read_base
from models.encoder.checkpoint import write_checkpoint
from models.encoder.golden import GoldenEmbedding
from models.encoder.precision import Precision
from models.evaluation.cases import UNKNOWN
from models.training.fold_fits import run_fits_sequentially
from models.training.training_round import STAGE_1, TrainingData, TrainingPlan, TrainingResult, run_training_round
from pipeline import rules
from pipeline.domain import FINDINGS, Comparison, ModelVersion, StoredInstance, TrainingExample, TrainingSet, VersionState
from pipeline.errors import PermanentError
from pipeline.ports.images import ImageReader
from pipeline.ports.services import StageCallback

MIN_CALIBRATION_POSITIVES = 20
"""Films that show a finding, from which on its score may be called a probability."""
_BATCH_IMAGES = 64

_log = structlog.get_logger("radclipd.gpu")


class TrainingStore(Protocol):
    """What the trainer needs of the model directory."""

    @property
    def root(self) -> Path: ...

    def stage(self) -> AbstractContextManager[Path]:
        """Give an empty folder."""

    def publish_version(self, staged: Path, number: int) -> Path:
        """Put a staged version in its place."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """`[learn]`, `[model]` and `[activation_cache]` of the configuration.

    `band`: the widest undetermined zone; `devices`: see `choose_devices`; `threads`: 0 leaves torch's choice; `precision`: that of
    scoring, with which it shares what is kept; `kept`: of the same k as the plan, None keeps nothing.
    """

    plan: TrainingPlan
    min_positives: int
    undetermined_margin: float
    device: str = "auto"
    devices: Literal["auto"] | int = 1
    threads: int = 0
    precision: Precision = "float32"
    cache_settings: ActivationCacheSettings | None = None


@dataclass(frozen=True)
class ClipCandidate:
    """Implements ports.Candidate."""

    comparisons: tuple[Comparison, ...]
    _store: TrainingStore
    _version_weights: VersionWeights
    _version: ModelVersion

    @contextmanager
    def stage_files(self) -> Iterator[Callable[[int], ModelVersion]]:
        with self._store.stage() as folder, translate_model_errors():
            about = {"base": {"name": self._version.base, "sha256": self._version.weights_sha256}, "findings": list(FINDINGS)}
            card = write_checkpoint(folder, HEAD, self._version_weights.tensors, about | self._version.card)
            sha256 = str(card["weights"]["sha256"])

            def publish(number: int) -> ModelVersion:
                self._store.publish_version(folder, number)
                kept = dict(self._version.card) | {"head": {"sha256": sha256}}
                return replace(self._version, number=number, card=kept | {"weights": _build_weights_card(self._version)})

            yield publish


class ClipTrainer:
    """Implements ports.Trainer."""

    def __init__(self, store: TrainingStore, pixels: ImageReader, settings: TrainerSettings) -> None:
        self._store = store
        self._pixels = pixels
        self._settings = settings

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> ClipCandidate:
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        devices = choose_devices(self._settings.device, self._settings.devices)
        with translate_model_errors():
            base = read_base(base_folder(self._store.root, training_set.serving.base), expected=training_set.serving.card)
            base.encoder.to(devices[0])
            prompts = read_prompts()
            text = zero_shot_head(base.encoder, prompts)
            front = apply_precision(Classifier(base.encoder, base.preprocess, text), self._settings.precision).encoder
            with self._start_ranks(devices, training_set, base) as ranks:
                with closing(ActivationCache(replace(base, encoder=front), self._settings.cache_settings)) as kept:
                    reader = TrainingImageReader(base, self._pixels, kept, k=self._settings.plan.recipe.k, serving_encoder=front)
                    lessons, films, lost = self._read_training_images(training_set, base, reader, on_progress)
                taught = run_training_round(
                    base.encoder, text, films, self._settings.plan, on_progress, ranks.run_fits if ranks else run_fits_sequentially
                )
            before = read_version_weights(training_set.serving, self._store.root)
            judged = _CandidateEvaluation(base, films, lessons, taught, reader, on_progress, seed=self._settings.plan.seed)
            comparisons = judged.comparisons(text, before, training_set)
            measured = judged.measures(text)
            addition, thresholds = (
                _build_version_weights(taught, before.head, judged.cases),
                _choose_thresholds(taught, training_set),
            )
            sample = MonitoringSample(training_set.monitoring_examples, base, reader, on_progress, seed=self._settings.plan.seed)
            served = {f"version {training_set.serving.number}": before} if training_set.serving.label_fingerprint else {}
            vetoes, monitored = sample.compare_candidate(addition, text, served, thresholds)
            comparisons += vetoes
            base.encoder.to(torch.device("cpu"))  # whose golden embeddings every other device is held to
        _log.info(
            "learnt",
            method=taught.method,
            films=len(lessons),
            unreadable=lost,
            findings=int(taught.findings.sum()),
            devices=len(devices),
            activations_read=kept.hits,
            activations_made=kept.misses,
        )
        with translate_model_errors():
            row = _build_version(training_set, base, prompts, taught, films, addition, thresholds, self._settings)
        compared = [comparison_card(comparison) for comparison in comparisons]
        row.card["learning"] |= {"unreadable": lost, "measures": measured, "monitoring": monitored, "comparisons": compared}
        row.card["learning"] |= {"newest_label": training_set.newest_label_id, "devices": len(devices)}
        return ClipCandidate(tuple(comparisons), self._store, addition, row)

    def _start_ranks(
        self, devices: Sequence[torch.device], course: TrainingSet, base: Base
    ) -> AbstractContextManager[RankPool | None]:
        """The ranks start while films are still read. None where one device does it all, or nothing is unfrozen."""
        if len(devices) == 1 or self._settings.plan.method == STAGE_1:
            return nullcontext()
        folder = base_folder(self._store.root, course.serving.base)
        return RankPool(devices, folder, sha256=base.sha256, threads=self._settings.threads)

    def _read_training_images(
        self, course: TrainingSet, base: Base, reader: TrainingImageReader, watch: StageCallback
    ) -> tuple[list[TrainingExample], TrainingData, int]:
        """Read the films. PermanentError where those that cannot be read leave too little."""
        read = self._read_labelled_images([lesson.instance for lesson in course.examples], base, reader, watch)
        lessons = [lesson for lesson, found in zip(course.examples, read, strict=True) if found is not None]
        found = rules.learnable_findings(lessons, min_positives=self._settings.min_positives)
        if not found.findings:
            lost = len(course.examples) - len(lessons)
            raise PermanentError(
                f"{lost} of {len(course.examples)} labelled films cannot be read; what is left is too little to learn"
            )
        labels = np.array([lesson.targets for lesson in lessons], dtype=np.int8)
        labels[:, [finding not in found.findings for finding in FINDINGS]] = UNKNOWN
        there = [film for film in read if film is not None]
        copies = [entering for _, entering in there if entering is not None]
        background = [
            row for row in reader.read_features(course.unlabelled_instances, "films of the archive", watch) if row is not None
        ]
        made = TrainingData(
            features=torch.stack([features for features, _ in there]),
            activations=torch.stack(copies) if copies else None,
            labels=labels,
            patients=np.array([lesson.patient_key for lesson in lessons], dtype=np.str_),
            unlabelled_features=torch.stack(background) if background else torch.zeros(0, base.dimension),
        )
        return lessons, made, len(course.examples) - len(lessons)

    def _read_labelled_images(
        self, instances: Sequence[StoredInstance], base: Base, reader: TrainingImageReader, watch: StageCallback
    ) -> list[tuple[torch.Tensor, torch.Tensor | None] | None]:
        """Return features [D] of each film, and the activations [V, L, W] of its copies where the tower has a cut."""
        if reader.split_k is None:
            return [None if found is None else (found, None) for found in reader.read_features(instances, "labelled films", watch)]
        copies = reader.read_views(instances, self._settings.plan.views(base.encoder, len(instances)), watch)
        return [None if found is None else (found.features[0], found.activations) for found in copies]


class _CandidateEvaluation:
    """The candidate and others on the films that were learnt from, as if none of them had seen the patients."""

    def __init__(
        self,
        base: Base,
        films: TrainingData,
        examples: Sequence[TrainingExample],
        result: TrainingResult,
        reader: TrainingImageReader,
        watch: StageCallback,
        *,
        seed: int,
    ) -> None:
        self._base, self._films, self._taught, self._seed = base, films, result, seed
        self._reader, self._watch, self._images = reader, watch, [lesson.instance for lesson in examples]
        self.cases = np.stack([_hash_study_uid(lesson.study_instance_uid) for lesson in examples])

    def comparisons(self, text_head: LinearHead, serving_weights: VersionWeights, course: TrainingSet) -> list[Comparison]:
        """Compare with zero-shot and, where it is another, with the serving version."""
        found = [self._compare_with("zero-shot", self._score_zero_shot(text_head))]
        if course.serving.label_fingerprint:
            found.append(self._compare_with(f"version {course.serving.number}", self._score_serving(serving_weights)))
        return found

    def measures(self, text_head: LinearHead) -> dict[str, Any]:
        """Return for each finding that was learnt what its scores are worth, JSON-able; rates at the even odds."""
        own, limits = self._taught.out_of_fold_scores, self._taught.prevalence
        found = measure_scores(
            own, self._score_zero_shot(text_head), self._films.labels, self._films.patients, thresholds=limits, seed=self._seed
        )
        for column, finding in enumerate(FINDINGS):
            found[finding]["prevalence"] = json_number(limits[column])  # the threshold, too
        return select_findings(found, self._taught.findings)

    def _compare_with(self, against: str, other: ScoreMatrix) -> Comparison:
        return compare_scores(
            against, self._taught.out_of_fold_scores, other, self._films.labels, self._films.patients, seed=self._seed
        )

    def _score_zero_shot(self, text_head: LinearHead) -> ScoreMatrix:
        return text_head.to(torch.device("cpu")).scores(self._films.features).numpy()

    def _score_serving(self, serving_weights: VersionWeights) -> ScoreMatrix:
        """Its scores of patients that it has not learnt from; of its own cases what was measured when it had not seen them."""
        scores = np.asarray(self._score_images(Classifier.of(self._base, serving_weights)), dtype=np.float64)
        if serving_weights.out_of_fold is None:
            return scores
        known = {
            case.tobytes(): row
            for case, row in zip(serving_weights.out_of_fold.cases.numpy(), serving_weights.out_of_fold.scores.numpy(), strict=True)
        }
        seen = {whose for whose, case in zip(self._films.patients, self.cases, strict=True) if case.tobytes() in known}
        for row, (whose, case) in enumerate(zip(self._films.patients, self.cases, strict=True)):
            if whose in seen:
                measured = known.get(case.tobytes())
                scores[row] = np.nan if measured is None else measured
        return scores

    def _score_images(self, classifier: Classifier) -> ScoreMatrix:
        """From the activations that are there; from the pixels where more blocks have moved than they stand in front of."""
        if classifier.unfrozen is None:
            return classifier.head.scores(self._films.features).numpy()
        classifier = classifier.to(self._base.encoder.device)
        if (k := self._reader.split_k) is not None and self._films.activations is not None and classifier.can_score_from(k):
            own = zip(
                torch.split(self._films.activations[:, 0], _BATCH_IMAGES),
                torch.split(self._films.features, _BATCH_IMAGES),
                strict=True,
            )
            return np.concatenate([classifier.score_activations(SplitActivations(*some), k=k) for some in own])
        return np.concatenate([self._score_from_pixels(classifier, image, done) for done, image in enumerate(self._images, 1)])

    def _score_from_pixels(self, classifier: Classifier, instance: StoredInstance, done: int) -> ScoreMatrix:
        self._watch("comparing with the version that serves", done, len(self._images))
        square = self._reader.read_model_input(instance)
        if square is None:
            return np.full((1, len(FINDINGS)), np.nan)
        return classifier.score_pixels(self._base.preprocess.normalise(square[None]))


def _hash_study_uid(study_instance_uid: str) -> npt.NDArray[np.uint8]:
    """uint8 [32]: the files of a version name no study."""
    return np.frombuffer(hashlib.sha256(study_instance_uid.encode()).digest(), dtype=np.uint8)


def _build_version_weights(result: TrainingResult, serving_head: LinearHead, cases: npt.NDArray[np.uint8]) -> VersionWeights:
    """Put the learnt findings into the head that served; the others keep theirs."""
    learnt = torch.from_numpy(result.findings)
    tensors = {name: tensor.clone() for name, tensor in serving_head.tensors.items()}
    for name, tensor in result.head.tensors.items():
        tensors[name][learnt] = tensor[learnt].to(tensors[name].dtype)
    scores = torch.from_numpy(np.where(result.findings, result.out_of_fold_scores, np.nan)).float()
    return VersionWeights(LinearHead(**tensors), result.fine_tuned, OutOfFoldScores(torch.from_numpy(cases.copy()), scores))


def _choose_thresholds(result: TrainingResult, course: TrainingSet) -> dict[str, float]:
    return {
        finding: float(result.prevalence[column]) if result.findings[column] else course.serving.thresholds[finding]
        for column, finding in enumerate(FINDINGS)
    }


def _build_version(
    course: TrainingSet,
    base: Base,
    prompts: Prompts,
    result: TrainingResult,
    films: TrainingData,
    weights: VersionWeights,
    thresholds: dict[str, float],
    settings: TrainerSettings,
) -> ModelVersion:
    """Return the version's row, without a number yet."""
    enough = ((films.labels == 1).sum(axis=0) >= MIN_CALIBRATION_POSITIVES) & result.findings
    return ModelVersion(
        number=0,
        state=VersionState.CANDIDATE,
        name=f"{result.method} {course.serving.base}",
        base=course.serving.base,
        weights_sha256=base.sha256,
        device_uid=f"2.25.{uuid.uuid4().int}",  # PS3.5 B.2
        notice=course.serving.notice,
        calibrated=bool(enough.all()),
        label_fingerprint=course.label_fingerprint,
        thresholds=thresholds,
        undetermined_margin=min(settings.undetermined_margin, min(thresholds.values()) / 2),
        card=_build_card(base, prompts, result, films, weights.fine_tuned, settings.plan),
    )


def _build_card(
    base: Base, prompts: Prompts, result: TrainingResult, films: TrainingData, moved: FineTunedBlocks | None, plan: TrainingPlan
) -> dict[str, Any]:
    """Return what the catalog keeps: all that loading is held to, and how the version came to be."""
    learnt = [finding for column, finding in enumerate(FINDINGS) if result.findings[column]]
    card: dict[str, Any] = {
        "recipe": result.method,
        "architecture": base.encoder.architecture.card,
        "preprocess": base.preprocess.card,
        "golden": base.golden.card,
        "prompts": {"fingerprint": prompts.fingerprint},
        "temperature": base.encoder.temperature,
        "source": dict(base.card.get("source", {})),
        "libraries": library_versions(),
        "calibration": f"Platt, slope {result.cross_validation[result.method].calibration.slope:.3f}, "
        "moved to the archive's prevalences",
        "learning": {
            "plan": plan.card,
            "films": len(films.labels),
            "patients": len(np.unique(films.patients)),
            "background": len(films.unlabelled_features),
            "findings": learnt,
            "kept": [finding for finding in FINDINGS if finding not in learnt],
            "folds": result.folds,
            "log_loss": {name: json_number(tried.loss) for name, tried in result.cross_validation.items()},
            "training": dict(result.fit_card),
            "notes": list(result.notes),
        },
    }
    if moved is not None:
        card["moved_golden"] = GoldenEmbedding.compute(
            UnfrozenEncoder.from_blocks(base.encoder, moved).encoder, base.preprocess
        ).card
    return card


def _build_weights_card(version: ModelVersion) -> dict[str, str]:
    return {"name": version.base, "sha256": version.weights_sha256}
