"""Columns of a candidate and of the serving version: the better one serves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from adapters.ml.candidate_evaluation import EvaluatedCandidate, EvaluationCases, ServingColumns, evaluate_candidate
from models.classifier.head import LinearHead
from models.training.calibration import Calibration
from models.training.column_choice import ColumnChoice
from models.training.training_round import STAGE_1, TEXT, CrossValidationResult, TrainingResult
from pipeline.domain import FINDINGS
from pipeline.rules import GatePolicy, may_promote

N, F = 400, len(FINDINGS)
EVERY, NONE = np.ones(F, dtype=bool), np.zeros(F, dtype=bool)
RNG = np.random.default_rng(0)
LABELS = (RNG.random((N, F)) < 0.2).astype(np.int8)
NOISE = RNG.normal(size=(3, N, F))


def effect(size: float, which: int, **others: float) -> npt.NDArray[np.float64]:
    """Return scores whose positives lie `size` standard deviations higher; of single findings another number."""
    sizes = np.array([others.get(finding, size) for finding in FINDINGS])
    return np.asarray(0.6 * NOISE[which] + 0.8 * NOISE[2] + sizes * LABELS)


def result_of(scores: npt.NDArray[np.float64]) -> TrainingResult:
    columns = ColumnChoice(np.ones(F), EVERY, np.ones((N, F), dtype=bool), 0.0)
    head = LinearHead(torch.ones(F, 2), torch.ones(F), torch.zeros(F))
    return TrainingResult(STAGE_1, EVERY, columns, head, None, scores, scores, np.full(F, 0.1), np.full(F, 0.5), {}, 5, {}, ())


def evaluated(scores: npt.NDArray[np.float64], serving: ServingColumns) -> EvaluatedCandidate:
    cases = EvaluationCases(LABELS, np.arange(N).astype(str))
    return evaluate_candidate(result_of(scores), effect(0.0, 1), serving, cases, required=0.9, seed=0)


def test_a_finding_that_ranks_worse_keeps_its_column_and_vetoes_nothing() -> None:
    serving = ServingColumns("version 2", effect(1.5, 1), EVERY, EVERY)
    found = evaluated(effect(1.6, 0, Mass=0.0), serving)
    mass = FINDINGS.index("Mass")
    assert np.flatnonzero(~found.result.findings).tolist() == [mass]
    assert np.array_equal(found.result.out_of_fold_scores[:, mass], serving.scores[:, mass])
    assert np.array_equal(found.out_of_fold[:, mass], serving.scores[:, mass])
    assert may_promote(found.comparisons, GatePolicy()).passed


def test_a_column_of_fine_tuned_blocks_cannot_be_kept() -> None:
    transferable = np.array([finding != "Mass" for finding in FINDINGS])
    found = evaluated(effect(1.6, 0, Mass=0.0), ServingColumns("version 2", effect(1.5, 1), EVERY, transferable))
    assert found.result.findings[FINDINGS.index("Mass")]
    assert not may_promote(found.comparisons, GatePolicy()).passed


def test_a_candidate_that_may_be_worse_has_new_columns_only_where_they_are_better() -> None:
    serving = ServingColumns("version 2", effect(1.5, 1), EVERY, EVERY)
    found = evaluated(effect(1.2, 0, Mass=2.6, Edema=2.6), serving)
    new = {finding for finding, is_new in zip(FINDINGS, found.result.findings, strict=True) if is_new}
    assert new >= {"Mass", "Edema"}
    assert len(new) < 8
    assert may_promote(found.comparisons, GatePolicy()).passed
    assert found.comparisons[1].candidate > found.comparisons[1].other


def test_a_finding_new_to_the_version_is_left_out_of_the_comparison_with_it() -> None:
    """The new finding gains much and would hide the loss of the others, which cannot keep their columns."""
    learnt = np.array([finding != "Hernia" for finding in FINDINGS])
    serving = ServingColumns("version 2", effect(1.5, 1, Hernia=-2.0), learnt, NONE)
    found = evaluated(effect(1.35, 0, Hernia=3.0), serving)
    assert found.comparisons[1].new == ("Hernia",)
    assert found.comparisons[1].candidate < found.comparisons[1].other
    assert not may_promote(found.comparisons, GatePolicy()).passed
    assert found.comparisons[0].new == ()


def test_a_first_candidate_that_may_be_worse_than_the_text_keeps_the_text_except_where_it_is_better() -> None:
    text = effect(1.5, 1)
    held_out = CrossValidationResult(text, Calibration(np.ones(F), np.zeros(F)), 0.5)
    result = replace(result_of(effect(1.2, 0, Mass=2.6, Edema=2.6)), cross_validation={TEXT: held_out})
    cases = EvaluationCases(LABELS, np.arange(N).astype(str))
    found = evaluate_candidate(result, text, None, cases, required=0.9, seed=0)
    new = {finding for finding, is_new in zip(FINDINGS, found.result.findings, strict=True) if is_new}
    assert new >= {"Mass", "Edema"}
    assert len(new) < 8
    assert np.isfinite(found.out_of_fold).any(axis=0).tolist() == [finding in new for finding in FINDINGS]
    assert may_promote(found.comparisons, GatePolicy()).passed


def test_columns_that_only_the_serving_version_has_learnt_stay_learnt() -> None:
    serving = ServingColumns("version 2", effect(1.5, 1), EVERY, EVERY)
    few = np.array([finding == "Mass" for finding in FINDINGS])
    cases = EvaluationCases(LABELS, np.arange(N).astype(str))
    result = replace(result_of(effect(1.5, 0)), findings=few)
    found = evaluate_candidate(result, effect(0.0, 1), serving, cases, required=0.9, seed=0)
    assert np.isfinite(found.out_of_fold).all()
    assert np.array_equal(found.out_of_fold[:, 0], serving.scores[:, 0])
