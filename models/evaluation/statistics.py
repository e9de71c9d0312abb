"""Measures of discrimination and calibration, with their confidence intervals and p-values.

Shapes: N test images, F findings, M methods, R resamples. Labels are PRESENT, ABSENT or UNKNOWN; an unknown label is excluded from
every measure of its finding. An undefined measure (no positive, no negative, a score that is not finite) is NaN, never .5: averages
leave it out and `count_defined` counts the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import norm, rankdata, t

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int8]
Patients = npt.NDArray[np.str_] | npt.NDArray[np.intp]

CALIBRATION_BINS = 15
"""Number of bins of the expected calibration error."""

CONFIDENCE_LEVEL = 0.95
"""Confidence level of every interval."""

_RESAMPLES_PER_BLOCK = 250  # resamples computed together: their counts fit the processor's cache


def auc(scores: Scores, labels: Labels) -> Floats:
    """Return the area under the ROC curve [F] for scores and labels [N, F]: P(positive above negative) + P(tie) / 2.

    By mid-ranks (Hanley and McNeil 1982).
    """
    ranks = rankdata(np.where(labels == UNKNOWN, np.inf, scores), axis=0)  # unknown labels rank last and change no other rank
    positive = labels == PRESENT
    positives, negatives = positive.sum(axis=0).astype(np.float64), (labels == ABSENT).sum(axis=0)
    above = (ranks * positive).sum(axis=0) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(_find_defined(scores, labels), above / (positives * negatives), np.nan)


def weighted_auc(scores: Scores, labels: Labels, weights: Floats) -> Floats:
    """Return the AUC [F] of scores [N, F] where image i counts weights[i] > 0 times; equal weights give `auc`."""
    areas = np.full(labels.shape[1], np.nan)
    for column in np.flatnonzero(_find_defined(scores, labels)):
        positive, negative = labels[:, column] == PRESENT, labels[:, column] == ABSENT
        below = _share_below(scores[positive, column], scores[negative, column], weights[negative])
        areas[column] = np.average(below, weights=weights[positive])
    return areas


def auprc(scores: Scores, labels: Labels) -> Floats:
    """Return the average precision [F] for scores and labels [N, F]: sum of precision x step in recall; ties are one step."""
    return _measure_findings(_compute_average_precision, scores, labels)


def brier(probabilities: Scores, labels: Labels) -> Floats:
    """Return the mean squared error [F] of probabilities [N, F] (Brier 1950). Defined for labels of one kind too."""
    return _measure_findings(lambda p, positive: float(np.mean((p - positive) ** 2)), probabilities, labels, needs_both_kinds=False)


def ece(probabilities: Scores, labels: Labels, *, bins: int = CALIBRATION_BINS) -> Floats:
    """Return the expected calibration error [F] of probabilities [N, F]: mean over the images of |mean p - share| of their bin.

    Bins of equal mass: their edges are quantiles of the probabilities, and equal probabilities share a bin. Bins of equal width
    would put nearly all images of a rare finding into the lowest one.
    """
    return _measure_findings(
        lambda p, positive: _compute_calibration_error(p, positive, bins), probabilities, labels, needs_both_kinds=False
    )


def macro_average(values: Scores) -> Floats:
    """Return the mean over the defined findings [...] of measures [..., F]; NaN where none is defined."""
    count = count_defined(values)
    return np.where(count > 0, np.nansum(values, axis=-1, dtype=np.float64) / np.maximum(count, 1), np.nan)


def count_defined(values: Scores) -> npt.NDArray[np.intp]:
    """Return the number [...] of defined findings in measures [..., F]."""
    return np.asarray((~np.isnan(values)).sum(axis=-1))


def prevalence_weighted(values: Scores, labels: Labels) -> float:
    """Return the mean of measures [F] over the defined findings, each weighted with its prevalence in labels [N, F]."""
    known = np.maximum((labels != UNKNOWN).sum(axis=0), 1)
    prevalence = np.where(np.isnan(values), 0.0, (labels == PRESENT).sum(axis=0) / known)
    return float(np.nansum(values * prevalence) / prevalence.sum()) if prevalence.any() else float("nan")


def delong(scores: Scores, labels: Labels) -> tuple[Floats, Floats]:
    """Return the AUCs [M] of M scores of the same images [M, N] with labels [N], and their covariance [M, M].

    DeLong, DeLong and Clarke-Pearson 1988, by the mid-ranks of Sun and Xu 2014. It assumes independent images: with several images
    per patient the variances are too small; use `PatientBootstrap`. Needs at least two positives and two negatives.
    """
    below, above = _compute_placements(scores, labels, np.ones(len(labels)))
    return below.mean(axis=1), np.atleast_2d(np.cov(below) / below.shape[1] + np.cov(above) / above.shape[1])


def _compute_placements(scores: Scores, labels: Labels, weights: Floats) -> tuple[Floats, Floats]:
    """Return the share [M, P] of the negatives' weight below each positive and [M, Q] of the positives' weight above each negative.

    For scores [M, N] and weights [N]; ties count one half.
    """
    positive, negative = labels == PRESENT, labels == ABSENT
    pairs = [
        (
            _share_below(row[positive], row[negative], weights[negative]),
            1 - _share_below(row[negative], row[positive], weights[positive]),
        )
        for row in scores
    ]
    return np.stack([below for below, _ in pairs]), np.stack([above for _, above in pairs])


def _share_below(scores: Scores, references: Scores, weights: Floats) -> Floats:
    """Return the share [K] of the weight of references [R] that lies below each score [K]; ties count one half."""
    order = np.argsort(references)
    ordered, cumulative = references[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    left, right = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return np.asarray((cumulative[left] + cumulative[right]) / (2 * cumulative[-1]))


@dataclass(frozen=True)
class PairedAuc:
    """Difference of two AUCs, its standard error with degrees of freedom; numbers of patients with and without the finding."""

    difference: float
    standard_error: float
    degrees_of_freedom: float
    present_patients: int
    absent_patients: int

    @property
    def p_worse(self) -> float:
        """One-sided p-value for the first to rank worse than the second. 1 for equal rankings."""
        if self.standard_error == 0:
            return float(self.difference >= 0)
        return float(t.cdf(self.difference / self.standard_error, self.degrees_of_freedom))


def paired_auc(first: Scores, second: Scores, labels: Labels, patients: Patients, weights: Floats | None = None) -> PairedAuc:
    """Compare two scores [N] of the same images of patients [N]. Needs at least two patients of either kind.

    `weights` [N]: positive weights of the images; None: equal. DeLong's variance with images summed by patient (Obuchowski 1997).
    The variance is itself estimated from few patients, so the difference is tested with Student's t and the degrees of freedom of
    Satterthwaite 1946, not with the normal.
    """
    names, patient = np.unique(patients, return_inverse=True)
    kinds = (labels == PRESENT, labels == ABSENT)
    weight = np.ones(len(labels)) if weights is None else weights
    placements = _compute_placements(np.stack([first, second]), labels, weight)
    differences = [placed[0] - placed[1] for placed in placements]
    means = [float(np.average(difference, weights=weight[kind])) for kind, difference in zip(kinds, differences, strict=True)]
    sums, counts = np.zeros((2, len(names))), np.zeros(2, dtype=int)
    for row, (kind, difference) in enumerate(zip(kinds, differences, strict=True)):
        np.add.at(sums[row], patient[kind], weight[kind] * (difference - means[row]) / weight[kind].sum())
        counts[row] = np.count_nonzero(np.bincount(patient[kind]))
    of_kinds = counts / (counts - 1) * (sums**2).sum(axis=1)
    shared = 2 * len(names) / (len(names) - 1) * (sums[0] * sums[1]).sum()
    freedom = of_kinds.sum() ** 2 / max(float((of_kinds**2 / (counts - 1)).sum()), np.finfo(np.float64).tiny)
    error = np.sqrt(max(float(of_kinds.sum() + shared), 0.0))
    return PairedAuc(means[0], float(error), float(max(freedom, 1.0)), int(counts[0]), int(counts[1]))


def normal_p(difference: float, error: float) -> float:
    """Return the two-sided p-value of a difference with this standard error. NaN if either is NaN; 1 for no difference."""
    if difference == 0:
        return 1.0
    if error == 0:
        return 0.0
    return float(2 * norm.sf(abs(difference) / error))


def holm(p: Scores) -> Floats:
    """Return p-values [K] corrected for K comparisons (Holm 1979, step-down). NaN does not count as a comparison and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int(count_defined(p))]  # NaN sorts last
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def percentile_interval(samples: Scores) -> tuple[Floats, Floats]:
    """Return the lower and upper percentile bound [...] of resamples [R, ...]; NaN resamples are excluded."""
    tail = (1 - CONFIDENCE_LEVEL) / 2
    undefined = np.isnan(samples).all(axis=0)
    lower, upper = np.nanquantile(np.where(undefined, 0.0, samples), [tail, 1 - tail], axis=0)
    return np.where(undefined, np.nan, lower), np.where(undefined, np.nan, upper)


