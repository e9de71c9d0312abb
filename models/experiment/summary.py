"""Summary of the experiment as the tables of a paper: means, standard deviations, intervals, comparisons.

There are two sources of variance: the films labelled in a draw, and the patients of the test set. The standard deviation over draws
(`sd`) covers the first alone. Intervals and p-values cover both: each resample draws test patients and, crossed with them, draws,
both with replacement, the same for every method (Owen 2007, "The pigeonhole bootstrap": conservative). A difference is therefore
paired, and is not significant if another ten supports could reverse it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from models.evaluation import statistics
from models.evaluation.statistics import Floats, PatientBootstrap
from models.ladder.method import Logits

ZERO_SHOT, PAPER_HEAD = "zero-shot", "paper-head"
REFERENCES = (ZERO_SHOT, PAPER_HEAD)
"""Reference methods of every comparison."""
PRODUCT = "radclipd"
"""The method of the daemon itself."""

NO_LABELS = 0
"""Shot count of a method without a support."""

MEASURES = ("auc", "auprc", "brier", "ece")


@dataclass(frozen=True)
class LadderRow:
    """One line of the long table: one finding, one method, one shot count, one draw. NaN for an undefined measure.

    Brier score and ECE use the sigmoid of the method's logits as probability.
    """

    method: str
    shots: int
    draw: int
    finding: str
    auc: float
    auprc: float
    brier: float
    ece: float


@dataclass(frozen=True)
class MethodRun:
    """Results of one method at one shot count in one draw: its rows and its mean AUC on every resample [R]."""

    method: str
    shots: int
    draw: int
    rows: tuple[LadderRow, ...]
    weighted_auc: float  # mean weighted with the prevalence in the test set
    resampled_auc: Floats


@dataclass(frozen=True)
class Estimate:
    """The mean AUC over findings and draws, its standard deviation over draws (0 for a single draw), its interval.

    `weighted`: mean weighted by the prevalence of the findings; `findings`: number of defined findings.
    """

    mean: float
    sd: float
    lo: float
    hi: float
    weighted: float
    draws: int
    findings: int


@dataclass(frozen=True)
class FindingAverage:
    """Mean and standard deviation over draws of each measure of one finding."""

    method: str
    shots: int
    finding: str
    mean: Mapping[str, float]
    sd: Mapping[str, float]


@dataclass(frozen=True)
class LadderComparison:
    """A method's mean AUC minus the reference's at the same shot count, or without one if either needs no support.

    `p` is two-sided, from the standard error of the resampled differences; `p_holm` corrects for all comparisons with that
    reference.
    """

    method: str
    shots: int
    reference: str
    reference_mean: float
    difference: float
    lo: float
    hi: float
    p: float
    p_holm: float

    @property
    def relative(self) -> float:
        """The difference as a share of the reference's AUC above .5; NaN for a reference at or below .5."""
        above = self.reference_mean - 0.5
        return self.difference / above if above > 0 else math.nan


@dataclass(frozen=True)
class LadderSummary:
    """All results of the report."""

    mean_auc: Mapping[str, Mapping[int, Estimate]]
    averages: tuple[FindingAverage, ...]
    comparisons: tuple[LadderComparison, ...]

    @property
    def json(self) -> dict[str, Any]:
        """JSON values: `{"mean_auc": {method: {shots: {"mean", "sd", "lo", "hi"}}}}`, shots as text; undefined is null."""
        keys = ("mean", "sd", "lo", "hi")
        return {
            "mean_auc": {
                method: {
                    str(shots): {key: _null_if_nan(getattr(estimate, key)) for key in keys} for shots, estimate in by_shots.items()
                }
                for method, by_shots in self.mean_auc.items()
            }
        }


def measure_run(
    logits: Logits,
    labels: npt.NDArray[np.int8],
    bootstrap: PatientBootstrap,
    *,
    method: str,
    shots: int,
    draw: int,
    findings: Sequence[str],
) -> MethodRun:
    """Measure one method's logits [T, F] against the test labels [T, F]. Use the same bootstrap for all compared methods."""
    probabilities = expit(logits.astype(np.float64))
    columns = (
        statistics.auc(logits, labels),
        statistics.auprc(logits, labels),
        statistics.brier(probabilities, labels),
        statistics.ece(probabilities, labels),
    )
    rows = tuple(
        LadderRow(method, shots, draw, finding, *(float(column[f]) for column in columns)) for f, finding in enumerate(findings)
    )
    weighted = statistics.prevalence_weighted(columns[0], labels)
    return MethodRun(method, shots, draw, rows, weighted, statistics.macro_average(bootstrap.auc(logits, labels)))


