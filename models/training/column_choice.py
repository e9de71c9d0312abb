"""Choice between two columns of scores for each finding: the text's and the learnt one, by held-out patients.

Both columns score the same images, each image by models that were trained on other patients. Per finding the AUC difference has the
standard error of `paired_auc`; with few positives this error is itself uncertain and is shrunk to a typical one. The differences of
all findings have a common mean and spread, estimated by empirical Bayes (DerSimonian and Laird 1986, with a floor of the spread): a
finding with few positives is judged mainly by the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.evaluation.statistics import auc, macro_average, paired_auc
from models.training.calibration import Floats, Labels

_ROUNDS = 20
_TYPICAL_SPREAD = 0.2  # standard error of a paired difference with one positive patient
_TYPICAL_WEIGHT = 3.0  # positive patients that the typical spread counts for


@dataclass(frozen=True)
class ColumnChoiceSettings:
    """`confidence`: smallest probability of a better ranking with which a finding is scored by the learnt column. `spread`: floor
    of the standard deviation of the findings' differences. `mean`: prior mean and standard deviation of the common difference.
    """

    confidence: float = 0.8
    spread: float = 0.015
    mean: tuple[float, float] = (0.0, 0.05)


@dataclass(frozen=True)
class ColumnChoice:
    """`better` [F]: probability that the first column ranks better. `first` [F]: whether it is chosen. `optimism`: what the mean
    AUC of the chosen columns gains on these images from the choice itself.
    """

    better: Floats
    first: npt.NDArray[np.bool_]
    optimism: float


def choose_columns(
    first: Floats,
    second: Floats,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    settings: ColumnChoiceSettings = ColumnChoiceSettings(),
    *,
    seed: int = 0,
    resamples: int = 50,
) -> ColumnChoice:
    """Choose between scores [n, F] of the same images (NaN: no score). A finding without a score of `first` keeps `second`."""
    known = np.where(np.isfinite(first) & np.isfinite(second), labels, UNKNOWN).astype(np.int8)
    scored = (known != UNKNOWN).any(axis=0)
    one, two = (np.where(known == UNKNOWN, 0.0, scores) for scores in (first, second))
    better = probability_better(one, two, known, patients, settings)
    chosen = scored & (better >= settings.confidence)
    return ColumnChoice(better, chosen, _estimate_optimism(one, two, known, patients, settings, seed=seed, resamples=resamples))


def probability_better(
    first: Floats, second: Floats, labels: Labels, patients: npt.NDArray[np.str_], settings: ColumnChoiceSettings
) -> Floats:
    """Return [F]: the posterior probability that the first scores [n, F] rank a finding better than the second."""
    difference, variance = _measure_differences(first, second, labels, patients)
    measured = np.isfinite(difference)
    mean, mean_variance, spread = _fit_common_difference(difference[measured], variance[measured], settings)
    own = np.where(measured, 1.0 / np.where(measured, variance, 1.0), 0.0)
    posterior_variance = 1.0 / (own + 1.0 / spread)
    posterior = posterior_variance * (own * np.where(measured, difference, 0.0) + mean / spread)
    deviation = np.sqrt(posterior_variance + mean_variance * (posterior_variance / spread) ** 2)
    return np.asarray(norm.cdf(posterior / deviation))


def _measure_differences(first: Floats, second: Floats, labels: Labels, patients: npt.NDArray[np.str_]) -> tuple[Floats, Floats]:
    """Return the AUC differences [F] and their variances [F]; NaN for a finding with fewer than two patients of either kind."""
    difference, variance = np.full(labels.shape[1], np.nan), np.full(labels.shape[1], np.nan)
    for column in range(labels.shape[1]):
        known = labels[:, column] != UNKNOWN
        kinds = [len(np.unique(patients[labels[:, column] == kind])) for kind in (PRESENT, ABSENT)]
        if min(kinds) < 2:
            continue
        found = paired_auc(first[known, column], second[known, column], labels[known, column], patients[known])
        count = float(min(kinds))
        typical = _TYPICAL_SPREAD**2 / count
        variance[column] = ((count - 1) * found.standard_error**2 + _TYPICAL_WEIGHT * typical) / (count - 1 + _TYPICAL_WEIGHT)
        difference[column] = found.difference
    return difference, variance


def _fit_common_difference(difference: Floats, variance: Floats, settings: ColumnChoiceSettings) -> tuple[float, float, float]:
    """Return the posterior mean and variance of the common difference, and the variance of the findings' differences around it."""
    prior_mean, precision = settings.mean[0], 1.0 / settings.mean[1] ** 2
    spread = settings.spread**2
    mean, total = prior_mean, precision
    for _ in range(_ROUNDS if len(difference) else 0):
        weight = 1.0 / (variance + spread)
        total = weight.sum() + precision
        mean = (weight @ difference + precision * prior_mean) / total
        spread = max(settings.spread**2, float(weight @ ((difference - mean) ** 2 - variance) / weight.sum()))
    return float(mean), float(1.0 / total), spread


def _estimate_optimism(
    first: Floats,
    second: Floats,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    settings: ColumnChoiceSettings,
    *,
    seed: int,
    resamples: int,
) -> float:
    """Return the bootstrap estimate of the optimism (Efron 1983): the choice of each resample, on the resample less on all
    images.
    """
    names, patient = np.unique(patients, return_inverse=True)
    rows_of = np.split(np.argsort(patient, kind="stable"), np.cumsum(np.bincount(patient))[:-1])
    rng = np.random.default_rng(seed)
    gains = []
    for _ in range(resamples):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([rows_of[number] for number in drawn])
        own = np.repeat(np.arange(len(names)), [len(rows_of[number]) for number in drawn]).astype(str)
        chosen = probability_better(first[rows], second[rows], labels[rows], own, settings) >= settings.confidence
        gains.append(_gain(first[rows], second[rows], labels[rows], chosen) - _gain(first, second, labels, chosen))
    finite = np.array(gains)[np.isfinite(gains)]
    return float(finite.mean()) if len(finite) else 0.0


def _gain(first: Floats, second: Floats, labels: Labels, chosen: npt.NDArray[np.bool_]) -> float:
    """Return the mean AUC of the chosen columns less that of the second."""
    return float(macro_average(auc(np.where(chosen, first, second), labels)) - macro_average(auc(second, labels)))
