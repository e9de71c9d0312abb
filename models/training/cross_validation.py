"""Which way of learning serves: each is measured on films whose patients it has not seen, and the better one is taken.

Nothing is held back for it. Patients are dealt into folds; a model is made of all folds but one and scores that one, until every
film has been scored. With as many folds as patients that is leave-one-patient-out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.training.calibration import Floats, Labels, fit_calibration

Rows = npt.NDArray[np.intp]
ScoreFold = Callable[[Rows, Rows], Floats]
"""Learn from these rows, and score those: log-odds of any scale [m, F], NaN in findings that could not be learnt."""


def assign_folds(patients: npt.NDArray[np.str_], labels: Labels, *, max_folds: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the fold [n] of each film: at most `most` folds, all films of a patient in one, positives of each finding spread.

    Patients are dealt in turn, in an order by their rarest finding and within that by chance. Same seed, same folds, whatever the
    order of the films.
    """
    names, patient = np.unique(patients, return_inverse=True)
    positives = (labels == PRESENT).sum(axis=0)
    rarity = np.argsort(np.argsort(positives, kind="stable"), kind="stable")  # [F] 0: the rarest finding
    rarest = np.full(len(names), labels.shape[1])
    for film, finding in zip(*np.nonzero(labels == PRESENT), strict=True):
        rarest[patient[film]] = min(rarest[patient[film]], rarity[finding])
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), rarest))
    dealt = np.empty(len(names), dtype=np.intp)
    dealt[order] = np.arange(len(names)) % min(max_folds, len(names))
    return np.asarray(dealt[patient])


def score_out_of_fold(fold: npt.NDArray[np.intp], findings: int, score: ScoreFold) -> Floats:
    """Return what `score` gives for every film [n, F] by a model that was made without its fold."""
    found = np.full((len(fold), findings), np.nan)
    for others, held_out in split_by_fold(fold):
        found[held_out] = score(others, held_out)
    return found


def split_by_fold(fold: npt.NDArray[np.intp]) -> list[tuple[Rows, Rows]]:
    """Return fold by fold the rows of all others, and its own."""
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(int(fold.max()) + 1)]


def cross_fit_calibration(logits: Floats, labels: Labels, fold: npt.NDArray[np.intp]) -> Floats:
    """Return calibrated log-odds [n, F] at even odds, each fold's by a calibration that was fitted to the others; NaN stays."""

    def score(others: Rows, held_out: Rows) -> Floats:
        return fit_calibration(logits[others], mask_unscored(logits[others], labels[others]))(logits[held_out])

    return score_out_of_fold(fold, labels.shape[1], score)


def mask_unscored(logits: Floats, labels: Labels) -> Labels:
    """Return the labels [n, F] of films that were scored; the others are UNKNOWN."""
    return np.where(np.isfinite(logits), labels, UNKNOWN).astype(np.int8)


def learnable_findings(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return [F]: both kinds are there."""
    return np.asarray((labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0))
