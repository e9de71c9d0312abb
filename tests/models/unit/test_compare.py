"""The per-finding test of a candidate: its error rate and its power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from models.evaluation.compare import compare, significantly_worse
from models.evaluation.statistics import delong, paired_auc

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
MakeScores = Callable[[Labels, np.random.Generator], tuple[Floats, Floats]]


def alone(images: int) -> npt.NDArray[np.str_]:
    """Return one patient per image."""
    return np.arange(images).astype(str)


def of_kinds(present: int, absent: int) -> Labels:
    return np.repeat(np.array([1, 0], dtype=np.int8), [present, absent])


def ranked(labels: Labels, effect: float, chance: np.random.Generator) -> Floats:
    return np.asarray(chance.normal(size=labels.shape) + effect * (labels == 1))


def equal_auc_but_half_undetected(labels: Labels, chance: np.random.Generator) -> tuple[Floats, Floats]:
    """Return two scores of AUC .75: the first separates half of the positives fully and the others not, the second all weakly."""
    detected = (labels == 1) & (chance.random(len(labels)) < 0.5)
    return chance.normal(size=len(labels)) + 9.0 * detected, ranked(labels, 0.9539, chance)


def equal_auc(labels: Labels, chance: np.random.Generator) -> tuple[Floats, Floats]:
    return ranked(labels, 1.0, chance), ranked(labels, 1.0, chance)


@pytest.mark.parametrize("make_scores", [equal_auc, equal_auc_but_half_undetected])
@pytest.mark.parametrize("present", [6, 15])
def test_equal_models_are_called_worse_at_most_at_the_nominal_rate(make_scores: MakeScores, present: int) -> None:
    chance, labels, rounds = np.random.default_rng(0), of_kinds(present, 40), 400
    patients = alone(len(labels))
    significant = 0
    for _ in range(rounds):
        first, second = make_scores(labels, chance)
        significant += bool(significantly_worse(first[:, None], second[:, None], labels[:, None], patients))
    assert significant <= binom.ppf(0.999, rounds, 0.025)


def test_a_model_much_worse_in_one_of_fourteen_findings_is_detected() -> None:
    chance = np.random.default_rng(0)
    labels = np.stack([chance.permutation(of_kinds(20, 40)) for _ in range(14)], axis=1)
    second = ranked(labels, 2.5, chance)
    first = second + 0.1 * chance.normal(size=second.shape)
    first[:, 3] = ranked(labels[:, 3], 0.0, chance)
    found = compare(first, second, labels, alone(60), seed=0)
    assert found.worse_columns == (3,)


@pytest.mark.parametrize(("present", "absent", "expected"), [(2, 60, ()), (5, 60, ()), (60, 5, ()), (6, 60, (0,)), (60, 6, (0,))])
def test_a_finding_with_too_few_patients_of_either_kind_is_never_significant(
    present: int, absent: int, expected: tuple[int, ...]
) -> None:
    labels = of_kinds(present, absent)[:, None]
    right = labels + np.linspace(0, 0.5, len(labels))[:, None]
    assert significantly_worse(-right, right, labels, alone(len(labels))) == expected


def test_patients_are_counted_not_images() -> None:
    labels = of_kinds(20, 20)[:, None]
    right = labels + np.linspace(0, 0.5, 40)[:, None]
    assert significantly_worse(-right, right, labels, alone(40)) == (0,)
    assert significantly_worse(-right, right, labels, np.repeat(alone(8), 5)) == ()


def test_with_one_image_per_patient_the_standard_error_is_delongs() -> None:
    chance, labels = np.random.default_rng(1), of_kinds(9, 30)
    first, second = ranked(labels, 1.0, chance), ranked(labels, 1.5, chance)
    found = paired_auc(first, second, labels, alone(39))
    aucs, covariance = delong(np.stack([first, second]), labels)
    assert found.difference == pytest.approx(aucs[0] - aucs[1])
    assert found.standard_error == pytest.approx(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    assert 8 <= found.degrees_of_freedom <= 37
    assert (found.present_patients, found.absent_patients) == (9, 30)


def test_repeated_images_of_the_same_patients_do_not_shrink_the_error() -> None:
    chance, labels = np.random.default_rng(1), of_kinds(9, 30)
    first, second = ranked(labels, 1.0, chance), ranked(labels, 1.5, chance)
    once = paired_auc(first, second, labels, alone(39))
    twice = paired_auc(np.tile(first, 2), np.tile(second, 2), np.tile(labels, 2), np.tile(alone(39), 2))
    assert astuple(twice) == pytest.approx(astuple(once))


def test_equal_rankings_are_not_worse() -> None:
    labels = of_kinds(12, 12)
    scores = ranked(labels, 1.0, np.random.default_rng(2))
    assert paired_auc(scores, 2 * scores, labels, alone(24)).p_worse == 1.0
    assert paired_auc(-1.0 * labels, 1.0 * labels, labels, alone(24)).p_worse == 0.0
