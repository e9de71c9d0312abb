"""Whitening of an archive's features, and heads trained in whitened coordinates with the text as prior.

The archive has thousands of images and the support a handful of labels, so the mean m and the covariance S of the features are
estimated without labels. In z = S^-1/2 (f - m) images scatter equally in all directions: a direction counts by its discrimination,
independent of the encoder's scales.
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

_MIN_RELATIVE_VARIANCE = 1e-9  # share of the largest variance: a direction of less is rounding
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class WhiteningTransform:
    """Mean [D], principal axes [D, D] (columns) and variances [D] of an archive's features, float64."""

    mean: Floats
    axes: Floats
    variance: Floats

    @classmethod
    def from_features(cls, features: torch.Tensor) -> Self:
        """Estimate from unlabelled features [N, D], N >= 2, with Ledoit-Wolf shrinkage of the covariance (2004)."""
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


FitWeights = Callable[[Floats, Labels, Floats, WhiteningTransform, Floats], tuple[Floats, Floats]]
"""Whitened features [n, D], labels [n, F] with both kinds for each finding, the unit directions [F, D] of the text's ranking, the
whitening, and the weights [n, F] of the labels, above 0 and up to 1 -> weights [F, D] and intercepts [F] of log-odds at even odds,
in whitened coordinates."""


def fit_with_text_fallback(
    fit_weights: FitWeights,
    features: torch.Tensor,
    labels: Labels,
    text: LinearHead,
    whitening: WhiteningTransform,
    weights: Floats | None = None,
) -> LinearHead:
    """Return the head trained on unit vectors [n, D] and labels [n, F] (1 present, 0 absent, -1 unknown), each with its weight.

    `weights`: None: 1.

    A finding without a positive or without a negative keeps its text classifier bit for bit.
    """
    learnable = learnable_findings(labels)
    if not learnable.any():
        return text
    columns = torch.from_numpy(learnable).to(text.bias.device)
    anchor = whitened_text_directions(text.directions[columns], whitening)
    of_labels = np.ones(labels.shape) if weights is None else weights
    trained = whitening.head(*fit_weights(whitening(features), labels[:, learnable], anchor, whitening, of_labels[:, learnable]))
    tensors = {name: tensor.clone() for name, tensor in text.tensors.items()}
    for name, tensor in trained.tensors.items():
        tensors[name][columns] = tensor.to(columns.device)
    return LinearHead(**tensors)


def whitened_text_directions(directions: torch.Tensor, whitening: WhiteningTransform) -> Floats:
    """Return text directions [F, D] in whitened coordinates: [F, D], of unit length."""
    white = directions.cpu().numpy().astype(np.float64) @ whitening.axes * np.sqrt(whitening.variance)
    return np.asarray(white / np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), _TINY))