def summarise(runs: Sequence[MethodRun], *, seed: int, references: Sequence[str] = REFERENCES) -> LadderSummary:
    """Summarise runs measured with one bootstrap; `seed` is that of the resampled draws. Methods keep the order of the runs."""
    cells = _summarise_cells(runs, np.random.default_rng(seed))
    mean_auc: dict[str, dict[int, Estimate]] = defaultdict(dict)
    for (method, shots), cell in cells.items():
        mean_auc[method][shots] = cell.estimate
    return LadderSummary(
        dict(mean_auc),
        tuple(average_draws([row for run in runs for row in run.rows])),
        tuple(_compare_with_references(cells, references)),
    )


def average_draws(rows: Sequence[LadderRow]) -> Iterator[FindingAverage]:
    """Average over draws for each method, shot count and finding, in the order of the rows. NaN is excluded."""
    groups: dict[tuple[str, int, str], list[LadderRow]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.shots, row.finding].append(row)
    for (method, shots, finding), group in groups.items():
        columns = {measure: np.array([getattr(row, measure) for row in group]) for measure in MEASURES}
        yield FindingAverage(
            method,
            shots,
            finding,
            mean={measure: float(statistics.macro_average(values)) for measure, values in columns.items()},
            sd={measure: _compute_deviation(values) for measure, values in columns.items()},
        )


@dataclass(frozen=True)
class _LadderCell:
    """Results of one method at one shot count."""

    estimate: Estimate
    resampled: Floats  # [R] mean AUC over the draws, draws and patients resampled


def _summarise_cells(runs: Sequence[MethodRun], rng: np.random.Generator) -> dict[tuple[str, int], _LadderCell]:
    groups: dict[tuple[str, int], list[MethodRun]] = defaultdict(list)
    for run in runs:
        groups[run.method, run.shots].append(run)
    draws = sorted({run.draw for run in runs})
    if not runs:
        return {}
    times = rng.multinomial(len(draws), np.full(len(draws), 1 / len(draws)), size=len(runs[0].resampled_auc))  # [R, draws]
    return {
        key: _summarise_cell(group, times[:, np.searchsorted(draws, [run.draw for run in group])]) for key, group in groups.items()
    }


def _summarise_cell(runs: Sequence[MethodRun], times: npt.NDArray[np.int64]) -> _LadderCell:
    aucs = np.array([[row.auc for row in run.rows] for run in runs])  # [draws, F]
    per_draw = statistics.macro_average(aucs)
    resampled = _average_over_draws(np.stack([run.resampled_auc for run in runs], axis=1), times)
    lower, upper = statistics.percentile_interval(resampled)
    estimate = Estimate(
        mean=float(statistics.macro_average(per_draw)),
        sd=_compute_deviation(per_draw),
        lo=float(lower),
        hi=float(upper),
        weighted=float(statistics.macro_average(np.array([run.weighted_auc for run in runs]))),
        draws=len(runs),
        findings=int(statistics.count_defined(aucs).max()),
    )
    return _LadderCell(estimate, resampled)


def _average_over_draws(resampled: Floats, times: npt.NDArray[np.int64]) -> Floats:
    """Return [R]: the mean over the draws of each resample, `times` [R, draws] each. A method run once has no draw variance."""
    if resampled.shape[1] == 1:
        return resampled[:, 0]
    weight = np.where(np.isnan(resampled), 0, times)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(total > 0, np.nansum(resampled * weight, axis=1) / total, np.nan))


def _compare_with_references(cells: Mapping[tuple[str, int], _LadderCell], references: Sequence[str]) -> Iterator[LadderComparison]:
    for reference in references:
        family = [
            _compare_cells(method, max(shots, against), cell, reference, cells[reference, against])
            for (method, shots), cell in cells.items()
            for against in (shots_of for name, shots_of in cells if name == reference)
            if method != reference and (shots == against or NO_LABELS in (shots, against))
        ]
        corrected = statistics.holm(np.array([comparison.p for comparison in family]))
        yield from (replace(one, p_holm=float(p)) for one, p in zip(family, corrected, strict=True))


def _compare_cells(method: str, shots: int, cell: _LadderCell, reference: str, against: _LadderCell) -> LadderComparison:
    differences = cell.resampled - against.resampled
    lower, upper = statistics.percentile_interval(differences)
    difference = cell.estimate.mean - against.estimate.mean
    p = statistics.normal_p(difference, _compute_deviation(differences))
    return LadderComparison(method, shots, reference, against.estimate.mean, difference, float(lower), float(upper), p, math.nan)


def _compute_deviation(values: Floats) -> float:
    """Return the sample standard deviation; 0 for a single value, NaN for none."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return 0.0 if len(known) else math.nan
    return float(np.std(known, ddof=1))


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
