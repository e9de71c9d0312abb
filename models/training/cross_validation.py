"""Patient-grouped cross-validation of the training methods.

No separate validation set is held out. Patients are dealt into folds; a model is trained on all folds but one and scores that one,
until every image has been scored. With as many folds as patients this is leave-one-patient-out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.training.calibration import Floats, Labels, fit_calibration

Rows = npt.NDArray[np.intp]
ScoreFold = Callable[[Rows, Rows], Floats]
"""Train on the first rows and score the second: log-odds of any scale [m, F], NaN for findings that cannot be learnt."""


def assign_folds(patients: npt.NDArray[np.str_], labels: Labels, *, max_folds: int, seed: int) -> npt.NDArray[np.intp]:
    """Return the fold [n] of each image: at most `max_folds`, a patient's images in one fold, positives of each finding spread.

    Patients are dealt in turn, ordered by their rarest finding and at random within it. Same seed, same folds, in any order of the
    images.
    """
    names, patient = np.unique(patients, return_inverse=True)
    positives = (labels == PRESENT).sum(axis=0)
    rarity = np.argsort(np.argsort(positives, kind="stable"), kind="stable")  # [F] 0: the rarest finding
    rarest = np.full(len(names), labels.shape[1])
    for image, finding in zip(*np.nonzero(labels == PRESENT), strict=True):
        rarest[patient[image]] = min(rarest[patient[image]], rarity[finding])
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), rarest))
    dealt = np.empty(len(names), dtype=np.intp)
    dealt[order] = np.arange(len(names)) % min(max_folds, len(names))
    return np.asarray(dealt[patient])


def score_out_of_fold(fold: npt.NDArray[np.intp], findings: int, score: ScoreFold) -> Floats:
    """Return the out-of-fold scores [n, F]: each image is scored by a model trained without its fold."""
    scores = np.full((len(fold), findings), np.nan)
    for others, held_out in split_by_fold(fold):
        scores[held_out] = score(others, held_out)
    return scores


def split_by_fold(fold: npt.NDArray[np.intp]) -> list[tuple[Rows, Rows]]:
    """Return for each fold the rows of all other folds and its own rows."""
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(int(fold.max()) + 1)]


def cross_fit_calibration(logits: Floats, labels: Labels, fold: npt.NDArray[np.intp], weights: Floats | None = None) -> Floats:
    """Return calibrated log-odds [n, F] at even odds, each fold's by a calibration fitted to the other folds; NaN stays NaN.

    `weights` [n, F]: of the labels, as in `fit_calibration`.
    """

    def score(others: Rows, held_out: Rows) -> Floats:
        of_others = None if weights is None else weights[others]
        return fit_calibration(logits[others], mask_unscored(logits[others], labels[others]), of_others)(logits[held_out])

    return score_out_of_fold(fold, labels.shape[1], score)


def mask_unscored(logits: Floats, labels: Labels) -> Labels:
    """Return the labels [n, F] with UNKNOWN in place of labels without a score."""
    return np.where(np.isfinite(logits), labels, UNKNOWN).astype(np.int8)


def learnable_findings(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return [F]: True for findings with both present and absent labels."""
    return np.asarray((labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0))
