"""The monitoring sample: films drawn by lot, of patients that no version learns from: what a candidate is worth in the archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from adapters.ml.measures import UNKNOWN, Scores, comparison, measures, number, only
from adapters.ml.training_films import FilmReader
from models.classifier.classifier import Classifier
from models.classifier.head import LinearHead
from models.classifier.version_weights import Addition
from models.encoder.base import Base
from pipeline.domain import FINDINGS, Comparison, Lesson
from pipeline.ports.outside import Watch

_FILMS = 16  # scored at a time


class Monitoring:
    """The sample's films that can be read, scored from their pixels as serving scores them."""

    def __init__(self, lessons: Sequence[Lesson], base: Base, reader: FilmReader, watch: Watch, *, seed: int) -> None:
        self._base, self._watch, self._seed = base, watch, seed
        read: list[tuple[Lesson, torch.Tensor]] = []
        for done, lesson in enumerate(lessons, 1):
            if (square := reader.square(lesson.image)) is not None:
                read.append((lesson, square))
            watch("films of the monitoring sample", done, len(lessons))
        self._squares = [square for _, square in read]
        self._labels = np.array([lesson.targets for lesson, _ in read], dtype=np.int8).reshape(-1, len(FINDINGS))
        self._patients = np.array([lesson.patient for lesson, _ in read], dtype=np.str_)
        self._lost = len(lessons) - len(read)

    def judge(
        self, candidate: Addition, text: LinearHead, served: Mapping[str, Addition], thresholds: Mapping[str, float]
    ) -> tuple[list[Comparison], dict[str, Any]]:
        """Compare the candidate with zero-shot and with what served, by name; return that, and what the card keeps.

        Nothing of either where there is no film.
        """
        if not self._squares:
            return [], {}
        own, zero_shot = self._scores(candidate), self._scores(Addition(text))
        others = {"zero-shot": zero_shot} | {name: self._scores(addition) for name, addition in served.items()}
        found = [
            comparison(name, own, scores, self._labels, self._patients, seed=self._seed, monitoring=True)
            for name, scores in others.items()
        ]
        limits = np.array([thresholds[finding] for finding in FINDINGS])
        worth = measures(own, zero_shot, self._labels, self._patients, thresholds=limits, seed=self._seed)
        for column, finding in enumerate(FINDINGS):
            known = self._labels[:, column][self._labels[:, column] != UNKNOWN]
            worth[finding]["prevalence"] = number(known.mean()) if len(known) else None
        labelled = (self._labels != UNKNOWN).any(axis=0)
        patients = len(np.unique(self._patients))
        kept = {"films": len(self._squares), "patients": patients, "unreadable": self._lost, "measures": only(worth, labelled)}
        return found, kept

    def _scores(self, addition: Addition) -> Scores:
        classifier = Classifier.of(self._base, addition)
        classifier, parts = classifier.to(classifier.encoder.device), []
        for start in range(0, len(self._squares), _FILMS):
            pixels = classifier.preprocess.normalised(torch.stack(self._squares[start : start + _FILMS]))
            parts.append(classifier.score_pixels(pixels.to(classifier.encoder.device)))
            self._watch("measuring on the monitoring sample", min(start + _FILMS, len(self._squares)), len(self._squares))
        return np.concatenate(parts)
