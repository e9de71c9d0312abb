"""A candidate's columns beside those of other versions, on labelled images that no version learnt from: what is kept, what is told.

Finding by finding the better column serves: a finding that may rank worse than in the serving version keeps the serving version's
column, and vetoes nothing else. Then the candidate as it would serve is compared with zero-shot and with the serving version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from adapters.ml.group_comparison import GroupComparison, compare_groups
from adapters.ml.measures import LabelMatrix, Patients, ScoreMatrix, compare_scores
from models.evaluation.cases import UNKNOWN
from models.training.column_choice import ColumnChoiceSettings, choose_columns
from models.training.training_round import TrainingResult
from pipeline.domain import FINDINGS, Comparison

Columns = npt.NDArray[np.bool_]

KEPT_COLUMNS = ColumnChoiceSettings(confidence=0.9)
"""A finding keeps the serving version's column where that column ranks better with this probability."""


@dataclass(frozen=True)
class EvaluationCases:
    """n labelled images: labels [n, F], patients [n], positive weights [n] in comparisons; `groups`: see `Groups`."""

    labels: LabelMatrix
    patients: Patients
    weights: npt.NDArray[np.float64] | None = None
    groups: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)


@dataclass(frozen=True)
class ServingColumns:
    """The serving version on the images: scores [n, F] without having learnt from the patient, NaN where it has.

    `learnt` [F]: its learnt columns; the others are the text's. `transferable` [F]: columns that another version can keep, which
    those of fine-tuned blocks are not.
    """

    name: str
    scores: ScoreMatrix
    learnt: Columns
    transferable: Columns


@dataclass(frozen=True)
class EvaluatedCandidate:
    """The training result with the serving version's better columns.

    `out_of_fold` [n, F]: scores of the learnt columns, those kept from the serving version included; NaN for the text's columns.
    `optimism`: the gain of the mean AUC on the images by choosing the columns on the same images; the comparisons, with columns
    chosen on other patients, are without it.
    """

    result: TrainingResult
    out_of_fold: ScoreMatrix
    optimism: float
    comparisons: tuple[Comparison, ...]
    groups: tuple[GroupComparison, ...]


def evaluate_candidate(
    result: TrainingResult, zero_shot: ScoreMatrix, serving: ServingColumns | None, cases: EvaluationCases, *, seed: int
) -> EvaluatedCandidate:
    """Keep the serving version's better columns, then compare the candidate with zero-shot [n, F] and with the serving version.

    `serving`: None where zero-shot serves. A finding that is new to the version was compared alone, with the text, by the choice
    of columns in training; its gain does not stand for a loss of the others.
    """
    scores: ScoreMatrix = result.nested_scores
    optimism = result.columns.optimism
    if serving is not None:
        result, scores, more = _keep_better_columns(result, serving, cases, seed=seed)
        optimism += more
    learnt = result.findings & result.columns.first
    out_of_fold = np.where(learnt, result.out_of_fold_scores, np.nan)
    others = [("zero-shot", zero_shot, np.zeros_like(learnt))]
    if serving is not None:
        others.append((serving.name, serving.scores, learnt & ~serving.learnt))
        out_of_fold = np.where(serving.learnt & ~result.findings, serving.scores, out_of_fold)
    comparisons, groups = [], []
    for name, other, new in others:
        compared, within = _compare_candidate(name, scores, other, new, cases, seed=seed)
        comparisons.append(compared)
        groups += within
    return EvaluatedCandidate(result, out_of_fold, optimism, tuple(comparisons), tuple(groups))


def _keep_better_columns(
    result: TrainingResult, serving: ServingColumns, cases: EvaluationCases, *, seed: int
) -> tuple[TrainingResult, ScoreMatrix, float]:
    """Return the result without the findings that may rank worse than in the serving version, nested scores, and the optimism."""
    own, old = result.out_of_fold_scores, np.asarray(serving.scores, dtype=np.float64)
    chosen = choose_columns(old, own, cases.labels, cases.patients, KEPT_COLUMNS, weights=cases.weights, seed=seed)
    can_keep = result.findings & serving.transferable
    kept = chosen.first & can_keep
    fine_tuned = result.fine_tuned
    if fine_tuned is not None:
        fine_tuned = replace(fine_tuned, findings=fine_tuned.findings & torch.from_numpy(~kept))
    scores = np.where(chosen.nested & can_keep, old, result.nested_scores)
    result = replace(result, findings=result.findings & ~kept, fine_tuned=fine_tuned, out_of_fold_scores=np.where(kept, old, own))
    return result, scores, chosen.optimism


def _compare_candidate(
    name: str, own: ScoreMatrix, other: ScoreMatrix, new: Columns, cases: EvaluationCases, *, seed: int
) -> tuple[Comparison, list[GroupComparison]]:
    """Compare the candidate's scores [n, F] with a version's, without the findings that are new to the candidate [F]."""
    patients, weights = cases.patients, cases.weights
    labels = np.where(new, UNKNOWN, cases.labels).astype(np.int8)
    groups = compare_groups(name, own, other, labels, patients, cases.groups, weights=weights, seed=seed)
    compared = compare_scores(name, own, other, labels, patients, weights=weights, seed=seed)
    return (
        replace(
            compared,
            new=tuple(finding for finding, is_new in zip(FINDINGS, new, strict=True) if is_new),
            worse_groups=tuple(f"{group.attribute} {group.group}" for group in groups if group.worse),
        ),
        groups,
    )
