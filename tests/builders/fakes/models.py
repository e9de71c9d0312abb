"""Fakes of ports.Scorers and ports.Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.domain import (
    FINDINGS,
    Comparison,
    Image,
    ModelVersion,
    Scores,
    StoredInstance,
    TrainingSet,
    VersionState,
)
from pipeline.ports.images import InputTransform
from pipeline.ports.services import (
    Scorer,
    Scorers,
    StageCallback,
    Trainer,
)
from pipeline.thumbnails import THUMBNAIL_SIDE
from tests.builders.fakes.versions import a_version


class WholeImage:
    """ports.InputTransform: the model input is the image."""

    def decoder_transform(self, image: Any) -> Image:
        return np.asarray(image[:])

    def to_device(self, decoded: Image, /) -> Image:
        return decoded.copy()


class FakeScorer:
    """ports.Scorer: the mean grey, less a little more for each further finding. `kept`: SHA-256 of a file -> its mean grey."""

    def __init__(self, version: ModelVersion, kept: dict[str, float] | None = None, *, room: int = 0) -> None:
        self._version = version
        self.kept, self.cache_capacity = {} if kept is None else kept, room

    @property
    def version(self) -> ModelVersion:
        return self._version

    @property
    def input_transform(self) -> InputTransform:
        return WholeImage()

    def score_cached(self, instances: Sequence[StoredInstance]) -> dict[str, Scores]:
        cached = [one for one in instances if one.file.sha256 in self.kept]
        return {one.header.sop_instance_uid: _scores_of_greys([self.kept[one.file.sha256]])[0] for one in cached}

    def score(self, images: Sequence[Image], instances: Sequence[StoredInstance] = ()) -> Scores:
        if instances:
            self.cache_activations(images, instances)
        return _scores_of_greys([float(image.mean()) for image in images])

    def thumbnails(self, images: Sequence[Image]) -> list[bytes]:
        return [bytes([round(255 * float(image.mean()))]) * THUMBNAIL_SIDE**2 for image in images]

    def uncached(self, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        return [one for one in instances if one.file.sha256 not in self.kept and len(self.kept) < self.cache_capacity]

    def cache_activations(self, images: Sequence[Image], instances: Sequence[StoredInstance]) -> None:
        for image, instance in zip(images, instances, strict=True):
            if len(self.kept) < self.cache_capacity:
                self.kept[instance.file.sha256] = float(image.mean())


def _scores_of_greys(means: Sequence[float]) -> Scores:
    steps = np.linspace(0, 0.1, len(FINDINGS), dtype=np.float32)
    return np.stack([np.clip(mean - steps, 0, 1) for mean in means]).astype(np.float32)


class FakeScorers:
    """ports.Scorers. All versions share one cache; `room` is its capacity in instances."""

    def __init__(self, *, room: int = 0) -> None:
        self.kept: dict[str, float] = {}
        self.room = room

    def load(self, version: ModelVersion) -> FakeScorer:
        return FakeScorer(version, self.kept, room=self.room)


@dataclass
class FakeCandidate:
    """ports.Candidate: a row without files."""

    course: TrainingSet
    comparisons: Sequence[Comparison]

    @contextmanager
    def stage_files(self) -> Iterator[Callable[[int], ModelVersion]]:
        learning = {"newest_label": self.course.newest_label_id}
        fingerprint = self.course.label_fingerprint
        yield lambda number: a_version(number, VersionState.CANDIDATE, label_fingerprint=fingerprint, card={"learning": learning})


class FakeTrainer:
    """ports.Trainer: every candidate is better than the others by `ahead` (AUC, 0..1); `watch` raises `stopped`."""

    def __init__(self) -> None:
        self.courses: list[TrainingSet] = []
        self.ahead = 0.1
        self.stopped: Exception | None = None

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> FakeCandidate:
        self.courses.append(training_set)
        on_progress("films", 1, 1)
        ahead = self.ahead
        better = Comparison(
            against="zero-shot",
            cases=40,
            patients=30,
            candidate=0.7 + ahead,
            other=0.7,
            lower=ahead,
            upper=ahead,
            better=float(ahead >= 0),
            not_inferior=float(ahead > -0.005),
        )
        return FakeCandidate(training_set, [better])

    def watch(self, what: str, done: int, total: int) -> None:
        if self.stopped:
            raise self.stopped


# The type checker holds each fake against its port.
def _scorer(fake: FakeScorer) -> Scorer:
    return fake


def _scorers(fake: FakeScorers) -> Scorers:
    return fake


def _trainer(fake: FakeTrainer) -> Trainer:
    return fake
