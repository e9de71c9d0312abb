"""Figures of decisions: how often findings are called, and how often a call is right, in a natural population."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_BOUND = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMeasures:
    """Figures of one version on N studies of F findings; NaN: undefined. Weights give the studies natural prevalences."""

    calls_per_study: float
    true_per_study: float
    reference_per_study: float  # what calls are compared with: the sum of the stated or estimated prevalences
    ppv: float  # share of calls that are right
    ppv_over_prevalence: float  # the same, over the share of present findings among all
    ppv_over_chance: float  # the same, over the PPV of as many calls of each finding on studies drawn at random
    sensitivity: float  # mean over the findings that occur
    specificity: float  # mean over the findings
    normal_without_call: float  # share of studies without any finding in which nothing is called
    brier_skill: float  # of what is told as a probability, over the base rates
    calibration_slope: float  # of what is told as a probability: logistic slope of the labels on its log-odds
    top1: float  # share of studies with a finding whose first-ranked finding is present
    top3: float  # the same for any of the first three
    worst_call_over_prior: float  # largest call rate of a finding over its reference rate


def measure_decisions(
    calls: Flags, rank: Floats, probability: Floats, labels: npt.NDArray[np.int8], weights: Floats, reference: Floats
) -> DecisionMeasures:
    """Measure decisions [N, F] of N studies with complete labels [N, F] (1 or 0) and weights [N].

    `rank` [N, F] orders the findings of a study. `probability` [N, F] is NaN where none is told. `reference` [F]: rate of each
    finding that its calls are compared with.
    """
    share = (weights / weights.sum())[:, None]
    present = labels == 1
    prevalence, rate, right = ((share * flags).sum(axis=0) for flags in (present, calls, calls & present))
    sick, normal = (share[:, 0] * flags for flags in (present.any(axis=1), ~present.any(axis=1)))
    hits = np.take_along_axis(present, np.argsort(-rank, axis=1, kind="stable")[:, :3], axis=1)
    skill, slope = _measure_probabilities(probability, present, share[:, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        return DecisionMeasures(
            calls_per_study=float(rate.sum()),
            true_per_study=float(prevalence.sum()),
            reference_per_study=float(reference.sum()),
            ppv=float(right.sum() / rate.sum()),
            ppv_over_prevalence=float(right.sum() / rate.sum() / prevalence.mean()),
            ppv_over_chance=float(right.sum() / (rate * prevalence).sum()),
            sensitivity=_average_defined(right / prevalence),
            specificity=_average_defined(1 - (rate - right) / (1 - prevalence)),
            normal_without_call=float(normal[~calls.any(axis=1)].sum() / normal.sum()),
            brier_skill=skill,
            calibration_slope=slope,
            top1=float(sick[hits[:, 0]].sum() / sick.sum()),
            top3=float(sick[hits.any(axis=1)].sum() / sick.sum()),
            worst_call_over_prior=float((rate / reference).max()),
        )


def _average_defined(values: Floats) -> float:
    """Return the mean of the values that are not NaN; NaN where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _measure_probabilities(probability: Floats, present: Flags, share: Floats) -> tuple[float, float]:
    """Return Brier skill over the base rates of the findings, and calibration slope, of the findings told as probabilities."""
    told = ~np.isnan(probability).any(axis=0)
    if not told.any():
        return float("nan"), float("nan")
    probability, target = probability[:, told], present[:, told].astype(np.float64)
    base = (share[:, None] * target).sum(axis=0)
    brier = (share[:, None] * (probability - target) ** 2).sum()
    skill = 1 - brier / (base * (1 - base)).sum()
    return float(skill), _fit_slope(probability.ravel(), target.ravel(), np.repeat(share, told.sum()))


def _fit_slope(probability: Floats, target: Floats, weight: Floats) -> float:
    """Return the slope of a weighted logistic regression of targets on log-odds (Cox 1958)."""
    bounded = np.clip(probability, _BOUND, 1 - _BOUND)
    inputs = np.column_stack([np.log(bounded / (1 - bounded)), np.ones(len(bounded))])
    share = weight / weight.sum()

    def objective(parameters: Floats) -> tuple[float, Floats]:
        odds = inputs @ parameters
        loss = share @ (np.logaddexp(0.0, odds) - target * odds)
        return float(loss), np.asarray(inputs.T @ (share * (expit(odds) - target)))

    return float(minimize(objective, np.array([1.0, 0.0]), jac=True, method="BFGS").x[0])
