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
from models.ladder.labelled import Labelled, as_floats, head_logits
from models.ladder.method import Bench, Logits, Support

Floats = npt.NDArray[np.float64]


@dataclass
class LinearProbe:
    """`start`: where the weights start. `held`: whether the distance from there costs, more where zero-shot was right (CLAP).

    A finding that cannot be learnt keeps its start: the text classifier, or random weights for the probe that knows no text.
    """

    name: str
    start: Literal["random", "text"]
    held: bool = False
    learns: bool = True
    steps: int = 300
    rate: float = 0.1
    momentum: float = 0.9

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        known = Labelled.of(bench, support)
        text = as_floats(bench.ensemble.directions)
        start = text if self.start == "text" else _kaiming(text.shape, seed)
        return head_logits(self._fitted(known, start, as_floats(bench.ensemble.scale)), bench)

    def _fitted(self, known: Labelled, start: Floats, temperature: Floats) -> LinearHead:
        descent = _Descent(known, temperature, start, self._pull(known, start, temperature))
        weights, bias = start.copy(), descent.balancing_bias(start)
        speed, bias_speed = np.zeros_like(weights), np.zeros_like(bias)
        for step in range(self.steps):
            rate = self.rate * (1 + np.cos(np.pi * step / self.steps)) / 2
            slope, bias_slope = descent.slopes(weights, bias)
            speed, bias_speed = self.momentum * speed + slope, self.momentum * bias_speed + bias_slope
            weights, bias = weights - rate * speed, bias - rate * bias_speed
        tensors = (_unit(weights), temperature, np.where(known.learnable, bias, 0.0))
        return LinearHead(*(torch.from_numpy(part.astype(np.float32)) for part in tensors))

    def _pull(self, known: Labelled, start: Floats, temperature: Floats) -> Floats:
        """[F]: CLAP's multiplier, the probability that the start gives the right answer on the support; once, then fixed."""
        if not self.held:
            return np.zeros(len(start))
        descent = _Descent(known, temperature, start, np.zeros(len(start)))
        right = expit(descent.logits(start, descent.balancing_bias(start)) * np.where(known.labels == PRESENT, 1, -1))
        return np.asarray((known.halves * right).sum(axis=0))


@dataclass(frozen=True)
class _Descent:
    """Mean over the findings of balanced log-loss + pull x |w - start|^2."""

    known: Labelled
    temperature: Floats  # [F]
    start: Floats  # [F, D]
    pull: Floats  # [F]

    def logits(self, weights: Floats, bias: Floats) -> Floats:
        return np.asarray(self.temperature * (self.known.features @ _unit(weights).T) + bias)

    def balancing_bias(self, weights: Floats) -> Floats:
        """[F]: the mean logits of positives and of negatives lie at the same distance from 0."""
        return np.asarray(-(self.known.halves * self.logits(weights, np.zeros(len(weights)))).sum(axis=0))

    def slopes(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        residual = self.known.halves * (expit(self.logits(weights, bias)) - (self.known.labels == PRESENT))  # [n, F]
        of_unit = self.temperature[:, None] * (residual.T @ self.known.features)
        unit = _unit(weights)
        tangent = of_unit - (of_unit * unit).sum(axis=1, keepdims=True) * unit
        slope = tangent / np.linalg.norm(weights, axis=1, keepdims=True) + 2 * self.pull[:, None] * (weights - self.start)
        return slope / len(weights), residual.sum(axis=0) / len(weights)


def _unit(weights: Floats) -> Floats:
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def _kaiming(shape: tuple[int, ...], seed: int) -> Floats:
    return np.random.default_rng(seed).normal(scale=np.sqrt(2 / shape[1]), size=shape)
