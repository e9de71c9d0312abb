"""Choice between two columns of scores for each finding: an earlier one and a learnt one, by held-out patients.

Both columns score the same images, each image by models that were trained on other patients. Per finding the AUC difference has the
standard error of `paired_auc`; with few positives this error is itself uncertain and is shrunk to a typical one. The differences of
all findings have a common mean and spread, estimated by empirical Bayes (Paule and Mandel 1982, with a floor of the spread): a
finding with few positives is judged mainly by the others.

A choice on the images that also measure the result is optimistic. Therefore each group of patients also has a choice of its own,
made on all other patients (nested cross-validation; Varma and Simon 2006): its scores measure the rule of choice without optimism.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.evaluation.statistics import macro_average, paired_auc, weighted_auc
from models.training.calibration import Floats, Labels
from models.training.cross_validation import assign_folds, split_by_fold

NESTED_GROUPS = 10
"""Groups of patients, each with a choice made on the others."""
_ROUNDS = 20
_TYPICAL_SPREAD = 0.2  # standard error of a paired difference with one positive patient
_TYPICAL_WEIGHT = 3.0  # positive patients that the typical spread counts for

Columns = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ColumnChoiceSettings:
    """`confidence`: smallest probability of a better ranking with which a finding is scored by the first column. `spread`: floor of
    the standard deviation of the findings' differences. `mean`: prior mean and standard deviation of the common difference.
    """

    confidence: float = 0.8
    spread: float = 0.015
    mean: tuple[float, float] = (0.0, 0.05)


@dataclass(frozen=True)
class ColumnChoice:
    """`better` [F]: probability that the first column ranks better. `first` [F]: whether it is chosen. `nested` [n, F]: whether
    the first column is chosen by the images of all patients outside the patient's group. `optimism`: the gain of the mean AUC of
    the chosen columns over that of the nested choices.
    """

    better: Floats
    first: Columns
    nested: Columns
    optimism: float


def choose_columns(
    first: Floats,
    second: Floats,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    settings: ColumnChoiceSettings = ColumnChoiceSettings(),
    *,
    weights: Floats | None = None,
    seed: int = 0,
) -> ColumnChoice:
    """Choose between scores [n, F] of the same images, of comparable scales (NaN: no score).

    A finding without a score of `first` keeps `second`. `weights` [n]: positive weights of the images; None: equal. `seed`: of the
    groups of patients.
    """
    compared = _ComparedColumns.of(first, second, labels, patients, weights)
    better = compared.probability_better(settings)
    chosen = compared.scored & (better >= settings.confidence)
    nested = np.zeros(first.shape, dtype=bool)
    for others, own in split_by_fold(assign_folds(patients, compared.labels, max_folds=NESTED_GROUPS, seed=seed)):
        outside = compared.select(others)
        nested[own] = outside.scored & (outside.probability_better(settings) >= settings.confidence)
    return ColumnChoice(better, chosen, nested, compared.mean_auc(chosen) - compared.mean_auc(nested))


@dataclass(frozen=True)
class _ComparedColumns:
    """Two scores [n, F], finite, with the labels [n, F] that both score, numbers of the patients [n] and weights [n]."""

    first: Floats
    second: Floats
    labels: Labels
    patients: npt.NDArray[np.intp]
    weights: Floats

    @classmethod
    def of(
        cls, first: Floats, second: Floats, labels: Labels, patients: npt.NDArray[np.str_], weights: Floats | None
    ) -> _ComparedColumns:
        known = np.where(np.isfinite(first) & np.isfinite(second), labels, UNKNOWN).astype(np.int8)
        one, two = (np.where(known == UNKNOWN, 0.0, scores) for scores in (first, second))
        numbers = np.unique(patients, return_inverse=True)[1]
        return cls(one, two, known, numbers, np.ones(len(labels)) if weights is None else weights)

    @property
    def scored(self) -> Columns:
        """[F]: whether both score a label of the finding."""
        return np.asarray((self.labels != UNKNOWN).any(axis=0))

    def select(self, rows: npt.NDArray[np.intp]) -> _ComparedColumns:
        return _ComparedColumns(self.first[rows], self.second[rows], self.labels[rows], self.patients[rows], self.weights[rows])

    def mean_auc(self, chosen: Columns) -> float:
        """Return the mean AUC with the first column where chosen [F] or [n, F], else the second."""
        scores = np.where(chosen, self.first, self.second)
        return float(macro_average(weighted_auc(scores, self.labels, self.weights)))

    def probability_better(self, settings: ColumnChoiceSettings) -> Floats:
        """Return [F]: the posterior probability that the first column ranks better than the second."""
        difference, variance = self._measure_differences()
        measured = np.isfinite(difference)
        mean, mean_variance, spread = _fit_common_difference(difference[measured], variance[measured], settings)
        own = np.where(measured, 1.0 / np.where(measured, variance, 1.0), 0.0)
        posterior_variance = 1.0 / (own + 1.0 / spread)
        posterior = posterior_variance * (own * np.where(measured, difference, 0.0) + mean / spread)
        deviation = np.sqrt(posterior_variance + mean_variance * (posterior_variance / spread) ** 2)
        return np.asarray(norm.cdf(posterior / deviation))

    def _measure_differences(self) -> tuple[Floats, Floats]:
        """Return the AUC differences [F] and their variances [F]; NaN for a finding with fewer than two patients of either kind."""
        difference, variance = np.full(self.labels.shape[1], np.nan), np.full(self.labels.shape[1], np.nan)
        for column in range(self.labels.shape[1]):
            kinds = [np.count_nonzero(np.bincount(self.patients[self.labels[:, column] == kind])) for kind in (PRESENT, ABSENT)]
            if min(kinds) < 2:
                continue
            known = self.labels[:, column] != UNKNOWN
            found = paired_auc(
                self.first[known, column],
                self.second[known, column],
                self.labels[known, column],
                self.patients[known],
                self.weights[known],
            )
            count = float(min(kinds))
            typical = _TYPICAL_SPREAD**2 / count
            variance[column] = ((count - 1) * found.standard_error**2 + _TYPICAL_WEIGHT * typical) / (count - 1 + _TYPICAL_WEIGHT)
            difference[column] = found.difference
        return difference, variance


def _fit_common_difference(difference: Floats, variance: Floats, settings: ColumnChoiceSettings) -> tuple[float, float, float]:
    """Return the posterior mean and variance of the common difference, and the variance of the findings' differences around it.

    The spread is measured around the findings' own mean, without the prior: a prior far from that mean does not count as spread.
    """
    spread = settings.spread**2
    for _ in range(_ROUNDS if len(difference) > 1 else 0):
        weight = 1.0 / (variance + spread)
        around = (difference - weight @ difference / weight.sum()) ** 2 * len(difference) / (len(difference) - 1)
        spread = max(settings.spread**2, float(weight @ (around - variance) / weight.sum()))
    prior_mean, precision = settings.mean[0], 1.0 / settings.mean[1] ** 2
    weight = 1.0 / (variance + spread)
    total = weight.sum() + precision
    return float((weight @ difference + precision * prior_mean) / total), float(1.0 / total), spread
