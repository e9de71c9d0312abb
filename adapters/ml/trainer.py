"""Labelled studies -> a candidate version: images as for scoring, base as for serving, training by `training_round`.

A trained version (`models.classifier.version_weights`) has one safetensors file, whose SHA-256 the catalog holds: the head and,
where blocks were unfrozen, their fine-tuned tensors.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import structlog
import torch

from adapters.ml.activation_cache import ActivationCache, ActivationCacheSettings
from adapters.ml.candidate_evaluation import EvaluatedCandidate, EvaluationCases, ServingColumns, evaluate_candidate
from adapters.ml.distributed.ranks import RankPool, choose_devices
from adapters.ml.error_translation import translate_model_errors
from adapters.ml.group_comparison import groups_of
from adapters.ml.measures import ScoreMatrix, comparison_card, json_number, measure_scores, select_findings
from adapters.ml.monitoring import MonitoringSample
from adapters.ml.scorer import apply_precision, read_version_weights
from adapters.ml.training_images import TrainingImageReader
from adapters.ml.version_card import base_card
from adapters.storage.model_files import base_folder
from models.checkpoint_files import HEAD
from models.classifier.classifier import Classifier, UnfrozenEncoder
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import Prompts, read_prompts
from models.classifier.version_weights import FineTunedBlocks, OutOfFoldScores, VersionWeights
from models.encoder.activations import SplitActivations
from models.encoder.base import Base, read_base
from models.encoder.checkpoint import write_checkpoint
from models.encoder.golden import GoldenEmbedding
from models.encoder.precision import Precision
from models.evaluation.cases import UNKNOWN
from models.training.fold_fits import run_fits_sequentially
from models.training.prevalence import published_prevalence
from models.training.training_round import STAGE_1, TrainingData, TrainingPlan, TrainingResult, run_training_round
from pipeline import rules
from pipeline.decisions import scale_of
from pipeline.domain import (
    FINDINGS,
    PRESENT,
    Comparison,
    ModelVersion,
    Scale,
    StoredInstance,
    TrainingExample,
    TrainingSet,
    VersionState,
)
from pipeline.errors import PermanentError
from pipeline.ports.images import ImageReader
from pipeline.ports.services import StageCallback
from pipeline.reading_errors import USUAL_ERRORS, ReadingErrors, probability_wrong

MIN_CALIBRATION_POSITIVES = 20
"""Positive images of a finding from which on its score is told as a probability; with fewer it is told as a band."""
MAX_ARCHIVE_BYTES = 256 << 20
"""Size of the archive's activations held for the thresholds of fine-tuned blocks: a thousand images of ViT-B are 77 MB."""
MIN_DOUBT, MAX_DOUBTS = 0.5, 100
"""Probability of a wrong label from which on the label is doubtful, and the largest number of doubtful labels on a card."""
_BATCH_IMAGES = 64

_log = structlog.get_logger("radclipd.ml")


