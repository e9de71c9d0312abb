"""Logistic regression of all findings at once, positives and negatives weighing the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from models.evaluation.cases import PRESENT
from models.ladder.labelled_features import LabelledFeatures

Floats = npt.NDArray[np.float64]

_MAX_ITERATIONS = 200  # L-BFGS at most; whitened or few features need some 30


def fit_logistic_regression(known: LabelledFeatures, *, ridge: float, offset: Floats | float = 0.0) -> tuple[Floats, Floats]:
    """Return weights [F, D] and bias [F] that minimise, for each finding, n_c x balanced log-loss + ridge / 2 x |w|^2.

    n_c is the number of films that the balanced loss is worth, 4 / (1 / positives + 1 / negatives). Both are 0 for a finding
    without a positive or without a negative. `offset` [n, F]: logits that are there already. Convex: no start, no seed.
    """
    worth, target = _weigh_labels(known), (known.labels == PRESENT).astype(np.float64)
    features = known.features
    films, findings = known.labels.shape
    if not films:
        return np.zeros((findings, features.shape[1])), np.zeros(findings)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, bias = _split_weights(flat, findings)
        logits = features @ weights.T + bias + offset
        value = np.sum(worth * (np.logaddexp(0.0, logits) - target * logits)) + ridge / 2 * np.sum(weights**2)
        slope = worth * (expit(logits) - target)
        return float(value), np.column_stack([slope.T @ features + ridge * weights, slope.sum(axis=0)]).ravel()

    start = np.zeros(findings * (features.shape[1] + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MAX_ITERATIONS, "maxcor": 20})
    return _split_weights(found.x, findings)


def _weigh_labels(known: LabelledFeatures) -> Floats:
    """[n, F]: the halves, times n_c."""
    halves = known.balanced_weights
    return np.asarray(halves / np.maximum((halves**2).sum(axis=0), np.finfo(np.float64).tiny))


def _split_weights(flat: Floats, findings: int) -> tuple[Floats, Floats]:
    table = flat.reshape(findings, -1)
    return table[:, :-1], table[:, -1]