class PatientBootstrap:
    """R bootstrap resamples of the test patients, the same for every measurement: differences are paired.

    Patients are drawn with replacement, with all their images. No resample is sorted again: an image drawn twice counts twice, and
    for each finding only the sums of negatives between adjacent positives are needed. `weights` [N]: an image counts with this
    weight each time that it is drawn; None: equal.
    """

    def __init__(self, patients: npt.NDArray[np.str_], *, resamples: int = 1000, seed: int, weights: Floats | None = None) -> None:
        names, patient = np.unique(patients, return_inverse=True)
        drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
        cells = (drawn + np.arange(resamples)[:, None] * len(names)).ravel()
        counts = np.bincount(cells, minlength=resamples * len(names)).reshape(resamples, len(names))
        # float32 holds whole numbers exactly up to 2**24: enough for the sums of any test set
        self._draw_counts = [np.ascontiguousarray(block.T[patient], dtype=np.float32) for block in _split_resamples(counts)]
        if weights is not None:
            self._draw_counts = [block * weights[:, None].astype(np.float32) for block in self._draw_counts]

    def auc(self, scores: Scores, labels: Labels) -> Floats:
        """Return the AUCs [R, F] of scores [N, F] on every resample; NaN for a resample without a positive or a negative."""
        defined = _find_defined(scores, labels)
        return np.stack(
            [
                self._resample_auc(scores[:, f], labels[:, f]) if defined[f] else self._fill_undefined()
                for f in range(labels.shape[1])
            ],
            axis=1,
        )

    def _fill_undefined(self) -> Floats:
        return np.full(sum(times.shape[1] for times in self._draw_counts), np.nan)

    def _resample_auc(self, scores: Scores, labels: Labels) -> Floats:
        positives, negatives = np.flatnonzero(labels == PRESENT), np.flatnonzero(labels == ABSENT)
        cuts, place = np.unique(scores[positives], return_inverse=True)
        # bin 2i: between the cuts i - 1 and i; bin 2i + 1: tied with the cut i
        bins = np.searchsorted(cuts, scores[negatives], "left") + np.searchsorted(cuts, scores[negatives], "right")
        gather_positives = _build_gather_matrix(place, positives, (len(cuts), len(labels)))
        gather_negatives = _build_gather_matrix(bins, negatives, (2 * len(cuts) + 1, len(labels)))
        return np.concatenate(
            [_compute_weighted_auc(gather_positives @ times, gather_negatives @ times) for times in self._draw_counts]
        )