class TrainingStore(Protocol):
    """The part of the model directory that the trainer uses."""

    @property
    def root(self) -> Path: ...

    def stage(self) -> AbstractContextManager[Path]:
        """Yield an empty folder."""

    def publish_version(self, staged: Path, number: int) -> Path:
        """Move a staged version to its final folder."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """`[learn]`, `[model]` and `[activation_cache]` of the configuration.

    `undetermined_margin`: log-odds below an operating point; `devices`: see `choose_devices`; `threads`: 0 leaves torch's choice;
    `precision`: that of scoring, which shares the activation cache; `cache_settings`: of the same k as the plan, None keeps no
    activations; `prior_prevalence`: shares by finding that replace the published ones.
    """

    plan: TrainingPlan
    min_positives: float
    undetermined_margin: float
    device: str = "auto"
    devices: Literal["auto"] | int = 1
    threads: int = 0
    precision: Precision = "float32"
    cache_settings: ActivationCacheSettings | None = None
    prior_prevalence: Mapping[str, float] = field(default_factory=dict)
    errors: ReadingErrors = USUAL_ERRORS


@dataclass(frozen=True)
class ClipCandidate:
    """Implements `ports.services.Candidate`."""

    comparisons: tuple[Comparison, ...]
    _doubts: tuple[Mapping[str, Any], ...]
    _store: TrainingStore
    _version_weights: VersionWeights
    _version: ModelVersion

    @contextmanager
    def stage_files(self) -> Iterator[Callable[[int], ModelVersion]]:
        with self._store.stage() as folder, translate_model_errors():
            about = {"base": {"name": self._version.base, "sha256": self._version.weights_sha256}, "findings": list(FINDINGS)}
            written = write_checkpoint(folder, HEAD, self._version_weights.tensors, about | self._version.card)
            sha256 = str(written["weights"]["sha256"])

            def publish(number: int) -> ModelVersion:
                self._store.publish_version(folder, number)
                card = dict(self._version.card) | {"head": {"sha256": sha256}}
                card["learning"] = card["learning"] | {"doubts": list(self._doubts)}  # in the catalog only: a file names no study
                return replace(self._version, number=number, card=card | {"weights": _build_weights_card(self._version)})

            yield publish


class ClipTrainer:
    """Implements `ports.services.Trainer`."""

    def __init__(self, store: TrainingStore, pixels: ImageReader, settings: TrainerSettings) -> None:
        self._store = store
        self._pixels = pixels
        self._settings = settings

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> ClipCandidate:
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        devices, seed = choose_devices(self._settings.device, self._settings.devices), self._settings.plan.seed
        with translate_model_errors():
            base = read_base(base_folder(self._store.root, training_set.serving.base), expected=training_set.serving.card)
            base.encoder.to(devices[0])
            prompts = read_prompts()
            text_head = zero_shot_head(base.encoder, prompts)
            serving_encoder = apply_precision(
                Classifier(base.encoder, base.preprocess, text_head), self._settings.precision
            ).encoder
            with self._start_ranks(devices, training_set, base) as ranks:
                with closing(ActivationCache(replace(base, encoder=serving_encoder), self._settings.cache_settings)) as cache:
                    reader = TrainingImageReader(
                        base, self._pixels, cache, k=self._settings.plan.recipe.k, serving_encoder=serving_encoder
                    )
                    examples, data, unreadable = self._read_training_images(training_set, base, reader, on_progress)
                run_fits = ranks.run_fits if ranks else run_fits_sequentially
                result = run_training_round(base.encoder, text_head, data, self._settings.plan, on_progress, run_fits)
            serving_weights = read_version_weights(training_set.serving, self._store.root)
            cases = _TrainingCases(base, data, examples, reader, on_progress)
            serving = cases.score_serving(training_set.serving, serving_weights) if training_set.serving.label_fingerprint else None
            evaluated = evaluate_candidate(
                result,
                cases.score_zero_shot(text_head),
                serving,
                cases.evaluation_cases,
                required=training_set.required_confidence,
                seed=seed,
            )
            result, comparisons = evaluated.result, list(evaluated.comparisons)
            measured = cases.measures(result, text_head, seed=seed)
            exposed = cases.exposed_measures(result, text_head, seed=seed)
            weights = _build_version_weights(
                result,
                serving_weights.head,
                OutOfFoldScores(torch.from_numpy(cases.studies.copy()), torch.from_numpy(evaluated.out_of_fold).float()),
            )
            thresholds = _choose_thresholds(result, training_set)
            sample = MonitoringSample(training_set.monitoring_examples, base, reader, on_progress, seed=seed)
            served = {f"version {training_set.serving.number}": serving_weights} if training_set.serving.label_fingerprint else {}
            monitoring_comparisons, monitored = sample.compare_candidate(weights, text_head, served, thresholds)
            comparisons += monitoring_comparisons
            base.encoder.to(torch.device("cpu"))  # golden embeddings are those of the CPU
        counts = {
            "images": len(examples),
            "unreadable": unreadable,
            "findings": int(result.findings.sum()),
            "devices": len(devices),
        }
        _log.info("learnt", method=result.method, **counts, activations_read=cache.hits, activations_made=cache.misses)
        with translate_model_errors():
            version = _build_version(training_set, base, prompts, result, data, weights, thresholds, self._settings)
        version.card["learning"] |= {"unreadable": unreadable, "measures": measured, "monitoring": monitored}
        version.card["learning"] |= {"exposed_measures": exposed}
        version.card["learning"] |= {"newest_label": training_set.newest_label_id, "devices": len(devices)}
        version.card["learning"] |= _describe_evaluation(evaluated, comparisons)
        doubts = tuple(_list_doubts(examples, data.labels, result, self._settings.errors))
        return ClipCandidate(tuple(comparisons), doubts, self._store, weights, version)

    def _start_ranks(
        self, devices: Sequence[torch.device], training_set: TrainingSet, base: Base
    ) -> AbstractContextManager[RankPool | None]:
        """Start the ranks while images are still read. None on one device, and where no block is unfrozen."""
        if len(devices) == 1 or self._settings.plan.method == STAGE_1:
            return nullcontext()
        folder = base_folder(self._store.root, training_set.serving.base)
        return RankPool(devices, folder, sha256=base.sha256, threads=self._settings.threads)

    def _read_training_images(
        self, training_set: TrainingSet, base: Base, reader: TrainingImageReader, on_progress: StageCallback
    ) -> tuple[list[TrainingExample], TrainingData, int]:
        """Return the readable examples, their data and the number of unreadable ones. PermanentError where too few are readable."""
        read = self._read_labelled_images([example.instance for example in training_set.examples], base, reader, on_progress)
        examples = [example for example, found in zip(training_set.examples, read, strict=True) if found is not None]
        unreadable = len(training_set.examples) - len(examples)
        wanted = self._settings
        learnable = rules.learnable_findings(examples, min_positives=wanted.min_positives, errors=wanted.errors).findings
        if not learnable:
            raise PermanentError(
                f"{unreadable} of {len(training_set.examples)} labelled images cannot be read; the others are too few to learn from"
            )
        labels, measured = (
            _mask_findings(of, learnable) for of in zip(*((e.targets, e.measured_targets) for e in examples), strict=True)
        )
        readable = [found for found in read if found is not None]
        views = [activations for _, activations in readable if activations is not None]
        instances, can_unfreeze = training_set.unlabelled_instances, self._settings.plan.method != STAGE_1
        unlabelled = _read_archive(instances, base, reader, on_progress, max_bytes=can_unfreeze * MAX_ARCHIVE_BYTES)
        data = TrainingData(
            features=torch.stack([features for features, _ in readable]),
            activations=torch.stack(views) if views else None,
            labels=labels,
            patients=np.array([example.patient_key for example in examples], dtype=np.str_),
            unlabelled_features=unlabelled.features,
            unlabelled_activations=unlabelled.activations if reader.split_k is not None else None,
            random_labels=np.array([example.targets for example in training_set.monitoring_examples], dtype=np.int8).reshape(
                -1, len(FINDINGS)
            ),
            published_prevalence=published_prevalence(FINDINGS, self._settings.prior_prevalence),
            weights=np.array([rules.selection_weight(example.selection_probability) for example in examples]),
            label_weights=np.array([example.weights or (1.0,) * len(FINDINGS) for example in examples]),
            measured_labels=measured,
        )
        return examples, data, unreadable

    def _read_labelled_images(
        self, instances: Sequence[StoredInstance], base: Base, reader: TrainingImageReader, on_progress: StageCallback
    ) -> list[tuple[torch.Tensor, torch.Tensor | None] | None]:
        """Return features [D] and, where the encoder can be split, activations [V, L, W] of each image's views."""
        if reader.split_k is None:
            read = reader.read_features(instances, "labelled images", on_progress)
            return [None if features is None else (features, None) for features in read]
        views = reader.read_views(instances, self._settings.plan.views(base.encoder, len(instances)), on_progress)
        return [None if split is None else (split.features[0], split.activations) for split in views]


