"""Calibration: from logits to probabilities, and rates of decisions with confidence intervals.

Platt scaling (Platt 1999) with few parameters for few labels: one slope for all findings and one intercept per finding, both pulled
to the uncalibrated head by a prior that labels overcome. The fit is at even odds, positives and negatives weighing one half each,
since labelled images are selected and their shares say nothing of the archive. The prevalence in the archive then shifts the
intercept (Saerens et al. 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import norm

from models.classifier.head import LinearHead
from models.evaluation.cases import ABSENT, PRESENT

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

SLOPE_SPREAD = 0.5
"""Prior standard deviation of the slope's natural logarithm around 0: a factor of 1.6."""
INTERCEPT_SPREAD = 1.0
"""Prior standard deviation of an intercept around the midpoint of the two kinds."""
PRIOR_PREVALENCE = 0.04
"""Prevalence before any image of the archive: about the median of ChestX-ray14's findings, which range from .2 % to 18 %."""
PRIOR_STRENGTH = 50.0
"""Weight of PRIOR_PREVALENCE, as a number of archive images."""
_MIN_PREVALENCE, _MAX_PREVALENCE = 0.001, 0.5  # a feature present in more than half of an archive is no finding
_EM_ITERATIONS = 200
_CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: log-odds at even odds are slope * logit + intercept [F]."""

    slope: float
    intercepts: Floats

    def __call__(self, logits: Floats) -> Floats:
        """Return log-odds [..., F] at even odds."""
        return np.asarray(self.slope * logits + self.intercepts)

    def calibrated_head(self, head: LinearHead, prevalence: Floats) -> LinearHead:
        """Return the head whose scores are probabilities at this prevalence [F]."""
        shift = torch.from_numpy(self.intercepts + logit(prevalence)).float()
        return LinearHead(
            directions=head.directions.cpu(),
            scale=head.scale.cpu() * self.slope,
            bias=head.bias.cpu() * self.slope + shift,
        )


def balanced_weights(labels: Labels) -> Floats:
    """Return weights [n, F]: per finding the present images sum to 1/2 and the absent ones to 1/2; 0 without both kinds."""
    kinds = [labels == kind for kind in (PRESENT, ABSENT)]
    weights = sum(kind / (2.0 * np.maximum(kind.sum(axis=0), 1)) for kind in kinds)
    return np.asarray(weights * (kinds[0].any(axis=0) & kinds[1].any(axis=0)))


def fit_calibration(logits: Floats, labels: Labels) -> Calibration:
    """Fit a Calibration to logits and labels [n, F]. A finding without both kinds has the intercept 0. Deterministic."""
    weights = balanced_weights(labels)
    middle = (weights * np.where(weights > 0, logits, 0.0)).sum(axis=0)
    found = np.minimum((labels == PRESENT).sum(axis=0), (labels == ABSENT).sum(axis=0))
    force = weights * 2.0 * found  # a finding weighs twice the number of images of its rarer kind
    target, centred = np.where(labels == PRESENT, 1.0, 0.0), np.where(weights > 0, logits - middle, 0.0)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        slope, intercepts = np.exp(parameters[0]), parameters[1:]
        odds = slope * centred + intercepts
        error = force * (expit(odds) - target)
        loss = (force * (np.logaddexp(0.0, odds) - target * odds)).sum()
        pull = (parameters[0] / SLOPE_SPREAD) ** 2 / 2 + ((intercepts / INTERCEPT_SPREAD) ** 2).sum() / 2
        slope_gradient = (error * centred).sum() * slope + parameters[0] / SLOPE_SPREAD**2
        return float(loss + pull), np.concatenate([[slope_gradient], error.sum(axis=0) + intercepts / INTERCEPT_SPREAD**2])

    parameters = minimize(objective, np.zeros(1 + labels.shape[1]), jac=True, method="L-BFGS-B").x
    slope = float(np.exp(parameters[0]))
    return Calibration(slope, np.where(found > 0, parameters[1:] - slope * middle, 0.0))


def log_loss(odds: Floats, labels: Labels) -> float:
    """Return the mean over the findings of the balanced log-loss of log-odds [n, F]; NaN if no finding has both kinds."""
    weights = balanced_weights(labels)
    each = np.logaddexp(0.0, np.where(weights > 0, odds, 0.0)) - (labels == PRESENT) * np.where(weights > 0, odds, 0.0)
    defined = (weights > 0).any(axis=0)
    return float((weights * each).sum() / defined.sum()) if defined.any() else float("nan")


def estimate_prevalences(odds: Floats) -> Floats:
    """Estimate the prevalence [F] of each finding in an archive from log-odds [N, F] at even odds, without labels.

    Expectation-maximisation of Saerens et al. 2002, started at and regularised toward PRIOR_PREVALENCE: a head without
    discrimination leaves the prior.
    """
    ratios = np.exp(np.clip(odds, -30.0, 30.0))
    share = np.full(odds.shape[1], PRIOR_PREVALENCE)
    for _ in range(_EM_ITERATIONS):
        present = share * ratios / (share * ratios + 1.0 - share)
        share = (present.sum(axis=0) + PRIOR_STRENGTH * PRIOR_PREVALENCE) / (len(odds) + PRIOR_STRENGTH)
    return np.asarray(np.clip(share, _MIN_PREVALENCE, _MAX_PREVALENCE))


@dataclass(frozen=True)
class RateIntervals:
    """A rate per finding [F] with the bounds of its interval; NaN if undefined."""

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
    """Return the share of `positive` [n, F] among the `eligible` [n, F] images, with 95 % intervals.

    By resampling patients (percentiles). Where all resamples give one rate, as with 8 of 8, resampling says nothing: there the
    interval is Wilson's (1927) for the number of patients.
    """
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
    drawn = np.where(undefined, 0.0, drawn)
    tail = (1 - _CONFIDENCE_LEVEL) / 2
    lower, upper = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    says_nothing = np.nanmin(drawn, axis=0) == np.nanmax(drawn, axis=0)
    lower, upper = np.where(says_nothing, _wilson_interval(value, (sums[1] > 0).sum(axis=0)), [lower, upper])
    return RateIntervals(value, np.where(undefined, np.nan, lower), np.where(undefined, np.nan, upper))


def _wilson_interval(rate: Floats, cases: npt.NDArray[np.intp]) -> Floats:
    """Return the bounds [2, F] of Wilson's score interval for rates [F] of this many cases [F]."""
    z = norm.ppf((1 + _CONFIDENCE_LEVEL) / 2)
    n = np.maximum(cases, 1)
    centre, spread = rate + z**2 / (2 * n), z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.asarray(np.clip(np.stack([centre - spread, centre + spread]) / (1 + z**2 / n), 0.0, 1.0))
