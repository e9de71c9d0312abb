"""Comparison of two models on the same cases: difference in AUC with its uncertainty.

For the mean over the findings, the uncertainty comes from a paired bootstrap of patients. For a single finding the bootstrap is too
certain: resamples of four positive patients never hold a fifth. There the variance is treated as estimated from few patients
(`paired_auc`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.evaluation.statistics import (
    CONFIDENCE_LEVEL,
    PatientBootstrap,
    macro_average,
    paired_auc,
    percentile_interval,
    weighted_auc,
)

INFERIORITY_MARGIN = 0.005
"""Largest loss of mean AUC that counts as no loss: a hundredth of the range between chance and perfect ranking."""

Floats = npt.NDArray[np.float64]
Scores = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class AucComparison:
    """Mean AUCs over the findings, and the 95 % interval of their difference.

    `share_not_worse`: share of resamples in which the first model is not worse; `share_not_inferior`: in which it is worse by less
    than INFERIORITY_MARGIN. `standard_error`: of the difference of the means, over the resamples. `worse_columns`: columns in which
    the first is significantly worse, at 95 % for all findings together; see `significantly_worse`. `cases` and `patients`: numbers
    compared. NaN if no finding has both kinds.
    """

    first: float
    second: float
    lower: float
    upper: float
    share_not_worse: float
    share_not_inferior: float
    standard_error: float
    worse_columns: tuple[int, ...]
    cases: int
    patients: int


UNDEFINED = AucComparison(
    *(np.nan,) * 4,
    share_not_worse=0.0,
    share_not_inferior=0.0,
    standard_error=np.nan,
    worse_columns=(),
    cases=0,
    patients=0,
)
"""Comparison of models without a common case."""


def compare(
    first: Scores,
    second: Scores,
    labels: Labels,
    patients: npt.NDArray[np.str_],
    *,
    seed: int,
    weights: Floats | None = None,
    resamples: int = 1000,
) -> AucComparison:
    """Compare scores [n, F]. A label without a score of both models (NaN) is excluded.

    `weights` [n]: positive weights of the images; None: equal.
    """
    known = np.where(np.isfinite(first) & np.isfinite(second), labels, UNKNOWN).astype(np.int8)
    rows = np.flatnonzero((known != UNKNOWN).any(axis=1))
    if not len(rows):
        return UNDEFINED
    known, weight = known[rows], np.ones(len(rows)) if weights is None else weights[rows]
    one, two = (np.where(known == UNKNOWN, 0.0, scores[rows]) for scores in (first, second))
    bootstrap = PatientBootstrap(patients[rows], resamples=resamples, seed=seed, weights=None if weights is None else weight)
    means = macro_average(bootstrap.auc(one, known) - bootstrap.auc(two, known))
    means = means[np.isfinite(means)]
    lower, upper = percentile_interval(means) if len(means) else (np.nan, np.nan)
    return AucComparison(
        first=float(macro_average(weighted_auc(one, known, weight))),
        second=float(macro_average(weighted_auc(two, known, weight))),
        lower=float(lower),
        upper=float(upper),
        share_not_worse=float(np.mean(means >= 0)) if len(means) else 0.0,
        share_not_inferior=float(np.mean(means > -INFERIORITY_MARGIN)) if len(means) else 0.0,
        standard_error=float(means.std()) if len(means) else np.nan,
        worse_columns=significantly_worse(one, two, known, patients[rows], weight),
        cases=len(rows),
        patients=len(np.unique(patients[rows])),
    )


def significantly_worse(
    first: Scores, second: Scores, labels: Labels, patients: npt.NDArray[np.str_], weights: Floats | None = None
) -> tuple[int, ...]:
    """Return the columns of scores [n, F] in which the first model ranks significantly worse.

    The family-wise error rate is at most 1 in 40 comparisons: the tail of a 95 % interval, divided among the findings with both
    present and absent images (Bonferroni). A finding with too few patients is never returned. Without assumptions on the
    distribution of scores, n patients all against the first model have p = 2^-n (the sign test), and n must be large enough for
    significance, both for patients with the finding and for patients without it: 6 for one finding, 10 for 14.
    """
    kinds = [labels == kind for kind in (PRESENT, ABSENT)]
    comparable = [column for column in range(labels.shape[1]) if all(kind[:, column].any() for kind in kinds)]
    tail = (1 - CONFIDENCE_LEVEL) / 2 / max(len(comparable), 1)
    min_patients = int(np.ceil(-np.log2(tail)))
    return tuple(
        column
        for column in comparable
        if all(len(np.unique(patients[kind[:, column]])) >= min_patients for kind in kinds)
        and paired_auc(first[:, column], second[:, column], labels[:, column], patients, weights).p_worse < tail
    )