class _TrainingCases:
    """The training images, scored by each version without having learnt from the patient."""

    def __init__(
        self,
        base: Base,
        data: TrainingData,
        examples: Sequence[TrainingExample],
        reader: TrainingImageReader,
        on_progress: StageCallback,
    ) -> None:
        self._base, self._data, self._reader, self._on_progress = base, data, reader, on_progress
        self._instances = [example.instance for example in examples]
        self.studies = np.stack([_hash_study_uid(example.study_instance_uid) for example in examples])
        groups = groups_of([instance.header for instance in self._instances])
        self._measured = data.labels if data.measured_labels is None else data.measured_labels
        self.evaluation_cases = EvaluationCases(self._measured, data.patients, data.weights, groups)

    def measures(self, result: TrainingResult, text_head: LinearHead, *, seed: int) -> dict[str, Any]:
        """Return the measures of each learnt finding, on the labels that were given without the model's result."""
        return self._measure_labels(self._measured, result, text_head, seed=seed)

    def exposed_measures(self, result: TrainingResult, text_head: LinearHead, *, seed: int) -> dict[str, Any]:
        """Return the measures of each learnt finding on all other labels; empty without such labels."""
        exposed = np.where(self._measured == UNKNOWN, self._data.labels, UNKNOWN).astype(np.int8)
        return self._measure_labels(exposed, result, text_head, seed=seed) if (exposed != UNKNOWN).any() else {}

    def _measure_labels(
        self, labels: npt.NDArray[np.int8], result: TrainingResult, text_head: LinearHead, *, seed: int
    ) -> dict[str, Any]:
        found = measure_scores(
            result.out_of_fold_scores,
            self.score_zero_shot(text_head),
            labels,
            self._data.patients,
            thresholds=result.thresholds,
            seed=seed,
        )
        return select_findings(found, result.findings)

    def score_zero_shot(self, text_head: LinearHead) -> ScoreMatrix:
        """Return log-odds [n, F]: probabilities near 1 would be ties."""
        return text_head.to(torch.device("cpu")).logits(self._data.features).numpy().astype(np.float64)

    def score_serving(self, serving: ModelVersion, weights: VersionWeights) -> ServingColumns:
        """Return the columns of a learnt serving version.

        An image that it was trained on has its score of that training, out of fold; another image of a patient that it was trained
        on has none in its learnt columns.
        """
        scores = np.asarray(self._score_images(Classifier.of(self._base, weights)), dtype=np.float64)
        transferable = np.ones(len(FINDINGS), dtype=bool) if weights.fine_tuned is None else ~weights.fine_tuned.findings.numpy()
        if weights.out_of_fold is None:
            return ServingColumns(f"version {serving.number}", scores, np.ones_like(transferable), transferable)
        out_of_fold = weights.out_of_fold.scores.numpy()
        learnt = np.isfinite(out_of_fold).any(axis=0)
        known = {case.tobytes(): row for case, row in zip(weights.out_of_fold.cases.numpy(), out_of_fold, strict=True)}
        trained = {patient for patient, study in zip(self._data.patients, self.studies, strict=True) if study.tobytes() in known}
        for row, (patient, study) in enumerate(zip(self._data.patients, self.studies, strict=True)):
            if patient in trained:
                scores[row, learnt] = known.get(study.tobytes(), np.full(len(FINDINGS), np.nan))[learnt]
        return ServingColumns(f"version {serving.number}", scores, learnt, transferable)

    def _score_images(self, classifier: Classifier) -> ScoreMatrix:
        """Score from the activations; from the pixels where more blocks are unfrozen than the activations enter."""
        if classifier.unfrozen is None:
            return classifier.head.scores(self._data.features).numpy()
        classifier = classifier.to(self._base.encoder.device)
        if (k := self._reader.split_k) is not None and self._data.activations is not None and classifier.can_score_from(k):
            batches = zip(
                torch.split(self._data.activations[:, 0], _BATCH_IMAGES),
                torch.split(self._data.features, _BATCH_IMAGES),
                strict=True,
            )
            return np.concatenate([classifier.score_activations(SplitActivations(*batch), k=k) for batch in batches])
        return np.concatenate(
            [self._score_from_pixels(classifier, instance, done) for done, instance in enumerate(self._instances, 1)]
        )

    def _score_from_pixels(self, classifier: Classifier, instance: StoredInstance, done: int) -> ScoreMatrix:
        self._on_progress("comparing with the serving version", done, len(self._instances))
        model_input = self._reader.read_model_input(instance)
        if model_input is None:
            return np.full((1, len(FINDINGS)), np.nan)
        return classifier.score_pixels(self._base.preprocess.normalise(model_input[None]))


