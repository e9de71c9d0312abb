"""From what the methods gave to the table of a paper: means, spreads, intervals, comparisons.

Two things vary by chance: which films a draw labels, and which patients are in the test set. The spread over draws (`sd`) is the
first alone. Intervals and p-values take both: each resample draws test patients and, crossed with them, draws, both with
replacement, the same ones for every method (Owen 2007, "The pigeonhole bootstrap": if anything too wide). So a difference is
paired, and it is not called real when another ten supports could turn it round.
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
"""What every method is compared with."""
PRODUCT = "radclipd"
"""What the daemon itself would serve."""

NO_LABELS = 0
"""The shot count of a method that uses none."""

MEASURES = ("auc", "auprc", "brier", "ece")


@dataclass(frozen=True)
class Row:
    """One line of the long table: one finding, one method, one shot count, one draw. NaN where a measure is not defined.

    Brier score and ECE take the sigmoid of the logits for a probability, as the method means it.
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
class Run:
    """All that is kept of one method at one shot count in one draw: its rows and its mean AUC on every resample [R]."""

    method: str
    shots: int
    draw: int
    rows: tuple[Row, ...]
    weighted_auc: float  # mean weighted with the prevalence in the test set
    resampled: Floats


@dataclass(frozen=True)
class Estimate:
    """The mean AUC over findings and draws, its standard deviation over draws (0 where there is one), its interval.

    `weighted` weighs findings with their prevalence; `findings`: how many are defined.
    """

    mean: float
    sd: float
    lo: float
    hi: float
    weighted: float
    draws: int
    findings: int


@dataclass(frozen=True)
class Average:
    """Mean and standard deviation over draws of each measure of one finding."""

    method: str
    shots: int
    finding: str
    mean: Mapping[str, float]
    sd: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A method's mean AUC minus the reference's at the same shot count, or at none where one of them needs none.

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
        """The difference in parts of what the reference has above chance; NaN where that is nothing."""
        above = self.reference_mean - 0.5
        return self.difference / above if above > 0 else math.nan


@dataclass(frozen=True)
class Summary:
    """Everything the report shows."""

    mean_auc: Mapping[str, Mapping[int, Estimate]]
    averages: tuple[Average, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def json(self) -> dict[str, Any]:
        """JSON-able: `{"mean_auc": {method: {shots: {"mean", "sd", "lo", "hi"}}}}`, shots as text; not defined is null."""
        keys = ("mean", "sd", "lo", "hi")
        return {
            "mean_auc": {
                method: {str(shots): {key: _number(getattr(estimate, key)) for key in keys} for shots, estimate in by_shots.items()}
                for method, by_shots in self.mean_auc.items()
            }
        }


def measured(
    logits: Logits,
    labels: npt.NDArray[np.int8],
    bootstrap: PatientBootstrap,
    *,
    method: str,
    shots: int,
    draw: int,
    findings: Sequence[str],
) -> Run:
    """Measure one method's logits [T, F] against the test labels [T, F]. Pass the same bootstrap for all that is compared."""
    probabilities = expit(logits.astype(np.float64))
    columns = (
        statistics.auc(logits, labels),
        statistics.auprc(logits, labels),
        statistics.brier(probabilities, labels),
        statistics.ece(probabilities, labels),
    )
    rows = tuple(Row(method, shots, draw, finding, *(float(column[f]) for column in columns)) for f, finding in enumerate(findings))
    weighted = statistics.prevalence_weighted(columns[0], labels)
    return Run(method, shots, draw, rows, weighted, statistics.macro(bootstrap.auc(logits, labels)))


def summarise(runs: Sequence[Run], *, seed: int, references: Sequence[str] = REFERENCES) -> Summary:
    """Summarise runs that were measured with one bootstrap; `seed` draws the draws. Methods come in the order they are met."""
    cells = _cells(runs, np.random.default_rng(seed))
    mean_auc: dict[str, dict[int, Estimate]] = defaultdict(dict)
    for (method, shots), cell in cells.items():
        mean_auc[method][shots] = cell.estimate
    return Summary(dict(mean_auc), tuple(averages([row for run in runs for row in run.rows])), tuple(_compared(cells, references)))


def averages(rows: Sequence[Row]) -> Iterator[Average]:
    """Average over draws, for each method, shot count and finding, in the order they are met. What is NaN does not count."""
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.shots, row.finding].append(row)
    for (method, shots, finding), group in groups.items():
        columns = {measure: np.array([getattr(row, measure) for row in group]) for measure in MEASURES}
        yield Average(
            method,
            shots,
            finding,
            mean={measure: float(statistics.macro(values)) for measure, values in columns.items()},
            sd={measure: _sd(values) for measure, values in columns.items()},
        )


