"""Coordinates in which the films of an archive scatter alike in all directions, and heads that are learnt there beside the text.

The archive has thousands of films and the support a handful of labels, so whatever can be learnt without labels is: the mean m and
the covariance S of the features. In z = S^-1/2 (f - m) a direction is worth what it tells apart, whatever the encoder's scales.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.covariance import ledoit_wolf

from models.classifier.head import LinearHead
from models.training.cross_validation import learnable_findings

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

_MIN_RELATIVE_VARIANCE = 1e-9  # of the largest variance: below it a direction is rounding
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class WhiteningTransform:
    """Mean [D], principal axes [D, D] (columns) and variances [D] of an archive's features, float64."""

    mean: Floats
    axes: Floats
    variance: Floats

    @classmethod
    def from_features(cls, features: torch.Tensor) -> Self:
        """Estimate it from unlabelled features [N, D], the covariance shrunk as Ledoit and Wolf 2004 do. At least two films."""
        archive = features.cpu().numpy().astype(np.float64)
        mean = archive.mean(axis=0)
        covariance, _ = ledoit_wolf(archive - mean, assume_centered=True)
        variance, axes = np.linalg.eigh(covariance)
        return cls(mean, axes, np.maximum(variance, max(_MIN_RELATIVE_VARIANCE * variance[-1], _TINY)))

    @property
    def inverse_root(self) -> Floats:
        """[D, D]: (f - mean) @ inverse_root has unit covariance."""
        return self.axes / np.sqrt(self.variance)

    def __call__(self, features: torch.Tensor) -> Floats:
        """Return whitened features [N, D]."""
        return np.asarray((features.cpu().numpy().astype(np.float64) - self.mean) @ self.inverse_root)

    def head(self, weights: Floats, intercepts: Floats) -> LinearHead:
        """Return the head whose logits are z @ weights.T + intercepts, for weights [F, D] and intercepts [F]."""
        directions = weights @ self.inverse_root.T
        return LinearHead.from_weights(torch.from_numpy(directions), torch.from_numpy(intercepts - directions @ self.mean))


FitWeights = Callable[[Floats, Labels, Floats, WhiteningTransform], tuple[Floats, Floats]]
"""Whitened films [n, D], their labels [n, F], each finding with both kinds, and the directions [F, D], of unit length, along which
the text ranks -> weights [F, D] and intercepts [F] of log-odds at even odds, in whitened coordinates."""


def fit_with_text_fallback(
    fit_weights: FitWeights, features: torch.Tensor, labels: Labels, text: LinearHead, whitening: WhiteningTransform
) -> LinearHead:
    """Return the head that is learnt from unit vectors [n, D] and labels [n, F] (1 present, 0 absent, -1 unknown).

    A finding without a positive or without a negative keeps its text classifier, to the last digit.
    """
    both = learnable_findings(labels)
    if not both.any():
        return text
    kept = torch.from_numpy(both).to(text.bias.device)
    anchor = whitened_text_directions(text.directions[kept], whitening)
    learnt = whitening.head(*fit_weights(whitening(features), labels[:, both], anchor, whitening))
    tensors = {name: tensor.clone() for name, tensor in text.tensors.items()}
    for name, tensor in learnt.tensors.items():
        tensors[name][kept] = tensor.to(kept.device)
    return LinearHead(**tensors)


def whitened_text_directions(directions: torch.Tensor, whitening: WhiteningTransform) -> Floats:
    """Return where text directions [F, D] point in whitened coordinates: [F, D], of unit length."""
    white = directions.cpu().numpy().astype(np.float64) @ whitening.axes * np.sqrt(whitening.variance)
    return np.asarray(white / np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), _TINY))
