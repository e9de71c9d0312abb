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

from adapters.ml.activation_cache import Kept, KeptSettings
from adapters.ml.distributed.ranks import Ranks, choose_devices
from adapters.ml.error_translation import in_the_pipelines_words
from adapters.ml.measures import UNKNOWN, Scores, comparison, described, measures, number, only
from adapters.ml.monitoring import Monitoring
from adapters.ml.scorer import in_precision, read_addition
from adapters.ml.training_films import FilmReader
from adapters.model_files import HEAD, base_folder
from models.classifier.classifier import Classifier, Unfrozen
from models.classifier.head import LinearHead, zero_shot_head
from models.classifier.prompts import Prompts, read_prompts
from models.classifier.version_weights import Addition, Measured, Moved
from models.encoder.activations import Cut
from models.encoder.base import Base, libraries, read_base
from models.encoder.checkpoint import write_checkpoint
from models.encoder.golden import Golden
from models.encoder.precision import Precision
from models.training.fold_fits import one_by_one
from models.training.training_round import STAGE_1, Films, Plan, Taught, teach
from pipeline import rules
from pipeline.domain import FINDINGS, Comparison, Course, Lesson, ModelVersion, StoredInstance, VersionState
from pipeline.errors import Refused
from pipeline.ports.images import ImageReader
from pipeline.ports.outside import Watch

ENOUGH_TO_CALIBRATE = 20
"""Films that show a finding, from which on its score may be called a probability."""
_CHUNK = 64

_log = structlog.get_logger("radclipd.gpu")


