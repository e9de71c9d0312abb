"""Calibration: from logits to log-odds at even odds, and rates of decisions with confidence intervals.

Platt scaling (Platt 1999) with few parameters for few labels. All findings share one slope, pulled to the uncalibrated head. Each
finding has a factor on the slope with a spike-and-slab prior (Mitchell and Beauchamp 1988): the slab is a normal distribution
around
1, the spike says that the head tells nothing of the finding. The factor is the posterior mean, so a finding with few images has the
shared slope, and a finding that the head does not tell apart a slope near 0: its log-odds are those of the prevalence.

The fit is at even odds, positives and negatives weighing one half each, since labelled images are selected and their shares say
nothing of the archive. `prevalence` shifts the intercepts (Saerens et al. 2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp
from scipy.stats import norm

from models.classifier.head import LinearHead
from models.evaluation.cases import ABSENT, PRESENT

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

SLOPE_SPREAD = 0.5
"""Prior standard deviation of the shared slope's natural logarithm around 0: a factor of 1.6."""
INTERCEPT_SPREAD = 1.0
"""Prior standard deviation of an intercept around the midpoint of the two kinds."""
SPIKE = 0.2
"""Prior probability that the head tells nothing of a finding."""
FACTOR_SPREAD = 0.5
"""Prior standard deviation of a finding's factor on the shared slope around 1, where the head tells something of the finding."""
_FACTORS = np.linspace(0.0, 2.5, 51)
_NEWTON_STEPS = 12
_NEWTON_TOLERANCE = 1e-9
_CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Calibration:
    """Platt scaling: log-odds at even odds are slopes [F] * logit + intercepts [F]."""

    slopes: Floats
    intercepts: Floats

    def __call__(self, logits: Floats) -> Floats:
        """Return log-odds [..., F] at even odds."""
        return np.asarray(self.slopes * logits + self.intercepts)

    def calibrated_head(self, head: LinearHead, prevalence: Floats) -> LinearHead:
        """Return the head whose scores are probabilities at this prevalence [F]."""
        slopes, shift = torch.from_numpy(self.slopes).float(), torch.from_numpy(self.intercepts + logit(prevalence)).float()
        return LinearHead(directions=head.directions.cpu(), scale=head.scale.cpu() * slopes, bias=head.bias.cpu() * slopes + shift)


def balanced_weights(labels: Labels, weights: Floats | None = None) -> Floats:
    """Return weights [n, F]: per finding the present images sum to 1/2 and the absent ones to 1/2; 0 without both kinds.

    `weights` [n, F]: of the labels beside others of their kind; None: equal.
    """
    kinds = _weigh_kinds(labels, weights)
    totals = [kind.sum(axis=0) for kind in kinds]
    balanced = sum(kind / (2.0 * np.where(total > 0, total, 1.0)) for kind, total in zip(kinds, totals, strict=True))
    return np.asarray(balanced * ((totals[0] > 0) & (totals[1] > 0)))


def _weigh_kinds(labels: Labels, weights: Floats | None) -> list[Floats]:
    """Return the weights [n, F] of the present labels and those of the absent ones; 0 for other labels."""
    of_labels = np.ones(labels.shape) if weights is None else weights
    return [(labels == kind) * of_labels for kind in (PRESENT, ABSENT)]


def fit_calibration(logits: Floats, labels: Labels, weights: Floats | None = None) -> Calibration:
    """Fit a Calibration to logits and labels [n, F], with weights as in `balanced_weights`. A finding without both kinds has the
    intercept 0. Deterministic.
    """
    return _BalancedFit(logits, labels, weights).calibration()


