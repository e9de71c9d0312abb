"""Linear probes by gradient descent: from random weights, from the text (ZS-LP), and held near the text (CLAP).

Silva-Rodriguez et al., "A closer look at the few-shot adaptation of large vision-language models" (CVPR 2024): prototypes of unit
length at CLIP's temperature, 300 steps of full-batch SGD with momentum .9, rate .1 with cosine decay; nothing chosen on a
validation set. The original is a softmax over classes; here each finding is an independent binary classifier with a bias, which
starts at the balance of positives and negatives. The original's twenty augmented views need pixels and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit

from models.classifier.head import LinearHead
from models.evaluation.cases import PRESENT
from models.ladder.labelled_features import LabelledFeatures, head_logits, to_float64
from models.ladder.method import FewShotBenchmark, Logits, Support

Floats = npt.NDArray[np.float64]


@dataclass
class LinearProbe:
    """`start`: initial weights. `constrained`: penalise the distance from them, more for findings with good zero-shot (CLAP).

    A finding that cannot be learnt keeps its start: the text classifier, or random weights for the probe without text.
    """

    name: str
    start: Literal["random", "text"]
    constrained: bool = False
    needs_support: bool = True
    steps: int = 300
    rate: float = 0.1
    momentum: float = 0.9

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        text = to_float64(bench.ensemble.directions)
        start = text if self.start == "text" else _draw_kaiming(text.shape, seed)
        return head_logits(self._fit_head(known, start, to_float64(bench.ensemble.scale)), bench)

    def _fit_head(self, known: LabelledFeatures, start: Floats, temperature: Floats) -> LinearHead:
        objective = _ProbeObjective(known, temperature, start, self._compute_multipliers(known, start, temperature))
        weights, bias = start.copy(), objective.balancing_bias(start)
        velocity, bias_velocity = np.zeros_like(weights), np.zeros_like(bias)
        for step in range(self.steps):
            rate = self.rate * (1 + np.cos(np.pi * step / self.steps)) / 2
            gradient, bias_gradient = objective.gradients(weights, bias)
            velocity, bias_velocity = self.momentum * velocity + gradient, self.momentum * bias_velocity + bias_gradient
            weights, bias = weights - rate * velocity, bias - rate * bias_velocity
        tensors = (_normalise_rows(weights), temperature, np.where(known.learnable, bias, 0.0))
        return LinearHead(*(torch.from_numpy(part.astype(np.float32)) for part in tensors))

    def _compute_multipliers(self, known: LabelledFeatures, start: Floats, temperature: Floats) -> Floats:
        """Return [F]: CLAP's multiplier, the start's mean probability of the true label on the support. Fixed during training."""
        if not self.constrained:
            return np.zeros(len(start))
        objective = _ProbeObjective(known, temperature, start, np.zeros(len(start)))
        correct = expit(objective.logits(start, objective.balancing_bias(start)) * np.where(known.labels == PRESENT, 1, -1))
        return np.asarray((known.balanced_weights * correct).sum(axis=0))


@dataclass(frozen=True)
class _ProbeObjective:
    """The objective: mean over the findings of balanced log-loss + pull x |w - start|^2."""

    known: LabelledFeatures
    temperature: Floats  # [F]
    start: Floats  # [F, D]
    pull: Floats  # [F]

    def logits(self, weights: Floats, bias: Floats) -> Floats:
        return np.asarray(self.temperature * (self.known.features @ _normalise_rows(weights).T) + bias)

    def balancing_bias(self, weights: Floats) -> Floats:
        """Return [F]: the bias that puts the mean logits of positives and of negatives at equal distance from 0."""
        return np.asarray(-(self.known.balanced_weights * self.logits(weights, np.zeros(len(weights)))).sum(axis=0))

    def gradients(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        residual = self.known.balanced_weights * (expit(self.logits(weights, bias)) - (self.known.labels == PRESENT))  # [n, F]
        of_unit = self.temperature[:, None] * (residual.T @ self.known.features)
        unit = _normalise_rows(weights)
        tangent = of_unit - (of_unit * unit).sum(axis=1, keepdims=True) * unit
        slope = tangent / np.linalg.norm(weights, axis=1, keepdims=True) + 2 * self.pull[:, None] * (weights - self.start)
        return slope / len(weights), residual.sum(axis=0) / len(weights)


def _normalise_rows(weights: Floats) -> Floats:
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _draw_kaiming(shape: tuple[int, ...], seed: int) -> Floats:
    return np.random.default_rng(seed).normal(scale=np.sqrt(2 / shape[1]), size=shape)