class Store(Protocol):
    """What the trainer needs of the model directory."""

    @property
    def root(self) -> Path: ...

    def stage(self) -> AbstractContextManager[Path]:
        """Give an empty folder."""

    def publish_version(self, staged: Path, number: int) -> Path:
        """Put a staged version in its place."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """`[learn]`, `[model]` and `[prefix]` of the configuration.

    `band`: the widest undetermined zone; `devices`: see `choose_devices`; `threads`: 0 leaves torch's choice; `precision`: that of
    scoring, with which it shares what is kept; `kept`: of the same k as the plan, None keeps nothing.
    """

    plan: Plan
    minimum_positives: int
    band: float
    device: str = "auto"
    devices: Literal["auto"] | int = 1
    threads: int = 0
    precision: Precision = "float32"
    kept: KeptSettings | None = None


@dataclass(frozen=True)
class ClipCandidate:
    """Implements ports.Candidate."""

    comparisons: tuple[Comparison, ...]
    _store: Store
    _addition: Addition
    _row: ModelVersion

    @contextmanager
    def staged(self) -> Iterator[Callable[[int], ModelVersion]]:
        with self._store.stage() as folder, in_the_pipelines_words():
            about = {"base": {"name": self._row.base, "sha256": self._row.weights_sha256}, "findings": list(FINDINGS)}
            card = write_checkpoint(folder, HEAD, self._addition.tensors, about | self._row.card)
            sha256 = str(card["weights"]["sha256"])

            def publish(number: int) -> ModelVersion:
                self._store.publish_version(folder, number)
                kept = dict(self._row.card) | {"head": {"sha256": sha256}}
                return replace(self._row, number=number, card=kept | {"weights": _weights(self._row)})

            yield publish


class ClipTrainer:
    """Implements ports.Trainer."""

    def __init__(self, store: Store, pixels: ImageReader, settings: TrainerSettings) -> None:
        self._store = store
        self._pixels = pixels
        self._settings = settings

    def train(self, course: Course, watch: Watch) -> ClipCandidate:
        if self._settings.threads:
            torch.set_num_threads(self._settings.threads)
        devices = choose_devices(self._settings.device, self._settings.devices)
        with in_the_pipelines_words():
            base = read_base(base_folder(self._store.root, course.serving.base), expected=course.serving.card)
            base.encoder.to(devices[0])
            prompts = read_prompts()
            text = zero_shot_head(base.encoder, prompts)
            front = in_precision(Classifier(base.encoder, base.preprocess, text), self._settings.precision).encoder
            with self._ranks(devices, course, base) as ranks:
                with closing(Kept(replace(base, encoder=front), self._settings.kept)) as kept:
                    reader = FilmReader(base, self._pixels, kept, k=self._settings.plan.recipe.k, front=front)
                    lessons, films, lost = self._films(course, base, reader, watch)
                taught = teach(base.encoder, text, films, self._settings.plan, watch, ranks.fits if ranks else one_by_one)
            before = read_addition(course.serving, self._store.root)
            judged = _Judged(base, films, lessons, taught, reader, watch, seed=self._settings.plan.seed)
            comparisons = judged.comparisons(text, before, course)
            measured = judged.measures(text)
            addition, thresholds = _addition(taught, before.head, judged.cases), _thresholds(taught, course)
            sample = Monitoring(course.monitored, base, reader, watch, seed=self._settings.plan.seed)
            served = {f"version {course.serving.number}": before} if course.serving.label_fingerprint else {}
            vetoes, monitored = sample.judge(addition, text, served, thresholds)
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
        with in_the_pipelines_words():
            row = _row(course, base, prompts, taught, films, addition, thresholds, self._settings)
        compared = [described(comparison) for comparison in comparisons]
        row.card["learning"] |= {"unreadable": lost, "measures": measured, "monitoring": monitored, "comparisons": compared}
        row.card["learning"] |= {"newest_label": course.newest_label, "devices": len(devices)}
        return ClipCandidate(tuple(comparisons), self._store, addition, row)

    def _ranks(self, devices: Sequence[torch.device], course: Course, base: Base) -> AbstractContextManager[Ranks | None]:
        """The ranks start while films are still read. None where one device does it all, or nothing is unfrozen."""
        if len(devices) == 1 or self._settings.plan.method == STAGE_1:
            return nullcontext()
        folder = base_folder(self._store.root, course.serving.base)
        return Ranks(devices, folder, sha256=base.sha256, threads=self._settings.threads)

    def _films(self, course: Course, base: Base, reader: FilmReader, watch: Watch) -> tuple[list[Lesson], Films, int]:
        """Read the films. Refused where those that cannot be read leave too little."""
        read = self._labelled([lesson.image for lesson in course.lessons], base, reader, watch)
        lessons = [lesson for lesson, found in zip(course.lessons, read, strict=True) if found is not None]
        found = rules.learnable(lessons, minimum_positives=self._settings.minimum_positives)
        if not found.findings:
            lost = len(course.lessons) - len(lessons)
            raise Refused(f"{lost} of {len(course.lessons)} labelled films cannot be read; what is left is too little to learn")
        labels = np.array([lesson.targets for lesson in lessons], dtype=np.int8)
        labels[:, [finding not in found.findings for finding in FINDINGS]] = UNKNOWN
        there = [film for film in read if film is not None]
        copies = [entering for _, entering in there if entering is not None]
        background = [row for row in reader.features(course.background, "films of the archive", watch) if row is not None]
        made = Films(
            features=torch.stack([features for features, _ in there]),
            activations=torch.stack(copies) if copies else None,
            labels=labels,
            patients=np.array([lesson.patient for lesson in lessons], dtype=np.str_),
            background=torch.stack(background) if background else torch.zeros(0, base.dimension),
        )
        return lessons, made, len(course.lessons) - len(lessons)

    def _labelled(
        self, films: Sequence[StoredInstance], base: Base, reader: FilmReader, watch: Watch
    ) -> list[tuple[torch.Tensor, torch.Tensor | None] | None]:
        """Return features [D] of each film, and the activations [V, L, W] of its copies where the tower has a cut."""
        if reader.cut is None:
            return [None if found is None else (found, None) for found in reader.features(films, "labelled films", watch)]
        copies = reader.copies(films, self._settings.plan.views(base.encoder, len(films)), watch)
        return [None if found is None else (found.features[0], found.entering) for found in copies]


class _Judged:
    """The candidate and others on the films that were learnt from, as if none of them had seen the patients."""

    def __init__(
        self,
        base: Base,
        films: Films,
        lessons: Sequence[Lesson],
        taught: Taught,
        reader: FilmReader,
        watch: Watch,
        *,
        seed: int,
    ) -> None:
        self._base, self._films, self._taught, self._seed = base, films, taught, seed
        self._reader, self._watch, self._images = reader, watch, [lesson.image for lesson in lessons]
        self.cases = np.stack([_case(lesson.study_instance_uid) for lesson in lessons])

    def comparisons(self, text: LinearHead, before: Addition, course: Course) -> list[Comparison]:
        """Compare with zero-shot and, where it is another, with the serving version."""
        found = [self._comparison("zero-shot", self._zero_shot(text))]
        if course.serving.label_fingerprint:
            found.append(self._comparison(f"version {course.serving.number}", self._served(before)))
        return found

    def measures(self, text: LinearHead) -> dict[str, Any]:
        """Return for each finding that was learnt what its scores are worth, JSON-able; rates at the even odds."""
        own, limits = self._taught.scores, self._taught.prevalence
        found = measures(own, self._zero_shot(text), self._films.labels, self._films.patients, thresholds=limits, seed=self._seed)
        for column, finding in enumerate(FINDINGS):
            found[finding]["prevalence"] = number(limits[column])  # the threshold, too
        return only(found, self._taught.findings)

    def _comparison(self, against: str, other: Scores) -> Comparison:
        return comparison(against, self._taught.scores, other, self._films.labels, self._films.patients, seed=self._seed)

    def _zero_shot(self, text: LinearHead) -> Scores:
        return text.to(torch.device("cpu")).scores(self._films.features).numpy()

    def _served(self, before: Addition) -> Scores:
        """Its scores of patients that it has not learnt from; of its own cases what was measured when it had not seen them."""
        scores = np.asarray(self._scored(Classifier.of(self._base, before)), dtype=np.float64)
        if before.measured is None:
            return scores
        known = {
            case.tobytes(): row for case, row in zip(before.measured.cases.numpy(), before.measured.scores.numpy(), strict=True)
        }
        seen = {whose for whose, case in zip(self._films.patients, self.cases, strict=True) if case.tobytes() in known}
        for row, (whose, case) in enumerate(zip(self._films.patients, self.cases, strict=True)):
            if whose in seen:
                measured = known.get(case.tobytes())
                scores[row] = np.nan if measured is None else measured
        return scores

    def _scored(self, classifier: Classifier) -> Scores:
        """From the activations that are there; from the pixels where more blocks have moved than they stand in front of."""
        if classifier.unfrozen is None:
            return classifier.head.scores(self._films.features).numpy()
        classifier = classifier.to(self._base.encoder.device)
        if (k := self._reader.cut) is not None and self._films.activations is not None and classifier.scores_from(k):
            own = zip(torch.split(self._films.activations[:, 0], _CHUNK), torch.split(self._films.features, _CHUNK), strict=True)
            return np.concatenate([classifier.score_cut(Cut(*some), k=k) for some in own])
        return np.concatenate([self._from_pixels(classifier, image, done) for done, image in enumerate(self._images, 1)])

    def _from_pixels(self, classifier: Classifier, image: StoredInstance, done: int) -> Scores:
        self._watch("comparing with the version that serves", done, len(self._images))
        square = self._reader.square(image)
        if square is None:
            return np.full((1, len(FINDINGS)), np.nan)
        return classifier.score_pixels(self._base.preprocess.normalised(square[None]))


def _case(study_instance_uid: str) -> npt.NDArray[np.uint8]:
    """uint8 [32]: the files of a version name no study."""
    return np.frombuffer(hashlib.sha256(study_instance_uid.encode()).digest(), dtype=np.uint8)


def _addition(taught: Taught, older: LinearHead, cases: npt.NDArray[np.uint8]) -> Addition:
    """Put the learnt findings into the head that served; the others keep theirs."""
    learnt = torch.from_numpy(taught.findings)
    tensors = {name: tensor.clone() for name, tensor in older.tensors.items()}
    for name, tensor in taught.head.tensors.items():
        tensors[name][learnt] = tensor[learnt].to(tensors[name].dtype)
    scores = torch.from_numpy(np.where(taught.findings, taught.scores, np.nan)).float()
    return Addition(LinearHead(**tensors), taught.moved, Measured(torch.from_numpy(cases.copy()), scores))


def _thresholds(taught: Taught, course: Course) -> dict[str, float]:
    return {
        finding: float(taught.prevalence[column]) if taught.findings[column] else course.serving.thresholds[finding]
        for column, finding in enumerate(FINDINGS)
    }


def _row(
    course: Course,
    base: Base,
    prompts: Prompts,
    taught: Taught,
    films: Films,
    addition: Addition,
    thresholds: dict[str, float],
    settings: TrainerSettings,
) -> ModelVersion:
    """Return the version's row, without a number yet."""
    enough = ((films.labels == 1).sum(axis=0) >= ENOUGH_TO_CALIBRATE) & taught.findings
    return ModelVersion(
        number=0,
        state=VersionState.CANDIDATE,
        name=f"{taught.method} {course.serving.base}",
        base=course.serving.base,
        weights_sha256=base.sha256,
        device_uid=f"2.25.{uuid.uuid4().int}",  # PS3.5 B.2
        marking=course.serving.marking,
        calibrated=bool(enough.all()),
        label_fingerprint=course.label_fingerprint,
        thresholds=thresholds,
        band=min(settings.band, min(thresholds.values()) / 2),
        card=_card(base, prompts, taught, films, addition.moved, settings.plan),
    )


