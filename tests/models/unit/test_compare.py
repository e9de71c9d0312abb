"""When one finding speaks against a candidate: seldom without cause, and always with enough of it."""

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
Made = Callable[[Labels, np.random.Generator], tuple[Floats, Floats]]


def alone(films: int) -> npt.NDArray[np.str_]:
    """Each film is of a patient of its own."""
    return np.arange(films).astype(str)


def of_kinds(present: int, absent: int) -> Labels:
    return np.repeat(np.array([1, 0], dtype=np.int8), [present, absent])


def ranked(labels: Labels, effect: float, chance: np.random.Generator) -> Floats:
    return np.asarray(chance.normal(size=labels.shape) + effect * (labels == 1))


def as_good_but_blind_to_some(labels: Labels, chance: np.random.Generator) -> tuple[Floats, Floats]:
    """The first is sure of half of the positives and blind to the others, the second sees all a little: AUC .75 both."""
    sure = (labels == 1) & (chance.random(len(labels)) < 0.5)
    return chance.normal(size=len(labels)) + 9.0 * sure, ranked(labels, 0.9539, chance)


def as_good(labels: Labels, chance: np.random.Generator) -> tuple[Floats, Floats]:
    return ranked(labels, 1.0, chance), ranked(labels, 1.0, chance)


@pytest.mark.parametrize("made", [as_good, as_good_but_blind_to_some])
@pytest.mark.parametrize("present", [6, 15])
def test_no_more_is_called_worse_than_is_said(made: Made, present: int) -> None:
    chance, labels, rounds = np.random.default_rng(0), of_kinds(present, 40), 400
    patients = alone(len(labels))
    called = 0
    for _ in range(rounds):
        first, second = made(labels, chance)
        called += bool(significantly_worse(first[:, None], second[:, None], labels[:, None], patients))
    assert called <= binom.ppf(0.999, rounds, 0.025)


def test_whoever_is_much_worse_in_one_of_fourteen_findings_is_told() -> None:
    chance = np.random.default_rng(0)
    labels = np.stack([chance.permutation(of_kinds(20, 40)) for _ in range(14)], axis=1)
    second = ranked(labels, 2.5, chance)
    first = second + 0.1 * chance.normal(size=second.shape)
    first[:, 3] = ranked(labels[:, 3], 0.0, chance)
    found = compare(first, second, labels, alone(60), seed=0)
    assert found.worse_columns == (3,)


@pytest.mark.parametrize(("present", "absent", "told"), [(2, 60, ()), (5, 60, ()), (60, 5, ()), (6, 60, (0,)), (60, 6, (0,))])
def test_few_patients_of_either_kind_never_speak_against_anybody(present: int, absent: int, told: tuple[int, ...]) -> None:
    labels = of_kinds(present, absent)[:, None]
    right = labels + np.linspace(0, 0.5, len(labels))[:, None]
    assert significantly_worse(-right, right, labels, alone(len(labels))) == told


def test_it_is_patients_that_count_and_not_films() -> None:
    labels = of_kinds(20, 20)[:, None]
    right = labels + np.linspace(0, 0.5, 40)[:, None]
    assert significantly_worse(-right, right, labels, alone(40)) == (0,)
    assert significantly_worse(-right, right, labels, np.repeat(alone(8), 5)) == ()


def test_with_a_film_a_patient_the_error_is_that_of_delong() -> None:
    chance, labels = np.random.default_rng(1), of_kinds(9, 30)
    first, second = ranked(labels, 1.0, chance), ranked(labels, 1.5, chance)
    found = paired_auc(first, second, labels, alone(39))
    aucs, covariance = delong(np.stack([first, second]), labels)
    assert found.difference == pytest.approx(aucs[0] - aucs[1])
    assert found.standard_error == pytest.approx(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    assert 8 <= found.degrees_of_freedom <= 37
    assert (found.present_patients, found.absent_patients) == (9, 30)


def test_films_of_the_same_patients_once_more_make_nothing_surer() -> None:
    chance, labels = np.random.default_rng(1), of_kinds(9, 30)
    first, second = ranked(labels, 1.0, chance), ranked(labels, 1.5, chance)
    once = paired_auc(first, second, labels, alone(39))
    twice = paired_auc(np.tile(first, 2), np.tile(second, 2), np.tile(labels, 2), np.tile(alone(39), 2))
    assert astuple(twice) == pytest.approx(astuple(once))


def test_who_ranks_alike_is_not_worse() -> None:
    labels = of_kinds(12, 12)
    scores = ranked(labels, 1.0, np.random.default_rng(2))
    assert paired_auc(scores, 2 * scores, labels, alone(24)).p_worse == 1.0
    assert paired_auc(-1.0 * labels, 1.0 * labels, labels, alone(24)).p_worse == 0.0
