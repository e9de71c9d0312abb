"""Logistic regression of all findings together, positives and negatives balanced."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from models.evaluation.cases import PRESENT
from models.ladder.labelled_features import LabelledFeatures

Floats = npt.NDArray[np.float64]

_MAX_ITERATIONS = 200  # of L-BFGS; whitened or few features need about 30


def fit_logistic_regression(known: LabelledFeatures, *, ridge: float, offset: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """Return weights [F, D] and bias [F] that minimise, for each finding, n_c x balanced log-loss + ridge / 2 x |w|^2.

    n_c is the effective number of images in the balanced loss, 4 / (1 / positives + 1 / negatives). Both are 0 for a finding
    without a positive or without a negative. `offset` [n, F]: fixed logits added to the model's. Convex: independent of the start.
    """
    sample_weight, target = _weigh_labels(known), (known.labels == PRESENT).astype(np.float64)
    features = known.features
    images, findings = known.labels.shape
    if not images:
        return np.zeros((findings, features.shape[1])), np.zeros(findings)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, bias = _split_weights(flat, findings)
        logits = features @ weights.T + bias + offset
        value = np.sum(sample_weight * (np.logaddexp(0.0, logits) - target * logits)) + ridge / 2 * np.sum(weights**2)
        slope = sample_weight * (expit(logits) - target)
        return float(value), np.column_stack([slope.T @ features + ridge * weights, slope.sum(axis=0)]).ravel()

    start = np.zeros(findings * (features.shape[1] + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS, "maxcor": 20})
    return _split_weights(found.x, findings)


def _weigh_labels(known: LabelledFeatures) -> Floats:
    """Return [n, F]: the balanced weights times n_c."""
    balanced = known.balanced_weights
    return np.asarray(balanced / np.maximum((balanced**2).sum(axis=0), np.finfo(np.float64).tiny))


def _split_weights(flat: Floats, findings: int) -> tuple[Floats, Floats]:
    table = flat.reshape(findings, -1)
    return table[:, :-1], table[:, -1]
