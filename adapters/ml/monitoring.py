"""The monitoring sample: randomly drawn images of patients excluded from training, which measure a candidate on the archive."""

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
    """The readable images of the sample, scored from their pixels as in serving."""

    def __init__(
        self, examples: Sequence[TrainingExample], base: Base, reader: TrainingImageReader, on_progress: StageCallback, *, seed: int
    ) -> None:
        self._base, self._on_progress, self._seed = base, on_progress, seed
        read: list[tuple[TrainingExample, torch.Tensor]] = []
        for done, example in enumerate(examples, 1):
            if (model_input := reader.read_model_input(example.instance)) is not None:
                read.append((example, model_input))
            on_progress("images of the monitoring sample", done, len(examples))
        self._inputs = [model_input for _, model_input in read]
        self._labels = np.array([example.targets for example, _ in read], dtype=np.int8).reshape(-1, len(FINDINGS))
        self._patients = np.array([example.patient_key for example, _ in read], dtype=np.str_)
        self._unreadable = len(examples) - len(read)

    def compare_candidate(
        self,
        candidate: VersionWeights,
        text_head: LinearHead,
        serving_weights: Mapping[str, VersionWeights],
        thresholds: Mapping[str, float],
    ) -> tuple[list[Comparison], dict[str, Any]]:
        """Compare the candidate with zero-shot and with `serving_weights`, by name; return the comparisons and the card's entry.

        Both are empty where the sample has no readable image.
        """
        if not self._inputs:
            return [], {}
        own, zero_shot = self._score_sample(candidate), self._score_sample(VersionWeights(text_head))
        others = {"zero-shot": zero_shot} | {name: self._score_sample(weights) for name, weights in serving_weights.items()}
        found = [
            compare_scores(name, own, scores, self._labels, self._patients, seed=self._seed, monitoring=True)
            for name, scores in others.items()
        ]
        limits = np.array([thresholds.get(finding, np.nan) for finding in FINDINGS])
        measures = measure_scores(own, zero_shot, self._labels, self._patients, thresholds=limits, seed=self._seed)
        for column, finding in enumerate(FINDINGS):
            known = self._labels[:, column][self._labels[:, column] != UNKNOWN]
            measures[finding]["prevalence"] = json_number(known.mean()) if len(known) else None
        labelled = (self._labels != UNKNOWN).any(axis=0)
        patients = len(np.unique(self._patients))
        card = {
            "films": len(self._inputs),
            "patients": patients,
            "unreadable": self._unreadable,
            "measures": select_findings(measures, labelled),
        }
        return found, card

    def _score_sample(self, weights: VersionWeights) -> ScoreMatrix:
        classifier = Classifier.of(self._base, weights)
        classifier, parts = classifier.to(classifier.encoder.device), []
        for start in range(0, len(self._inputs), _BATCH_IMAGES):
            pixels = classifier.preprocess.normalise(torch.stack(self._inputs[start : start + _BATCH_IMAGES]))
            parts.append(classifier.score_pixels(pixels.to(classifier.encoder.device)))
            self._on_progress(
                "measuring on the monitoring sample", min(start + _BATCH_IMAGES, len(self._inputs)), len(self._inputs)
            )
        return np.concatenate(parts)