def _read_archive(
    instances: Sequence[StoredInstance], base: Base, reader: TrainingImageReader, on_progress: StageCallback, *, max_bytes: int
) -> SplitActivations:
    """Return features [N, D] of the readable images, and activations [M, L, W] of the first M <= N, of `max_bytes` together.

    No activations where the encoder cannot be split.
    """
    features: list[torch.Tensor] = []
    activations: list[torch.Tensor] = []
    for split in reader.read_archive(instances, on_progress):
        if split is None:
            continue
        features.append(split.features)
        if split.activations.nbytes * (len(activations) + 1) <= max_bytes:
            activations.append(split.activations)
    return SplitActivations(
        torch.stack(activations) if activations else torch.zeros(0),
        torch.stack(features) if features else torch.zeros(0, base.dimension),
    )


def _mask_findings(targets: Sequence[Sequence[int]], findings: Collection[str]) -> npt.NDArray[np.int8]:
    """Return int8 [n, 14] with UNKNOWN in the columns of all other findings."""
    labels = np.array(targets, dtype=np.int8)
    labels[:, [finding not in findings for finding in FINDINGS]] = UNKNOWN
    return labels


def _hash_study_uid(study_instance_uid: str) -> npt.NDArray[np.uint8]:
    """Return uint8 [32]: a version's files hold no study UID."""
    return np.frombuffer(hashlib.sha256(study_instance_uid.encode()).digest(), dtype=np.uint8)


