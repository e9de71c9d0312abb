"""The monitoring sample: films drawn by lot, of patients that no version learns from: what a candidate is worth in the archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from adapters.ml.measures import ScoreMatrix, compare_scores, json_number, measure_scores, select_findings
from adapters.ml.training_images import TrainingImageReader
from models.classifier.classifier import Classifier
from models.classifier.head import LinearHead
from models.classifier.version_weights import VersionWeights
from models.encoder.base import Base
from models.evaluation.cases import UNKNOWN
from pipeline.domain import FINDINGS, Comparison, TrainingExample
from pipeline.ports.services import StageCallback

_BATCH_IMAGES = 16  # scored at a time


class MonitoringSample:
    """The sample's films that can be read, scored from their pixels as serving scores them."""

    def __init__(
        self, examples: Sequence[TrainingExample], base: Base, reader: TrainingImageReader, watch: StageCallback, *, seed: int
    ) -> None:
        self._base, self._watch, self._seed = base, watch, seed
        read: list[tuple[TrainingExample, torch.Tensor]] = []
        for done, lesson in enumerate(examples, 1):
            if (square := reader.read_model_input(lesson.instance)) is not None:
                read.append((lesson, square))
            watch("films of the monitoring sample", done, len(examples))
        self._squares = [square for _, square in read]
        self._labels = np.array([lesson.targets for lesson, _ in read], dtype=np.int8).reshape(-1, len(FINDINGS))
        self._patients = np.array([lesson.patient_key for lesson, _ in read], dtype=np.str_)
        self._lost = len(examples) - len(read)

    def compare_candidate(
        self,
        candidate: VersionWeights,
        text_head: LinearHead,
        serving_weights: Mapping[str, VersionWeights],
        thresholds: Mapping[str, float],
    ) -> tuple[list[Comparison], dict[str, Any]]:
        """Compare the candidate with zero-shot and with what served, by name; return that, and what the card keeps.

        Nothing of either where there is no film.
        """
        if not self._squares:
            return [], {}
        own, zero_shot = self._score_sample(candidate), self._score_sample(VersionWeights(text_head))
        others = {"zero-shot": zero_shot} | {name: self._score_sample(addition) for name, addition in serving_weights.items()}
        found = [
            compare_scores(name, own, scores, self._labels, self._patients, seed=self._seed, monitoring=True)
            for name, scores in others.items()
        ]
        limits = np.array([thresholds[finding] for finding in FINDINGS])
        worth = measure_scores(own, zero_shot, self._labels, self._patients, thresholds=limits, seed=self._seed)
        for column, finding in enumerate(FINDINGS):
            known = self._labels[:, column][self._labels[:, column] != UNKNOWN]
            worth[finding]["prevalence"] = json_number(known.mean()) if len(known) else None
        labelled = (self._labels != UNKNOWN).any(axis=0)
        patients = len(np.unique(self._patients))
        kept = {
            "films": len(self._squares),
            "patients": patients,
            "unreadable": self._lost,
            "measures": select_findings(worth, labelled),
        }
        return found, kept

    def _score_sample(self, weights: VersionWeights) -> ScoreMatrix:
        classifier = Classifier.of(self._base, weights)
        classifier, parts = classifier.to(classifier.encoder.device), []
        for start in range(0, len(self._squares), _BATCH_IMAGES):
            pixels = classifier.preprocess.normalise(torch.stack(self._squares[start : start + _BATCH_IMAGES]))
            parts.append(classifier.score_pixels(pixels.to(classifier.encoder.device)))
            self._watch("measuring on the monitoring sample", min(start + _BATCH_IMAGES, len(self._squares)), len(self._squares))
        return np.concatenate(parts)
