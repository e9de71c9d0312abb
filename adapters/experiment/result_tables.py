"""Result tables: one row per finding and draw, means with intervals, paired comparisons. Undefined values are empty, never .5.

The statistics of `models.experiment.summary` are computed for all findings together, for the common and the rare ones, and for
each.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from adapters.experiment.scoring import UnitScores
from models.evaluation.cases import ABSENT, PRESENT, Cases, Split
from models.evaluation.statistics import Floats, Labels, PatientBootstrap, Scores, holm, macro_average, prevalence_weighted
from models.experiment.summary import NO_LABELS, REFERENCES, MethodRun, average_draws, measure_run, summarise

MEAN, COMMON, RARE = "mean", "common", "rare"
"""Scopes over several findings: all, and those above and below RARE_BELOW. Every finding is a scope, too."""
RARE_BELOW = 0.025
"""Prevalence in the pool, weighted to the archive, below which a finding is rare."""
NORMAL = "normal films"
DIGITS = 6

MethodShots = tuple[str, int]
"""A method at a shot count."""


class FewshotResult(NamedTuple):
    """One finding of one method on one draw. AUC and AUPRC are NaN without both positives and negatives in the test set."""

    method: str
    shots: int
    draw: int
    finding: str
    auc: float
    auprc: float
    brier: float
    ece: float
    positives: int  # in the test set
    negatives: int
    support_positives: int | None  # of the finding in the support; None without a support


class FewshotSummary(NamedTuple):
    """A method at a shot count over its draws. `lo` and `hi`: 95 % interval of the mean, test patients and draws resampled."""

    method: str
    shots: int
    scope: str  # MEAN, COMMON, RARE or a finding
    draws: int
    findings: int  # number of defined ones
    auc: float
    sd: float  # over draws
    lo: float
    hi: float
    weighted_auc: float  # findings weighted with their prevalence in the test set
    auprc: float
    brier: float
    ece: float
    films: float  # training films, mean over draws
    studies_read: float  # mean over draws
    support_positives: float  # in the support, mean over draws; over several findings of the scarcest; NaN without a support


class FewshotComparison(NamedTuple):
    """A method against a reference over the findings that both define, on the same resamples of patients and draws."""

    method: str
    shots: int
    against: str
    scope: str
    findings: int
    reference: float  # its AUC
    difference: float  # of AUC from the reference
    lo: float
    hi: float
    p: float  # two-sided, from the spread of the paired differences
    p_holm: float  # over methods and shots for an average, over findings for a finding


class FewshotTiming(NamedTuple):
    """Duration of one fit with the scores of the whole test set, mean over draws."""

    method: str
    shots: int
    seconds: float


class SupportShortage(NamedTuple):
    """A kind of films of which the pool has fewer than the shots: a finding's positives, or normal films."""

    shots: int  # lowest number that the pool cannot fill
    kind: str  # a finding, or NORMAL
    least: int  # of the films in the supports at the most shots
    most: int


class FewshotTables(NamedTuple):
    """All tables of an experiment."""

    results: Sequence[FewshotResult]
    summary: Sequence[FewshotSummary]
    comparisons: Sequence[FewshotComparison]
    timings: Sequence[FewshotTiming]
    groups: Mapping[str, Sequence[int]]  # COMMON and RARE: columns of the findings
    shortages: Sequence[SupportShortage] = ()


class CachedBootstrap(PatientBootstrap):
    """A bootstrap with a cache of its results in a folder."""

    def __init__(self, patients: npt.NDArray[np.str_], folder: Path, *, resamples: int, seed: int) -> None:
        super().__init__(patients, resamples=resamples, seed=seed)
        self._folder = folder
        self._name = f"{resamples}-{seed}"

    def auc(self, scores: Scores, labels: Labels) -> Floats:
        """Return the AUCs [R, F] of scores [N, F] on every resample."""
        path = self._folder / f"{hashlib.sha256(scores.tobytes()).hexdigest()[:32]}-{self._name}.npy"
        if not path.is_file():
            self._folder.mkdir(exist_ok=True)
            with path.with_suffix(".part").open("wb") as stream:
                np.save(stream, super().auc(scores, labels).astype(np.float32))
            path.with_suffix(".part").replace(path)
        cached: Floats = np.load(path).astype(np.float64)
        return cached