def _card(base: Base, prompts: Prompts, taught: Taught, films: Films, moved: Moved | None, plan: Plan) -> dict[str, Any]:
    """Return what the catalog keeps: all that loading is held to, and how the version came to be."""
    learnt = [finding for column, finding in enumerate(FINDINGS) if taught.findings[column]]
    card: dict[str, Any] = {
        "recipe": taught.method,
        "architecture": base.encoder.architecture.card,
        "preprocess": base.preprocess.card,
        "golden": base.golden.card,
        "prompts": {"fingerprint": prompts.fingerprint},
        "temperature": base.encoder.temperature,
        "source": dict(base.card.get("source", {})),
        "libraries": libraries(),
        "calibration": f"Platt, slope {taught.tried[taught.method].calibration.slope:.3f}, moved to the archive's prevalences",
        "learning": {
            "plan": plan.card,
            "films": len(films.labels),
            "patients": len(np.unique(films.patients)),
            "background": len(films.background),
            "findings": learnt,
            "kept": [finding for finding in FINDINGS if finding not in learnt],
            "folds": taught.folds,
            "log_loss": {name: number(tried.loss) for name, tried in taught.tried.items()},
            "training": dict(taught.training),
            "notes": list(taught.notes),
        },
    }
    if moved is not None:
        card["moved_golden"] = Golden.of(Unfrozen.of(base.encoder, moved).encoder, base.preprocess).card
    return card


def _weights(row: ModelVersion) -> dict[str, str]:
    return {"name": row.base, "sha256": row.weights_sha256}
