"""Heads without gradient descent: SS-Text, GDA, and radclipd's stage 1."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.ladder.labelled_features import LabelledFeatures, head_logits, pool_whitening, to_float64
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.stage_one import StageOneSettings, stage_one_head

Floats = npt.NDArray[np.float64]


@dataclass
class SsText:
    """Text prototype plus support, in closed form (Silva-Rodriguez et al., "Few-shot, now for real", MICCAI 2025).

    w_c = t_c + temperature / (lambda_c x F) x half the difference of the means, lambda_c = 1 / positives. The original sums over
    the classes of a softmax; here the two balanced kinds of a binary classifier take their place.
    """

    name: str = "ss-text"
    needs_support: bool = True

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        text, temperature = to_float64(bench.ensemble.directions), to_float64(bench.ensemble.scale)
        pull = temperature * known.positive_counts / len(text)
        weights = text + pull[:, None] * known.mean_difference / 2
        unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        scaled = temperature[:, None] * unit
        return head_logits(_make_head(scaled, _compute_balancing_bias(known, scaled)), bench)


@dataclass
class Gda:
    """Gaussian discriminant analysis plus zero-shot (Wang et al., "A hard-to-beat baseline for training-free CLIP-based
    adaptation", ICLR 2024): means of the two kinds and one covariance, with the ridge estimate of its inverse from the support
    alone, D ((n - 1) S + tr(S) I)^-1.

    The original chooses the weight of the two parts on a validation set. Without one, both parts are scaled to the same spread over
    the support, and the learnt part weighs n_c / (n_c + `half_weight_positives`) with n_c positives.
    """

    name: str = "gda"
    needs_support: bool = True
    half_weight_positives: float = 4.0

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        text = to_float64(bench.ensemble.weights)
        if not known.learnable.any():
            return head_logits(bench.ensemble, bench)
        scatter = known.features - known.features.mean(axis=0)
        learnt = _solve_ridge(scatter, known.mean_difference)
        spread = (scatter @ text.T).std(axis=0) / np.maximum((scatter @ learnt.T).std(axis=0), np.finfo(np.float64).tiny)
        share = np.where(known.learnable, known.positive_counts / (known.positive_counts + self.half_weight_positives), 0.0)
        weights = (1 - share)[:, None] * text + (share * spread)[:, None] * learnt
        return head_logits(_make_head(weights, _compute_balancing_bias(known, weights)), bench)


@dataclass
class StageOneMethod:
    """The head of `models.training.stage_one`, whitened by the pool and anchored to the text: stage 1 of the daemon."""

    name: str = "stage-1"
    needs_support: bool = True
    settings: StageOneSettings = field(default_factory=StageOneSettings)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        features = torch.from_numpy(known.features)
        return head_logits(stage_one_head(features, known.labels, bench.ensemble, pool_whitening(bench), self.settings), bench)


def _solve_ridge(scatter: Floats, differences: Floats) -> Floats:
    """Return [F, D]: D (X'X + tr(S) I)^-1 d for centred rows X [n, D], by the n x n system. S = X'X / (n - 1)."""
    images, width = scatter.shape
    ridge = np.sum(scatter**2) / max(images - 1, 1)
    if ridge == 0:
        return np.zeros_like(differences)
    inner = np.linalg.solve(scatter @ scatter.T + ridge * np.eye(images), scatter @ differences.T)
    return np.asarray(width * (differences - (scatter.T @ inner).T) / ridge)


def _compute_balancing_bias(known: LabelledFeatures, weights: Floats) -> Floats:
    """Return [F]: the bias that puts the midpoint of the two mean logits at 0; 0 without both kinds."""
    return np.asarray(-(known.balanced_weights * (known.features @ weights.T)).sum(axis=0))


def _make_head(weights: Floats, bias: Floats) -> LinearHead:
    return LinearHead.from_weights(torch.from_numpy(weights), torch.from_numpy(bias))
