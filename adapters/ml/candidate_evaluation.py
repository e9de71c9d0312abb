"""A candidate's columns beside those of other versions, on labelled images that no version learnt from: what is kept, what is told.

Finding by finding the better column serves: a finding that may rank worse than in the serving version keeps the serving version's
column, and vetoes nothing else. Where the candidate's mean may be worse all the same, the candidate is made cautious: it has new
columns only for findings that rank better with a stated probability, and for findings that the serving version has not learnt.
The candidate as it would serve is then compared with zero-shot and with the serving version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from adapters.ml.group_comparison import GroupComparison, compare_groups
from adapters.ml.measures import LabelMatrix, Patients, ScoreMatrix, compare_scores
from models.evaluation.cases import UNKNOWN
from models.training.column_choice import ColumnChoiceSettings, choose_columns
from models.training.training_round import TEXT, TrainingResult
from pipeline.domain import FINDINGS, Comparison

Columns = npt.NDArray[np.bool_]

KEPT_COLUMNS = ColumnChoiceSettings(confidence=0.9)
"""A finding keeps the serving version's column where that column ranks better with this probability."""
CAUTIOUS_COLUMNS = (ColumnChoiceSettings(confidence=0.8), ColumnChoiceSettings(confidence=0.95))
"""A finding of a cautious candidate has the new column where that column ranks better with this probability: the first settings
with which the gate would promote, else the last."""


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
    result: TrainingResult,
    zero_shot: ScoreMatrix,
    serving: ServingColumns | None,
    cases: EvaluationCases,
    *,
    required: float,
    seed: int,
) -> EvaluatedCandidate:
    """Keep the serving version's better columns, then compare the candidate with zero-shot [n, F] and with the serving version.

    `serving`: None where zero-shot serves. `required`: `Comparison.not_inferior` that the gate asks for. A finding that is new to
    the version was compared alone, with the text, by the choice of columns in training; its gain stands for no loss of the others.
    """
    learnt = result.findings & result.columns.first
    others = [("zero-shot", zero_shot, np.zeros_like(learnt))]
    out_of_fold = np.where(learnt, result.out_of_fold_scores, np.nan)
    before = _build_zero_shot_columns(result) if serving is None else serving
    if serving is not None:
        others.append((serving.name, serving.scores, learnt & ~serving.learnt))
    assembly = _keep_better_columns(result, before, cases, seed=seed) if serving is not None else _keep_none(result, before)
    for settings in CAUTIOUS_COLUMNS:
        if _compare_scores(*others[-1], assembly.scores, cases, seed=seed).not_inferior >= required:
            break
        assembly = _keep_unless_better(result, before, cases, settings, can_keep_text=serving is None, seed=seed)
    scores, optimism = assembly.scores, result.columns.optimism + assembly.optimism
    result = _replace_columns(result, assembly.kept, before)
    out_of_fold = np.where(before.learnt & ~result.findings, before.scores, np.where(assembly.kept, np.nan, out_of_fold))
    comparisons, groups = [], []
    for name, other, excluded in others:
        within = compare_groups(name, scores, other, cases.labels, cases.patients, cases.groups, weights=cases.weights, seed=seed)
        compared = _compare_scores(name, other, excluded, scores, cases, seed=seed)
        worse = tuple(f"{group.attribute} {group.group}" for group in within if group.worse)
        comparisons.append(replace(compared, worse_groups=worse))
        groups += within
    return EvaluatedCandidate(result, out_of_fold, optimism, tuple(comparisons), tuple(groups))


@dataclass(frozen=True)
class _Assembly:
    """`kept` [F]: columns of the serving version. `scores` [n, F]: new columns as far as they are chosen on other patients too; the
    others as they serve. `optimism`: what that leaves out of the mean AUC.
    """

    kept: Columns
    scores: ScoreMatrix
    optimism: float


def _keep_better_columns(result: TrainingResult, serving: ServingColumns, cases: EvaluationCases, *, seed: int) -> _Assembly:
    """Keep the columns that rank better than the candidate's by KEPT_COLUMNS."""
    own, old = result.out_of_fold_scores, np.asarray(serving.scores, dtype=np.float64)
    chosen = choose_columns(old, own, cases.labels, cases.patients, KEPT_COLUMNS, weights=cases.weights, seed=seed)
    can_keep = result.findings & serving.transferable
    return _assemble_columns(result, serving, chosen.first & can_keep, chosen.nested & can_keep, chosen.optimism)


def _keep_unless_better(
    result: TrainingResult,
    serving: ServingColumns,
    cases: EvaluationCases,
    settings: ColumnChoiceSettings,
    *,
    can_keep_text: bool,
    seed: int,
) -> _Assembly:
    """Keep the columns that the candidate's do not surpass. `can_keep_text`: also those that the serving version has not learnt."""
    own, old = result.out_of_fold_scores, np.asarray(serving.scores, dtype=np.float64)
    chosen = choose_columns(own, old, cases.labels, cases.patients, settings, weights=cases.weights, seed=seed)
    can_keep = result.findings & serving.transferable & (serving.learnt | can_keep_text)
    return _assemble_columns(result, serving, ~chosen.first & can_keep, ~chosen.nested & can_keep, chosen.optimism)


def _keep_none(result: TrainingResult, serving: ServingColumns) -> _Assembly:
    none = np.zeros(len(result.findings), dtype=bool)
    return _assemble_columns(result, serving, none, np.zeros(result.nested_scores.shape, dtype=bool), 0.0)


def _build_zero_shot_columns(result: TrainingResult) -> ServingColumns:
    """Return the text's columns as probabilities [n, F], which compare with those of the learnt columns."""
    findings = len(result.findings)
    text = result.cross_validation[TEXT].log_odds + logit(result.prevalence)
    return ServingColumns("zero-shot", np.asarray(expit(text)), np.zeros(findings, dtype=bool), np.ones(findings, dtype=bool))


def _assemble_columns(
    result: TrainingResult, serving: ServingColumns, kept: Columns, nested: Columns, optimism: float
) -> _Assembly:
    """`kept` [F], `nested` [n, F]: whether the serving version's column is kept, by all images and by those of other patients."""
    learnt = np.where(nested, serving.scores, result.nested_scores)
    scores = np.where(kept, serving.scores, np.where(result.columns.first, learnt, result.out_of_fold_scores))
    return _Assembly(kept, scores, optimism)


def _replace_columns(result: TrainingResult, kept: Columns, serving: ServingColumns) -> TrainingResult:
    """Return the result without the findings [F] that keep the serving version's column."""
    fine_tuned = result.fine_tuned
    if fine_tuned is not None:
        fine_tuned = replace(fine_tuned, findings=fine_tuned.findings & torch.from_numpy(~kept))
    scores = np.where(kept, serving.scores, result.out_of_fold_scores)
    return replace(result, findings=result.findings & ~kept, fine_tuned=fine_tuned, out_of_fold_scores=scores)


def _compare_scores(
    name: str, other: ScoreMatrix, new: Columns, own: ScoreMatrix, cases: EvaluationCases, *, seed: int
) -> Comparison:
    """Compare the candidate's scores [n, F] with a version's, without the findings that are new to the candidate [F]."""
    labels = np.where(new, UNKNOWN, cases.labels).astype(np.int8)
    compared = compare_scores(name, own, other, labels, cases.patients, weights=cases.weights, seed=seed)
    return replace(compared, new=tuple(finding for finding, is_new in zip(FINDINGS, new, strict=True) if is_new))