def _build_version_weights(result: TrainingResult, serving_head: LinearHead, out_of_fold: OutOfFoldScores) -> VersionWeights:
    """Replace the learnt findings in the serving head; the other findings keep its weights."""
    learnt = torch.from_numpy(result.findings)
    tensors = {name: tensor.clone() for name, tensor in serving_head.tensors.items()}
    for name, tensor in result.head.tensors.items():
        tensors[name][learnt] = tensor[learnt].to(tensors[name].dtype)
    return VersionWeights(LinearHead(**tensors), result.fine_tuned, out_of_fold)


def _list_doubts(
    examples: Sequence[TrainingExample], labels: npt.NDArray[np.int8], result: TrainingResult, errors: ReadingErrors
) -> list[dict[str, Any]]:
    """Return the labels of one reader that are probably wrong, by the held-out probabilities; the most doubtful first."""
    votes = np.array([example.votes or (1,) * len(FINDINGS) for example in examples])
    wrong = probability_wrong(result.out_of_fold_scores, labels == PRESENT, errors)
    doubtful = (labels != UNKNOWN) & (votes == 1) & result.findings & (np.nan_to_num(wrong) >= MIN_DOUBT)
    rows, columns = np.nonzero(doubtful)
    order = np.argsort(-wrong[rows, columns], kind="stable")[:MAX_DOUBTS]
    return [
        {
            "study": examples[row].study_instance_uid,
            "finding": FINDINGS[column],
            "probability": round(float(wrong[row, column]), 4),
        }
        for row, column in zip(rows[order], columns[order], strict=True)
    ]