def _split_resamples(counts: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    return [counts[start : start + _RESAMPLES_PER_BLOCK] for start in range(0, len(counts), _RESAMPLES_PER_BLOCK)]


def _build_gather_matrix(bins: npt.NDArray[np.intp], rows: npt.NDArray[np.intp], shape: tuple[int, int]) -> csr_array:
    """Return the matrix that sums rows of images into bins."""
    return csr_array((np.ones(len(rows), dtype=np.float32), (bins, rows)), shape=shape)


def _compute_weighted_auc(positives: npt.NDArray[np.float32], negatives: npt.NDArray[np.float32]) -> Floats:
    """Return AUCs [r] from the positives at each cut [q, r] and the negatives in each bin [2q + 1, r]."""
    below = negatives.cumsum(axis=0)  # whole numbers: exact
    pairs = np.einsum("qr,qr->r", positives, below[0:-1:2] + below[1::2], dtype=np.float64) / 2
    possible = positives.sum(axis=0, dtype=np.float64) * below[-1]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(possible > 0, pairs / possible, np.nan))


def _find_defined(scores: Scores, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return [F]: True with a positive, a negative and finite scores of all known labels."""
    both = (labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)
    return np.asarray(both & (np.isfinite(scores) | (labels == UNKNOWN)).all(axis=0))


def _measure_findings(
    measure: Callable[[Floats, Floats], float], values: Scores, labels: Labels, *, needs_both_kinds: bool = True
) -> Floats:
    """Return [F]: the measure on the known labels of each finding."""
    any_known = (labels != UNKNOWN).any(axis=0)
    defined = _find_defined(values, labels) if needs_both_kinds else any_known & _find_finite(values, labels)
    measured = np.full(labels.shape[1], np.nan)
    for finding in np.flatnonzero(defined):
        known = labels[:, finding] != UNKNOWN
        measured[finding] = measure(
            values[known, finding].astype(np.float64), (labels[known, finding] == PRESENT).astype(np.float64)
        )
    return measured


def _find_finite(values: Scores, labels: Labels) -> npt.NDArray[np.bool_]:
    return np.asarray((np.isfinite(values) | (labels == UNKNOWN)).all(axis=0))


def _compute_average_precision(scores: Floats, positive: Floats) -> float:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # last row of each run of equal scores
    found = positive[order].cumsum()[last]
    return float(np.sum(np.diff(found, prepend=0.0) * found / (last + 1)) / positive.sum())


def _compute_calibration_error(probabilities: Floats, positive: Floats, bins: int) -> float:
    edges = np.quantile(probabilities, np.arange(1, bins) / bins)
    bin_of = np.searchsorted(edges, probabilities, side="right")
    return float(np.abs(np.bincount(bin_of, probabilities - positive, minlength=bins)).sum() / len(positive))
