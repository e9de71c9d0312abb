"""The choice between the text's column and the learnt one, finding by finding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from models.evaluation.statistics import auc, macro_average, paired_auc, weighted_auc
from models.training.column_choice import ColumnChoiceSettings, choose_columns

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


def draw(positives: list[int], *, images: int = 150, seed: int = 0) -> tuple[Labels, np.random.Generator]:
    rng = np.random.default_rng(seed)
    labels = np.zeros((images, len(positives)), dtype=np.int8)
    for column, count in enumerate(positives):
        labels[rng.choice(images, count, replace=False), column] = 1
    return labels, rng


def scores(labels: Labels, effects: Floats | float, rng: np.random.Generator) -> Floats:
    return np.asarray(rng.normal(size=labels.shape) + effects * labels)


def alone(labels: Labels) -> npt.NDArray[np.str_]:
    return np.arange(len(labels)).astype(str)


def test_a_column_that_is_better_everywhere_is_chosen_for_a_finding_without_evidence_too() -> None:
    labels, rng = draw([16] * 10 + [1])
    choice = choose_columns(scores(labels, 2.0, rng), scores(labels, 0.5, rng), labels, alone(labels))
    assert choice.first.all()


def test_equal_columns_mostly_leave_the_text() -> None:
    learnt = []
    for seed in range(30):
        labels, rng = draw([16] * 14, seed=seed)
        choice = choose_columns(scores(labels, 1.0, rng), scores(labels, 1.0, rng), labels, alone(labels))
        learnt.append(choice.first.mean())
    assert np.mean(learnt) < 0.3  # at the stated probability of .8, one of five


def test_a_finding_that_learning_harms_keeps_the_text() -> None:
    labels, rng = draw([16] * 14)
    learnt, text = np.full(14, 2.0), np.full(14, 1.0)
    learnt[3], text[3] = 0.0, 2.5
    choice = choose_columns(scores(labels, learnt, rng), scores(labels, text, rng), labels, alone(labels))
    assert not choice.first[3]
    assert choice.first.sum() >= 10


def test_a_finding_without_a_learnt_score_keeps_the_text() -> None:
    labels, rng = draw([16, 16])
    learnt = scores(labels, 3.0, rng)
    learnt[:, 1] = np.nan
    assert choose_columns(learnt, scores(labels, 0.0, rng), labels, alone(labels)).first.tolist() == [True, False]


def test_without_any_evidence_no_column_is_probably_better() -> None:
    labels, rng = draw([1, 1])
    choice = choose_columns(scores(labels, 1.0, rng), scores(labels, 1.0, rng), labels, alone(labels))
    assert np.allclose(choice.better, 0.5)


def test_nested_choices_measure_the_choice_without_optimism() -> None:
    gains = []
    for seed in range(30):
        labels, rng = draw([12] * 14, seed=seed)
        first, second = scores(labels, 1.0, rng), scores(labels, 1.0, rng)
        choice = choose_columns(first, second, labels, alone(labels), ColumnChoiceSettings(confidence=0.5), seed=seed)
        chosen, nested = (np.where(columns, first, second) for columns in (choice.first, choice.nested))
        gains.append([macro_average(auc(columns, labels) - auc(second, labels)) for columns in (chosen, nested)])
        assert choice.optimism == pytest.approx(gains[-1][0] - gains[-1][1])
    apparent, honest = np.mean(gains, axis=0)
    assert apparent > 0.01  # of equal columns the apparently better one is chosen
    assert honest < apparent / 3


def test_a_clear_choice_has_little_optimism() -> None:
    labels, rng = draw([16] * 14)
    choice = choose_columns(scores(labels, 2.5, rng), scores(labels, 0.5, rng), labels, alone(labels))
    assert choice.first.all()
    assert choice.optimism < 0.001


def test_a_heavy_case_counts_as_so_many_cases() -> None:
    labels, rng = draw([6] * 3, images=40)
    first, second = scores(labels, 1.5, rng), scores(labels, 1.0, rng)
    weights = np.where(np.arange(40) < 20, 3.0, 1.0)
    times = weights.astype(int)
    weighted = weighted_auc(first, labels, weights)
    assert weighted == pytest.approx(auc(np.repeat(first, times, axis=0), np.repeat(labels, times, axis=0)))
    found = paired_auc(first[:, 0], second[:, 0], labels[:, 0], alone(labels), weights)
    rows = np.repeat(np.arange(40), times)
    expected = paired_auc(first[rows, 0], second[rows, 0], labels[rows, 0], alone(labels)[rows])
    assert (found.difference, found.standard_error) == pytest.approx((expected.difference, expected.standard_error), rel=0.01)