@dataclass(frozen=True)
class _Cell:
    """A method at a shot count."""

    estimate: Estimate
    resampled: Floats  # [R] mean AUC over the draws, draws and patients resampled


def _cells(runs: Sequence[Run], rng: np.random.Generator) -> dict[tuple[str, int], _Cell]:
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.method, run.shots].append(run)
    draws = sorted({run.draw for run in runs})
    if not runs:
        return {}
    times = rng.multinomial(len(draws), np.full(len(draws), 1 / len(draws)), size=len(runs[0].resampled))  # [R, draws]
    return {key: _cell(group, times[:, np.searchsorted(draws, [run.draw for run in group])]) for key, group in groups.items()}


def _cell(runs: Sequence[Run], times: npt.NDArray[np.int64]) -> _Cell:
    aucs = np.array([[row.auc for row in run.rows] for run in runs])  # [draws, F]
    per_draw = statistics.macro(aucs)
    resampled = _over_draws(np.stack([run.resampled for run in runs], axis=1), times)
    lower, upper = statistics.interval(resampled)
    estimate = Estimate(
        mean=float(statistics.macro(per_draw)),
        sd=_sd(per_draw),
        lo=float(lower),
        hi=float(upper),
        weighted=float(statistics.macro(np.array([run.weighted_auc for run in runs]))),
        draws=len(runs),
        findings=int(statistics.defined(aucs).max()),
    )
    return _Cell(estimate, resampled)


def _over_draws(resampled: Floats, times: npt.NDArray[np.int64]) -> Floats:
    """[R]: the mean over the draws [R, draws] that each resample has drawn. A method that was run once does not vary with them."""
    if resampled.shape[1] == 1:
        return resampled[:, 0]
    weight = np.where(np.isnan(resampled), 0, times)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(total > 0, np.nansum(resampled * weight, axis=1) / total, np.nan))


def _compared(cells: Mapping[tuple[str, int], _Cell], references: Sequence[str]) -> Iterator[Comparison]:
    for reference in references:
        family = [
            _comparison(method, max(shots, against), cell, reference, cells[reference, against])
            for (method, shots), cell in cells.items()
            for against in (shots_of for name, shots_of in cells if name == reference)
            if method != reference and (shots == against or NO_LABELS in (shots, against))
        ]
        corrected = statistics.holm(np.array([comparison.p for comparison in family]))
        yield from (replace(one, p_holm=float(p)) for one, p in zip(family, corrected, strict=True))


def _comparison(method: str, shots: int, cell: _Cell, reference: str, against: _Cell) -> Comparison:
    differences = cell.resampled - against.resampled
    lower, upper = statistics.interval(differences)
    difference = cell.estimate.mean - against.estimate.mean
    p = statistics.normal_p(difference, _sd(differences))
    return Comparison(method, shots, reference, against.estimate.mean, difference, float(lower), float(upper), p, math.nan)


def _sd(values: Floats) -> float:
    """Of a sample; 0 for a single value, NaN for none."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return 0.0 if len(known) else math.nan
    return float(np.std(known, ddof=1))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
