"""Heads that are computed, not trained by steps: SS-Text, GDA, and radclipd's own first stage."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.ladder.labelled import Labelled, as_floats, head_logits, whitening
from models.ladder.method import Bench, Logits, Support
from models.training.stage_one import Weighing, stage_one_head

Floats = npt.NDArray[np.float64]


@dataclass
class SsText:
    """Text prototype plus support, in closed form (Silva-Rodriguez et al., "Few-shot, now for real", MICCAI 2025).

    w_c = t_c + temperature / (lambda_c x F) x half the difference of the means, lambda_c = 1 / positives: theirs with the sum over
    a softmax's classes replaced by the two balanced halves of a binary.
    """

    name: str = "ss-text"
    learns: bool = True

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        known = Labelled.of(bench, support)
        text, temperature = as_floats(bench.ensemble.directions), as_floats(bench.ensemble.scale)
        pull = temperature * known.positives / len(text)
        weights = text + pull[:, None] * known.difference / 2
        unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        scaled = temperature[:, None] * unit
        return head_logits(_head(scaled, _balancing_bias(known, scaled)), bench)


@dataclass
class Gda:
    """Gaussian discriminant analysis beside zero-shot (Wang et al., "A hard-to-beat baseline for training-free CLIP-based
    adaptation", ICLR 2024): means of the two kinds and one covariance, of which the support alone gives the ridge estimate
    D ((n - 1) S + tr(S) I)^-1.

    They choose the weight of the two parts on a validation set. There is none here: both have the same spread over the support,
    and the learnt part weighs n_c / (n_c + `half`) with n_c positives.
    """

    name: str = "gda"
    learns: bool = True
    half: float = 4.0

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        known = Labelled.of(bench, support)
        text = as_floats(bench.ensemble.weights)
        if not known.learnable.any():
            return head_logits(bench.ensemble, bench)
        scatter = known.features - known.features.mean(axis=0)
        learnt = _solved(scatter, known.difference)
        spread = (scatter @ text.T).std(axis=0) / np.maximum((scatter @ learnt.T).std(axis=0), np.finfo(np.float64).tiny)
        share = np.where(known.learnable, known.positives / (known.positives + self.half), 0.0)
        weights = (1 - share)[:, None] * text + (share * spread)[:, None] * learnt
        return head_logits(_head(weights, _balancing_bias(known, weights)), bench)


@dataclass
class StageOne:
    """The head of `models.training.stage_one`: whitened by the pool, anchored to the text. What the daemon learns first."""

    name: str = "stage-1"
    learns: bool = True
    numbers: Weighing = field(default_factory=Weighing)

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        known = Labelled.of(bench, support)
        features = torch.from_numpy(known.features)
        return head_logits(stage_one_head(features, known.labels, bench.ensemble, whitening(bench), self.numbers), bench)


def _solved(scatter: Floats, differences: Floats) -> Floats:
    """[F, D]: D (X'X + tr(S) I)^-1 d for centred rows X [n, D], by the smaller of the two systems. S = X'X / (n - 1)."""
    films, width = scatter.shape
    ridge = np.sum(scatter**2) / max(films - 1, 1)
    if ridge == 0:
        return np.zeros_like(differences)
    inner = np.linalg.solve(scatter @ scatter.T + ridge * np.eye(films), scatter @ differences.T)
    return np.asarray(width * (differences - (scatter.T @ inner).T) / ridge)


def _balancing_bias(known: Labelled, weights: Floats) -> Floats:
    """[F]: puts the middle between the two means at 0; 0 where one is missing."""
    return np.asarray(-(known.halves * (known.features @ weights.T)).sum(axis=0))


def _head(weights: Floats, bias: Floats) -> LinearHead:
    return LinearHead.from_weights(torch.from_numpy(weights), torch.from_numpy(bias))