def _describe_evaluation(evaluated: EvaluatedCandidate, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the comparisons of a candidate for its card, JSON-able."""
    return {
        "comparisons": [comparison_card(comparison) for comparison in comparisons],
        "optimism": json_number(evaluated.optimism),
        "groups": [one.card for one in evaluated.groups],
    }


def _choose_thresholds(result: TrainingResult, training_set: TrainingSet) -> dict[str, float]:
    return {
        finding: float(result.thresholds[column]) if result.findings[column] else training_set.serving.thresholds[finding]
        for column, finding in enumerate(FINDINGS)
        if result.findings[column] or finding in training_set.serving.thresholds
    }


def _choose_scales(result: TrainingResult, data: TrainingData, serving: ModelVersion) -> dict[str, Scale]:
    """Return the meaning of each score. A finding that was not learnt keeps the serving version's, for its weights are kept."""
    enough = (data.labels == PRESENT).sum(axis=0) >= MIN_CALIBRATION_POSITIVES
    scales = {finding: scale_of(serving, finding) for finding in FINDINGS}
    learnt = [column for column in range(len(FINDINGS)) if result.findings[column]]
    return scales | {FINDINGS[column]: Scale.PROBABILITY if enough[column] else Scale.BAND for column in learnt}


def _build_version(
    training_set: TrainingSet,
    base: Base,
    prompts: Prompts,
    result: TrainingResult,
    data: TrainingData,
    weights: VersionWeights,
    thresholds: dict[str, float],
    settings: TrainerSettings,
) -> ModelVersion:
    """Return the version without its number."""
    return ModelVersion(
        number=0,
        state=VersionState.CANDIDATE,
        name=f"{result.method} {training_set.serving.base}",
        base=training_set.serving.base,
        weights_sha256=base.sha256,
        device_uid=f"2.25.{uuid.uuid4().int}",  # PS3.5 B.2
        notice=training_set.serving.notice,
        scales=_choose_scales(result, data, training_set.serving),
        label_fingerprint=training_set.label_fingerprint,
        thresholds=thresholds,
        undetermined_margin=settings.undetermined_margin,
        card=_build_card(base, prompts, result, data, weights.fine_tuned, settings.plan),
    )


def _build_card(
    base: Base, prompts: Prompts, result: TrainingResult, data: TrainingData, fine_tuned: FineTunedBlocks | None, plan: TrainingPlan
) -> dict[str, Any]:
    """Return the catalog's card: the values that loading checks, and the record of the training."""
    learnt = [finding for column, finding in enumerate(FINDINGS) if result.findings[column]]
    card: dict[str, Any] = {
        "recipe": result.method,
        **base_card(base, prompts),
        "calibration": "Platt, a slope for each finding, moved to the archive's prevalences",
        "learning": {
            "plan": plan.card,
            "films": len(data.labels),
            "patients": len(np.unique(data.patients)),
            "background": len(data.unlabelled_features),
            "findings": learnt,
            "text": [
                finding for column, finding in enumerate(FINDINGS) if result.findings[column] and not result.columns.first[column]
            ],
            "better": {finding: json_number(result.columns.better[column]) for column, finding in enumerate(FINDINGS)},
            "prevalence": {finding: json_number(result.prevalence[column]) for column, finding in enumerate(FINDINGS)},
            "kept": [finding for finding in FINDINGS if finding not in learnt],
            "folds": result.folds,
            "log_loss": {name: json_number(method.loss) for name, method in result.cross_validation.items()},
            "training": dict(result.fit_card),
            "notes": list(result.notes),
        },
    }
    if fine_tuned is not None:
        card["moved_golden"] = GoldenEmbedding.compute(
            UnfrozenEncoder.from_blocks(base.encoder, fine_tuned).encoder, base.preprocess
        ).card
    return card


def _build_weights_card(version: ModelVersion) -> dict[str, str]:
    return {"name": version.base, "sha256": version.weights_sha256}