@dataclass(frozen=True)
class _MeasuredRun:
    """One result with its AUCs on every resample [R, F]."""

    scored: UnitScores
    run: MethodRun
    resampled: Floats

    @property
    def defined_findings(self) -> npt.NDArray[np.bool_]:
        """Mask of the findings with an AUC, [F]."""
        return ~np.isnan([row.auc for row in self.run.rows])

    def restrict_to(self, columns: Sequence[int], labels: Labels) -> MethodRun:
        """Return the run over some of the findings."""
        rows = tuple(self.run.rows[column] for column in columns)
        weighted = prevalence_weighted(np.array([row.auc for row in rows]), labels[:, list(columns)])
        return replace(self.run, rows=rows, weighted_auc=weighted, resampled_auc=macro_average(self.resampled[:, list(columns)]))


def build_tables(
    scored: Sequence[UnitScores],
    cases: Cases,
    split: Split,
    bootstrap: PatientBootstrap,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> FewshotTables:
    """Measure all scores on one bootstrap of the test patients; `seed` resamples the draws. `advance` receives the number done."""
    labels = cases.labels[split.test]
    cells: dict[MethodShots, list[_MeasuredRun]] = defaultdict(list)
    for done, one in enumerate(scored, 1):
        cells[one.method, one.shots].append(_measure_scores(one, labels, cases.findings, bootstrap))
        advance(done)
    groups = _group_findings(cases, split)
    scopes: dict[str, Sequence[int]] = {MEAN: range(len(cases.findings))}
    scopes |= {name: columns for name, columns in groups.items() if columns}
    scopes |= {finding: [column] for column, finding in enumerate(cases.findings)}
    return FewshotTables(
        results=[result for ones in cells.values() for one in ones for result in _build_results(one, labels)],
        summary=[row for name, columns in scopes.items() for row in _summarise_scope(name, columns, cells, labels, seed)],
        comparisons=[row for against in REFERENCES for row in _compare_with_reference(against, scopes, cells, labels, seed)],
        timings=[FewshotTiming(*cell, float(np.mean([one.scored.seconds for one in ones]))) for cell, ones in cells.items()],
        groups=groups,
        shortages=list(_find_shortages(scored, cases.findings)),
    )


def _measure_scores(one: UnitScores, labels: Labels, findings: Sequence[str], bootstrap: PatientBootstrap) -> _MeasuredRun:
    logits = one.logits()
    run = measure_run(logits, labels, bootstrap, method=one.method, shots=one.shots, draw=one.draw, findings=findings)
    return _MeasuredRun(one, run, bootstrap.auc(logits, labels))


def _build_results(one: _MeasuredRun, labels: Labels) -> Iterator[FewshotResult]:
    counts = (labels == PRESENT).sum(axis=0).tolist(), (labels == ABSENT).sum(axis=0).tolist()
    learnt_from = one.scored.positives or [None] * len(one.run.rows)
    for row, positives, negatives, support in zip(one.run.rows, *counts, learnt_from, strict=True):
        measures = row.auc, row.auprc, row.brier, row.ece
        yield FewshotResult(row.method, row.shots, row.draw, row.finding, *measures, positives, negatives, support)


def _find_shortages(scored: Sequence[UnitScores], findings: Sequence[str]) -> Iterator[SupportShortage]:
    """Yield the kinds of films of which a support holds fewer than its shots."""
    supports = {(one.shots, one.draw): (*one.positives, one.normals) for one in scored if one.positives}
    most_shots = max((shots for shots, _ in supports), default=0)
    for column, kind in enumerate((*findings, NORMAL)):
        if unfilled := [shots for (shots, _), counts in supports.items() if counts[column] < shots]:
            held = [counts[column] for (shots, _), counts in supports.items() if shots == most_shots]
            yield SupportShortage(min(unfilled), kind, min(held), max(held))


def _group_findings(cases: Cases, split: Split) -> dict[str, list[int]]:
    """Return the columns of common and of rare findings, by their prevalence in the archive that the pool represents."""
    labels, weight = cases.labels[split.pool], cases.weight[split.pool][:, None].astype(np.float64)
    present = ((labels == PRESENT) * weight).sum(axis=0)
    rare = present < RARE_BELOW * (((labels == PRESENT) | (labels == ABSENT)) * weight).sum(axis=0)
    return {COMMON: np.flatnonzero(~rare).tolist(), RARE: np.flatnonzero(rare).tolist()}


def _summarise_scope(
    scope: str, columns: Sequence[int], cells: Mapping[MethodShots, Sequence[_MeasuredRun]], labels: Labels, seed: int
) -> Iterator[FewshotSummary]:
    summary = summarise([one.restrict_to(columns, labels) for ones in cells.values() for one in ones], seed=seed)
    for (method, shots), ones in cells.items():
        estimate = summary.mean_auc[method][shots]
        means = list(average_draws([row for one in ones for row in one.restrict_to(columns, labels).rows]))
        yield FewshotSummary(
            method,
            shots,
            scope,
            draws=estimate.draws,
            findings=estimate.findings,
            auc=estimate.mean,
            sd=estimate.sd,
            lo=estimate.lo,
            hi=estimate.hi,
            weighted_auc=estimate.weighted,
            films=float(np.mean([one.scored.films for one in ones])),
            studies_read=float(np.mean([one.scored.studies_read for one in ones])),
            support_positives=float(np.mean([_count_scarcest(one.scored, columns) for one in ones])),
            **{name: float(macro_average(np.array([each.mean[name] for each in means]))) for name in ("auprc", "brier", "ece")},
        )


def _count_scarcest(scored: UnitScores, columns: Sequence[int]) -> float:
    """Return the positives of the scarcest of some findings in a support; NaN without one."""
    return float(min(scored.positives[column] for column in columns)) if scored.positives else float("nan")


def _compare_with_reference(
    against: str,
    scopes: Mapping[str, Sequence[int]],
    cells: Mapping[MethodShots, Sequence[_MeasuredRun]],
    labels: Labels,
    seed: int,
) -> list[FewshotComparison]:
    """Compare each cell with the reference at the same shot count, or without labels."""
    rows: list[FewshotComparison] = []
    for cell, ones in cells.items():
        others = next((cells[other] for other in ((against, cell[1]), (against, NO_LABELS)) if other in cells), None)
        if others is not None and cell[0] != against:
            rows += _compare_cells(ones, others, against, scopes, labels, seed)
    return _correct_p_values(rows, averaged=(MEAN, COMMON, RARE))


def _compare_cells(
    ones: Sequence[_MeasuredRun],
    others: Sequence[_MeasuredRun],
    against: str,
    scopes: Mapping[str, Sequence[int]],
    labels: Labels,
    seed: int,
) -> Iterator[FewshotComparison]:
    """Compare in every scope, over the findings defined in both: means over different findings are not comparable."""
    both = np.logical_and.reduce([one.defined_findings for one in (*ones, *others)])
    for scope, columns in scopes.items():
        if common := [column for column in columns if both[column]]:
            summary = summarise([one.restrict_to(common, labels) for one in (*others, *ones)], seed=seed)
            (found,) = (each for each in summary.comparisons if each.reference == against)
            measures = found.reference_mean, found.difference, found.lo, found.hi, found.p, found.p
            yield FewshotComparison(ones[0].scored.method, ones[0].scored.shots, against, scope, len(common), *measures)


def _correct_p_values(rows: Sequence[FewshotComparison], averaged: Sequence[str]) -> list[FewshotComparison]:
    """Correct p-values after Holm: averages over all methods and shots, findings over those of the same method and shots."""
    families: dict[Any, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        families[row.scope if row.scope in averaged else (row.method, row.shots)].append(index)
    corrected = np.full(len(rows), np.nan)
    for indices in families.values():
        corrected[indices] = holm(np.array([rows[index].p for index in indices]))
    return [row._replace(p_holm=p) for row, p in zip(rows, corrected.tolist(), strict=True)]


def write_csv(path: Path, rows: Sequence[NamedTuple]) -> None:
    """Write rows with a header line; NaN is an empty field. The output is deterministic."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    writer.writerows([_format_field(value) for value in row] for row in rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _format_field(value: Any) -> Any:
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