class _BalancedFit:
    """The balanced logistic likelihood of n images and F findings. A finding weighs twice the number of its rarer kind."""

    def __init__(self, logits: Floats, labels: Labels, label_weights: Floats | None) -> None:
        weights = balanced_weights(labels, label_weights)
        self._found = np.minimum(*(kind.sum(axis=0) for kind in _weigh_kinds(labels, label_weights)))
        self._middle = (weights * np.where(weights > 0, logits, 0.0)).sum(axis=0)
        self._force = weights * 2.0 * self._found
        self._target = np.where(labels == PRESENT, 1.0, 0.0)
        self._centred = np.where(weights > 0, logits - self._middle, 0.0)

    def calibration(self) -> Calibration:
        shared = self._fit_shared_slope()
        evidence, intercepts = self._profile_factors(shared)
        posterior = evidence + _log_factor_prior()[:, None]
        share = np.exp(posterior - logsumexp(posterior, axis=0))
        slopes = shared * (share * _FACTORS[:, None]).sum(axis=0)
        expected = (share * intercepts).sum(axis=0)
        return Calibration(slopes, np.where(self._found > 0, expected - slopes * self._middle, 0.0))

    def _fit_shared_slope(self) -> float:
        def objective(parameters: Floats) -> tuple[float, Floats]:
            slope, intercepts = np.exp(parameters[0]), parameters[1:]
            odds = slope * self._centred + intercepts
            error = self._force * (expit(odds) - self._target)
            pull = (parameters[0] / SLOPE_SPREAD) ** 2 / 2 + ((intercepts / INTERCEPT_SPREAD) ** 2).sum() / 2
            slope_gradient = (error * self._centred).sum() * slope + parameters[0] / SLOPE_SPREAD**2
            gradient = np.concatenate([[slope_gradient], error.sum(axis=0) + intercepts / INTERCEPT_SPREAD**2])
            return float(self._compute_loss(odds).sum() + pull), gradient

        start = np.zeros(1 + self._target.shape[1])
        return float(np.exp(minimize(objective, start, jac=True, method="L-BFGS-B").x[0]))

    def _profile_factors(self, shared: float) -> tuple[Floats, Floats]:
        """Return the log evidence [G, F] of each factor on the shared slope (Laplace), and the best intercepts [G, F]."""
        evidence, best = [], []
        intercepts = np.zeros(self._target.shape[1])
        for factor in _FACTORS:
            aligned = shared * factor * self._centred
            intercepts = self._fit_intercepts(aligned, intercepts)
            odds = aligned + intercepts
            pull = (intercepts / INTERCEPT_SPREAD) ** 2 / 2 + np.log(self._sum_curvature(expit(odds))) / 2
            evidence.append(-self._compute_loss(odds).sum(axis=0) - pull)
            best.append(intercepts)
        return np.stack(evidence), np.stack(best)

    def _fit_intercepts(self, aligned: Floats, intercepts: Floats) -> Floats:
        """Return the best intercepts [F] for log-odds [n, F] by Newton's method from these intercepts [F]."""
        for _ in range(_NEWTON_STEPS):
            present = expit(aligned + intercepts)
            gradient = (self._force * (present - self._target)).sum(axis=0) + intercepts / INTERCEPT_SPREAD**2
            step = gradient / self._sum_curvature(present)
            intercepts = intercepts - step
            if np.abs(step).max() < _NEWTON_TOLERANCE:
                break
        return intercepts

    def _compute_loss(self, odds: Floats) -> Floats:
        return np.asarray(self._force * (np.logaddexp(0.0, odds) - self._target * odds))

    def _sum_curvature(self, present: Floats) -> Floats:
        return np.asarray((self._force * present * (1 - present)).sum(axis=0) + 1 / INTERCEPT_SPREAD**2)


def _log_factor_prior() -> Floats:
    """Return the log prior [G] of the factors: the slab's share 1 - SPIKE, and SPIKE at 0."""
    slab = -(((_FACTORS - 1) / FACTOR_SPREAD) ** 2) / 2
    prior = slab - logsumexp(slab) + np.log(1 - SPIKE)
    prior[0] = np.logaddexp(prior[0], np.log(SPIKE))
    return np.asarray(prior)


def log_loss(odds: Floats, labels: Labels) -> float:
    """Return the mean over the findings of the balanced log-loss of log-odds [n, F]; NaN if no finding has both kinds."""
    weights = balanced_weights(labels)
    each = np.logaddexp(0.0, np.where(weights > 0, odds, 0.0)) - (labels == PRESENT) * np.where(weights > 0, odds, 0.0)
    defined = (weights > 0).any(axis=0)
    return float((weights * each).sum() / defined.sum()) if defined.any() else float("nan")


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
