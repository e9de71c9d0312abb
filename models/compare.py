"""Two models on the same cases: how much better one ranks, and how sure that is. Resamples are of patients, and paired."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.batches import UNKNOWN
from models.experiment.statistics import LEVEL, PatientBootstrap, auc, interval, macro

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Difference:
    """Mean AUCs over the findings, their difference with its 95 % interval, and who is worse.

    `better`: share of resamples in which the first is not worse. `worse`: columns in which the first is worse for certain, at
    95 % for all findings together (Bonferroni). `cases` and `patients` took part. NaN where no finding has both kinds.
    """

    first: float
    second: float
    lower: float
    upper: float
    better: float
    worse: tuple[int, ...]
    cases: int
    patients: int


def compare(
    first: Scores,
    second: Scores,
    labels: npt.NDArray[np.int8],
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
) -> Difference:
    """Compare scores [n, F]. Where either has none (NaN), the label takes no part."""
    known = np.where(np.isfinite(first) & np.isfinite(second), labels, UNKNOWN).astype(np.int8)
    rows = np.flatnonzero((known != UNKNOWN).any(axis=1))
    if not len(rows):
        return Difference(np.nan, np.nan, np.nan, np.nan, better=0.0, worse=(), cases=0, patients=0)
    known = known[rows]
    one, two = (np.where(known == UNKNOWN, 0.0, scores[rows]) for scores in (first, second))
    bootstrap = PatientBootstrap(patients[rows], resamples=resamples, seed=seed)
    drawn = bootstrap.auc(one, known) - bootstrap.auc(two, known)
    means = macro(drawn)
    means = means[np.isfinite(means)]
    lower, upper = interval(means) if len(means) else (np.nan, np.nan)
    return Difference(
        first=float(macro(auc(one, known))),
        second=float(macro(auc(two, known))),
        lower=float(lower),
        upper=float(upper),
        better=float(np.mean(means >= 0)) if len(means) else 0.0,
        worse=_worse(drawn),
        cases=len(rows),
        patients=len(np.unique(patients[rows])),
    )


def _worse(drawn: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return the columns [R, F] whose resamples lie below 0, but for a share that is divided among the findings."""
    defined = np.flatnonzero(np.isfinite(drawn).any(axis=0))
    if not len(defined):
        return ()
    tail = (1 - LEVEL) / 2 / len(defined)
    highest = np.nanquantile(drawn[:, defined], 1 - tail, axis=0)
    return tuple(int(column) for column in defined[highest < 0])
