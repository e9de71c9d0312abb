"""From logits to tables: one row a finding and draw, means with intervals, paired comparisons. Undefined is empty, never .5."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapters.experiment.run import Scored
from models.experiment.cases import ABSENT, PRESENT, Cases, Split
from models.experiment.statistics import (
    PatientBootstrap,
    auc,
    auprc,
    brier,
    defined,
    ece,
    holm,
    interval,
    normal_p,
)

Floats = npt.NDArray[np.float64]

MEAN, WEIGHTED, COMMON, RARE = "mean", "prevalence-weighted", "common", "rare"
"""Scopes over several findings: the plain mean, the mean weighted with prevalence, and the two halves that RARE_BELOW makes."""
RARE_BELOW = 0.025
"""Prevalence in the pool, weighted to the archive, below which a finding is rare."""
REFERENCES = ("zero-shot", "paper-head")
"""Methods that every other one is compared with."""
DIGITS = 6


class Result(NamedTuple):
    """One finding of one method on one draw. AUC and AUPRC are NaN without both positives and negatives in the test set."""

    method: str
    shots: int
    draw: int
    finding: str
    auc: float
    auprc: float
    brier: float
    ece: float
    positives: int
    negatives: int


class Summary(NamedTuple):
    """A method at a shot count over its draws. `lo` and `hi`: 95 % interval of the mean, test patients resampled."""

    method: str
    shots: int
    scope: str  # a finding, or MEAN, WEIGHTED, COMMON, RARE
    draws: int
    findings: int  # how many are defined
    auc: float
    sd: float  # over draws
    lo: float
    hi: float
    auprc: float
    brier: float
    ece: float
    films: float  # learnt from, mean over draws
    studies_read: float  # mean over draws


class Timing(NamedTuple):
    """What one fit with its scores of the whole test set took, mean over draws."""

    method: str
    shots: int
    seconds: float


class Comparison(NamedTuple):
    """A method against a reference on the same test patients, and on the same draws where both draw."""

    method: str
    shots: int
    against: str
    scope: str
    findings: int  # that are defined for both: the others are left out of both
    reference: float  # its AUC
    difference: float  # of AUC from it
    lo: float
    hi: float
    p: float  # two-sided, from the spread of the paired differences
    p_holm: float  # over methods and shots for a mean, over findings for a finding


class Tables(NamedTuple):
    """All that is known of a run."""

    results: Sequence[Result]
    summary: Sequence[Summary]
    comparisons: Sequence[Comparison]
    timings: Sequence[Timing]
    groups: Mapping[str, Sequence[int]]  # COMMON and RARE: columns of the findings


Resampled = Callable[[Scored], Floats]
"""Gives the AUCs [R, F] of one result on every resample of the test patients."""


def tables(scored: Sequence[Scored], cases: Cases, split: Split, resampled: Resampled) -> Tables:
    """Measure everything. `resampled` gives paired resamples: the same patients for whatever is measured."""
    labels = cases.labels[split.test]
    results = [result for one in scored for result in _results(one, labels, cases.findings)]
    weights = (labels == PRESENT).sum(axis=0) / np.maximum(((labels == PRESENT) | (labels == ABSENT)).sum(axis=0), 1)
    groups = _groups(cases, split)
    scopes = _scopes(cases.findings, weights, groups)
    by_cell: dict[tuple[str, int], list[Scored]] = defaultdict(list)
    for one in scored:
        by_cell[one.method, one.shots].append(one)
    measured = {(row.method, row.shots, row.draw, row.finding): row for row in results}
    samples = {cell: _mean([resampled(one) for one in ones]) for cell, ones in by_cell.items()}  # [R, F] each
    measures = {cell: _measures(ones, measured, cases.findings) for cell, ones in by_cell.items()}
    summary = [_summary(ones, scope, measures[cell], samples[cell]) for cell, ones in by_cell.items() for scope in scopes]
    timings = [Timing(*cell, float(np.mean([one.seconds for one in ones]))) for cell, ones in by_cell.items()]
    means = {cell: _mean(of_cell["auc"]) for cell, of_cell in measures.items()}  # [F] each
    return Tables(results, summary, _comparisons(means, samples, scopes), timings, groups)


def bootstrap(cases: Cases, split: Split, *, resamples: int, seed: int) -> Resampled:
    """Return resampling of the test patients with all their films."""
    of = PatientBootstrap(cases.patient[split.test], resamples=resamples, seed=seed)
    labels = cases.labels[split.test]
    return lambda one: of.auc(one.logits, labels)


def _results(one: Scored, labels: npt.NDArray[np.int8], findings: Sequence[str]) -> list[Result]:
    probabilities = 1 / (1 + np.exp(-one.logits.astype(np.float64)))
    columns = zip(
        findings,
        auc(one.logits, labels).tolist(),
        auprc(one.logits, labels).tolist(),
        brier(probabilities, labels).tolist(),
        ece(probabilities, labels).tolist(),
        (labels == PRESENT).sum(axis=0).tolist(),
        (labels == ABSENT).sum(axis=0).tolist(),
        strict=True,
    )
    return [Result(one.method, one.shots, one.draw, *column) for column in columns]


class _Scope(NamedTuple):
    """Findings that are averaged, and with which weights [n]."""

    name: str
    columns: Sequence[int]
    weights: Floats

    def of(self, values: Floats) -> Floats:
        """Average [..., F] over the defined findings of the scope; NaN where none is."""
        chosen = values[..., list(self.columns)]
        there = np.where(np.isnan(chosen), 0.0, self.weights)
        total = there.sum(axis=-1)
        return np.asarray(np.where(total > 0, np.nansum(chosen * self.weights, axis=-1) / np.where(total > 0, total, 1), np.nan))


def _scopes(findings: Sequence[str], weights: Floats, groups: Mapping[str, Sequence[int]]) -> list[_Scope]:
    everything = list(range(len(findings)))
    several = [(MEAN, everything), *groups.items()]
    return [
        *(_Scope(name, columns, np.ones(len(columns))) for name, columns in several if columns),
        _Scope(WEIGHTED, everything, weights),
        *(_Scope(finding, [column], np.ones(1)) for column, finding in enumerate(findings)),
    ]


def _groups(cases: Cases, split: Split) -> dict[str, list[int]]:
    """Return the columns of common and of rare findings, by their prevalence in the archive that the pool stands for."""
    labels, weight = cases.labels[split.pool], cases.weight[split.pool][:, None].astype(np.float64)
    present = ((labels == PRESENT) * weight).sum(axis=0)
    rare = present < RARE_BELOW * (((labels == PRESENT) | (labels == ABSENT)) * weight).sum(axis=0)
    return {COMMON: np.flatnonzero(~rare).tolist(), RARE: np.flatnonzero(rare).tolist()}


def _measures(ones: Sequence[Scored], measured: Mapping[Any, Result], findings: Sequence[str]) -> dict[str, Floats]:
    """Return AUC, AUPRC, Brier and ECE, [draws, F] each."""
    rows = [[measured[one.method, one.shots, one.draw, finding] for finding in findings] for one in ones]
    return {name: np.array([[getattr(row, name) for row in draw] for draw in rows]) for name in ("auc", "auprc", "brier", "ece")}


def _summary(ones: Sequence[Scored], scope: _Scope, measures: Mapping[str, Floats], samples: Floats) -> Summary:
    draws = {name: scope.of(values) for name, values in measures.items()}
    low, high = interval(scope.of(samples))
    return Summary(
        method=ones[0].method,
        shots=ones[0].shots,
        scope=scope.name,
        draws=len(ones),
        findings=int(defined(measures["auc"][:, list(scope.columns)]).min()),
        auc=_average(draws["auc"]),
        sd=_spread(draws["auc"]),
        lo=float(low),
        hi=float(high),
        auprc=_average(draws["auprc"]),
        brier=_average(draws["brier"]),
        ece=_average(draws["ece"]),
        films=float(np.mean([one.films for one in ones])),
        studies_read=float(np.mean([one.studies_read for one in ones])),
    )


def _mean(samples: Sequence[Floats] | Floats) -> Floats:
    """Mean over draws, the first axis, of those that are defined."""
    stacked = np.asarray(samples)
    there = (~np.isnan(stacked)).sum(axis=0)
    return np.asarray(np.where(there > 0, np.nansum(stacked, axis=0) / np.maximum(there, 1), np.nan))


def _average(values: Floats) -> float:
    return float(_mean(values))


def _spread(values: Floats) -> float:
    """Standard deviation over the draws that are defined; NaN for fewer than two."""
    there = values[~np.isnan(values)]
    return float(there.std(ddof=1)) if len(there) > 1 else float("nan")


Cell = tuple[str, int]
"""A method at a shot count."""


def _comparisons(means: Mapping[Cell, Floats], samples: Mapping[Cell, Floats], scopes: Sequence[_Scope]) -> list[Comparison]:
    """Compare each cell with each reference: at its own shot count where the reference has that, at none otherwise."""
    found: list[Comparison] = []
    for reference in REFERENCES:
        pairs = [(cell, other) for cell in samples if cell[0] != reference and (other := _reference(reference, cell[1], samples))]
        rows = [_compared(cell, other, scope, means, samples) for cell, other in pairs for scope in scopes]
        found += _corrected(rows, scopes)
    return found


def _reference(name: str, shots: int, samples: Mapping[Cell, Floats]) -> Cell | None:
    return next((cell for cell in ((name, shots), (name, 0)) if cell in samples), None)


def _compared(cell: Cell, other: Cell, scope: _Scope, means: Mapping[Cell, Floats], samples: Mapping[Cell, Floats]) -> Comparison:
    """Compare over the findings that are defined for both: the difference of two means over different findings says nothing."""
    differences = means[cell] - means[other]  # [F], NaN where either is
    paired = scope.of(np.where(np.isnan(differences), np.nan, samples[cell] - samples[other]))
    difference, (low, high) = float(scope.of(differences)), interval(paired)
    p = normal_p(difference, _spread(paired))
    common = int(defined(differences[list(scope.columns)]))
    reference = float(scope.of(np.where(np.isnan(differences), np.nan, means[other])))
    return Comparison(*cell, other[0], scope.name, common, reference, difference, float(low), float(high), p, p)


def _corrected(rows: Sequence[Comparison], scopes: Sequence[_Scope]) -> list[Comparison]:
    """Correct after Holm: an average over all methods and shots, a finding over the findings of its method and shots."""
    single = {scope.name for scope in scopes if len(scope.columns) == 1 and scope.name not in (COMMON, RARE)}
    families: dict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        families[(row.method, row.shots) if row.scope in single else row.scope].append(place)
    corrected = np.full(len(rows), np.nan)
    for places in families.values():
        corrected[places] = holm(np.array([rows[place].p for place in places]))
    return [row._replace(p_holm=p) for row, p in zip(rows, corrected.tolist(), strict=True)]


def write_csv(path: Path, rows: Sequence[NamedTuple]) -> None:
    """Write rows with a header line; NaN is an empty field. Equal rows give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    writer.writerows([_cell(value) for value in row] for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.{DIGITS}f}"


def write_parquet(path: Path, rows: Sequence[NamedTuple]) -> None:
    """Write rows as Parquet; NaN is null."""
    import pyarrow as pa
    import pyarrow.parquet

    columns = {name: [getattr(row, name) for row in rows] for name in rows[0]._fields}
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(arrays), path)
