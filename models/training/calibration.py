"""From logits to probabilities, and to decisions whose rates are known within an interval.

Platt's scaling (Platt 1999) with as few numbers as few labels can carry: one slope for all findings and an intercept for each, both
pulled to what the head says by itself, with a force that positives overcome. It is fitted at even odds, positives and negatives
weighing one half each, since the labelled films are chosen and their shares say nothing of the archive. The archive's own share of
a finding then moves the intercept (Saerens et al. 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit

from models.classifier.head import LinearHead
from models.evaluation.cases import ABSENT, PRESENT

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

SLOPE_SPREAD = 0.5
"""Standard deviation expected of the slope's natural logarithm around 0: a factor of 1.6."""
INTERCEPT_SPREAD = 1.0
"""Standard deviation expected of an intercept around the point half-way between the two kinds."""
PRIOR_PREVALENCE = 0.04
"""Before any film of the archive is looked at: about the median of ChestX-ray14's findings, whose shares go from .2 % to 18 %."""
PRIOR_STRENGTH = 50.0
"""As many films of the archive say as much as COMMON_PREVALENCE does."""
_MIN_PREVALENCE, _MAX_PREVALENCE = 0.001, 0.5  # prevalences: a finding that more than half of an archive shows is none
_EM_ITERATIONS = 200
_CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Calibration:
    """Log-odds at even odds are slope * logit + intercept [F]."""

    slope: float
    intercepts: Floats

    def __call__(self, logits: Floats) -> Floats:
        """Return log-odds [..., F] at even odds."""
        return np.asarray(self.slope * logits + self.intercepts)

    def calibrated_head(self, head: LinearHead, prevalence: Floats) -> LinearHead:
        """Return the head whose scores are probabilities where findings have this prevalence [F]."""
        shift = torch.from_numpy(self.intercepts + logit(prevalence)).float()
        return LinearHead(
            directions=head.directions.cpu(),
            scale=head.scale.cpu() * self.slope,
            bias=head.bias.cpu() * self.slope + shift,
        )


def balanced_weights(labels: Labels) -> Floats:
    """Return weights [n, F]: of each finding the present films weigh 1/2 together and the absent ones 1/2; without both, 0."""
    kinds = [labels == kind for kind in (PRESENT, ABSENT)]
    weights = sum(kind / (2.0 * np.maximum(kind.sum(axis=0), 1)) for kind in kinds)
    return np.asarray(weights * (kinds[0].any(axis=0) & kinds[1].any(axis=0)))


def fit_calibration(logits: Floats, labels: Labels) -> Calibration:
    """Fit it to logits and labels [n, F]. A finding without both kinds has the intercept 0. No chance in it."""
    weights = balanced_weights(labels)
    middle = (weights * np.where(weights > 0, logits, 0.0)).sum(axis=0)
    found = np.minimum((labels == PRESENT).sum(axis=0), (labels == ABSENT).sum(axis=0))
    force = weights * 2.0 * found  # a finding has the say of twice the films of its rarer kind
    wanted, given = np.where(labels == PRESENT, 1.0, 0.0), np.where(weights > 0, logits - middle, 0.0)

    def misfit(numbers: Floats) -> tuple[float, Floats]:
        slope, intercepts = np.exp(numbers[0]), numbers[1:]
        odds = slope * given + intercepts
        error = force * (expit(odds) - wanted)
        loss = (force * (np.logaddexp(0.0, odds) - wanted * odds)).sum()
        pull = (numbers[0] / SLOPE_SPREAD) ** 2 / 2 + ((intercepts / INTERCEPT_SPREAD) ** 2).sum() / 2
        uphill = (error * given).sum() * slope + numbers[0] / SLOPE_SPREAD**2
        return float(loss + pull), np.concatenate([[uphill], error.sum(axis=0) + intercepts / INTERCEPT_SPREAD**2])

    numbers = minimize(misfit, np.zeros(1 + labels.shape[1]), jac=True, method="L-BFGS-B").x
    slope = float(np.exp(numbers[0]))
    return Calibration(slope, np.where(found > 0, numbers[1:] - slope * middle, 0.0))


def log_loss(odds: Floats, labels: Labels) -> float:
    """Return the mean over the findings of the balanced log-loss of log-odds [n, F]; NaN where no finding has both kinds."""
    weights = balanced_weights(labels)
    each = np.logaddexp(0.0, np.where(weights > 0, odds, 0.0)) - (labels == PRESENT) * np.where(weights > 0, odds, 0.0)
    defined = (weights > 0).any(axis=0)
    return float((weights * each).sum() / defined.sum()) if defined.any() else float("nan")


def estimate_prevalences(odds: Floats) -> Floats:
    """Estimate the share [F] of films of an archive that show each finding from log-odds [N, F] at even odds, without labels.

    The expectation-maximisation of Saerens et al. 2002, from and toward COMMON_PREVALENCE: where a head tells nothing apart, the
    films say nothing of their share.
    """
    ratios = np.exp(np.clip(odds, -30.0, 30.0))
    share = np.full(odds.shape[1], PRIOR_PREVALENCE)
    for _ in range(_EM_ITERATIONS):
        present = share * ratios / (share * ratios + 1.0 - share)
        share = (present.sum(axis=0) + PRIOR_STRENGTH * PRIOR_PREVALENCE) / (len(odds) + PRIOR_STRENGTH)
    return np.asarray(np.clip(share, _MIN_PREVALENCE, _MAX_PREVALENCE))


@dataclass(frozen=True)
class RateIntervals:
    """Of each finding a rate and the bounds of its interval [F]; NaN where it is not defined."""

    value: Floats
    lower: Floats
    upper: Floats


def rates_with_intervals(
    positive: npt.NDArray[np.bool_],
    eligible: npt.NDArray[np.bool_],
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
) -> RateIntervals:
    """Return the share of `decided` [n, F] among the films `among` [n, F], with intervals by resampling patients."""
    names, patient = np.unique(patients, return_inverse=True)
    sums = np.zeros((2, len(names), eligible.shape[1]))
    np.add.at(sums[0], patient, (positive & eligible).astype(np.float64))
    np.add.at(sums[1], patient, eligible.astype(np.float64))
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=resamples).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = sums[0].sum(axis=0) / sums[1].sum(axis=0)
        drawn = (times @ sums[0]) / (times @ sums[1])
    undefined = np.isnan(value)
    tail = (1 - _CONFIDENCE_LEVEL) / 2
    lower, upper = np.nanquantile(np.where(undefined, 0.0, drawn), [tail, 1 - tail], axis=0)
    return RateIntervals(value, np.where(undefined, np.nan, lower), np.where(undefined, np.nan, upper))
