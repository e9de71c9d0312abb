"""Linear probes by gradient descent: from random weights, from the text (ZS-LP), and held near the text (CLAP).

Silva-Rodriguez et al., "A closer look at the few-shot adaptation of large vision-language models" (CVPR 2024): prototypes of unit
length at CLIP's temperature, 300 steps of SGD with momentum .9 on all films at once, rate .1 falling as a cosine; nothing chosen
on a validation set. Theirs is a softmax over classes; here each finding is a binary of its own with a bias, which starts where
positives and negatives balance. Their twenty augmented views need pixels and are left out.
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
    """`start`: where the weights start. `held`: whether the distance from there costs, more where zero-shot was right (CLAP).

    A finding that cannot be learnt keeps its start: the text classifier, or random weights for the probe that knows no text.
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
        descent = _ProbeObjective(known, temperature, start, self._compute_multipliers(known, start, temperature))
        weights, bias = start.copy(), descent.balancing_bias(start)
        speed, bias_speed = np.zeros_like(weights), np.zeros_like(bias)
        for step in range(self.steps):
            rate = self.rate * (1 + np.cos(np.pi * step / self.steps)) / 2
            slope, bias_slope = descent.gradients(weights, bias)
            speed, bias_speed = self.momentum * speed + slope, self.momentum * bias_speed + bias_slope
            weights, bias = weights - rate * speed, bias - rate * bias_speed
        tensors = (_normalise_rows(weights), temperature, np.where(known.learnable, bias, 0.0))
        return LinearHead(*(torch.from_numpy(part.astype(np.float32)) for part in tensors))

    def _compute_multipliers(self, known: LabelledFeatures, start: Floats, temperature: Floats) -> Floats:
        """[F]: CLAP's multiplier, the probability that the start gives the right answer on the support; once, then fixed."""
        if not self.constrained:
            return np.zeros(len(start))
        descent = _ProbeObjective(known, temperature, start, np.zeros(len(start)))
        right = expit(descent.logits(start, descent.balancing_bias(start)) * np.where(known.labels == PRESENT, 1, -1))
        return np.asarray((known.balanced_weights * right).sum(axis=0))


@dataclass(frozen=True)
class _ProbeObjective:
    """Mean over the findings of balanced log-loss + pull x |w - start|^2."""

    known: LabelledFeatures
    temperature: Floats  # [F]
    start: Floats  # [F, D]
    pull: Floats  # [F]

    def logits(self, weights: Floats, bias: Floats) -> Floats:
        return np.asarray(self.temperature * (self.known.features @ _normalise_rows(weights).T) + bias)

    def balancing_bias(self, weights: Floats) -> Floats:
        """[F]: the mean logits of positives and of negatives lie at the same distance from 0."""
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
