"""Two models on the same cases: how much better one ranks, and how sure that is.

Of the mean over the findings that is told by paired resamples of patients. Of a single finding it is not: resamples of four
patients who show it hold no fifth, and are too sure. There the variance counts as estimated from few patients (`paired_auc`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.evaluation.statistics import CONFIDENCE_LEVEL, PatientBootstrap, auc, macro_average, paired_auc, percentile_interval

Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class AucComparison:
    """Mean AUCs over the findings, their difference with its 95 % interval, and who is worse.

    `better`: share of resamples in which the first is not worse. `worse`: columns in which the first is worse for certain, at
    95 % for all findings together; see `significantly_worse`. `cases` and `patients` took part. NaN where no finding has both
    kinds.
    """

    first: float
    second: float
    lower: float
    upper: float
    share_not_worse: float
    worse_columns: tuple[int, ...]
    cases: int
    patients: int


def compare(
    first: Scores,
    second: Scores,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    resamples: int = 1000,
) -> AucComparison:
    """Compare scores [n, F]. Where either has none (NaN), the label takes no part."""
    known = np.where(np.isfinite(first) & np.isfinite(second), labels, UNKNOWN).astype(np.int8)
    rows = np.flatnonzero((known != UNKNOWN).any(axis=1))
    if not len(rows):
        return AucComparison(np.nan, np.nan, np.nan, np.nan, share_not_worse=0.0, worse_columns=(), cases=0, patients=0)
    known = known[rows]
    one, two = (np.where(known == UNKNOWN, 0.0, scores[rows]) for scores in (first, second))
    bootstrap = PatientBootstrap(patients[rows], resamples=resamples, seed=seed)
    drawn = bootstrap.auc(one, known) - bootstrap.auc(two, known)
    means = macro_average(drawn)
    means = means[np.isfinite(means)]
    lower, upper = percentile_interval(means) if len(means) else (np.nan, np.nan)
    return AucComparison(
        first=float(macro_average(auc(one, known))),
        second=float(macro_average(auc(two, known))),
        lower=float(lower),
        upper=float(upper),
        share_not_worse=float(np.mean(means >= 0)) if len(means) else 0.0,
        worse_columns=significantly_worse(one, two, known, patients[rows]),
        cases=len(rows),
        patients=len(np.unique(patients[rows])),
    )


def significantly_worse(first: Scores, second: Scores, labels: Labels, patients: npt.NDArray[np.str_]) -> tuple[int, ...]:
    """Return the columns of scores [n, F] in which the first ranks worse for certain.

    That is wrongly said of any finding in one comparison out of 40 at most: the tail of a 95 % interval, divided among the findings
    that both kinds of films are known of (Bonferroni). Of a finding with too few patients it is never said. Without assuming how
    scores are distributed, n patients who all speak against the first are certain to 2^-n (the sign test), and n must be so large
    that this suffices, of those who show the finding and of those who do not: 6 for one finding, 10 for 14.
    """
    kinds = [labels == kind for kind in (PRESENT, ABSENT)]
    both = [column for column in range(labels.shape[1]) if all(kind[:, column].any() for kind in kinds)]
    tail = (1 - CONFIDENCE_LEVEL) / 2 / max(len(both), 1)
    enough = int(np.ceil(-np.log2(tail)))
    return tuple(
        column
        for column in both
        if all(len(np.unique(patients[kind[:, column]])) >= enough for kind in kinds)
        and paired_auc(first[:, column], second[:, column], labels[:, column], patients).p_worse < tail
    )
