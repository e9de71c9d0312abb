from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binomtest

from models.classifier.head import LinearHead
from models.evaluation.compare import compare
from models.training.calibration import fit_calibration, log_loss, rates_with_intervals
from models.training.cross_validation import assign_folds, cross_fit_calibration, score_out_of_fold


def sample(images: int, *, effect: float, seed: int = 0, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels [n, 1] of a finding with true log-odds effect * logit at even odds."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 1)) < share).astype(np.int8)
    logits = rng.normal(size=(images, 1)) + effect * (labels - 0.5)
    return logits, labels


def test_many_labels_recover_slope_and_intercept() -> None:
    logits, labels = sample(20000, effect=2.0)
    found = fit_calibration(3.0 * logits + 5.0, labels)  # unit normals 2 apart: the log-odds are 2 x
    assert found.slopes[0] * 3.0 == pytest.approx(2.0, rel=0.05)
    assert found(np.array([[5.0]]))[0, 0] == pytest.approx(0.0, abs=0.1)


def test_few_labels_change_the_calibration_little() -> None:
    logits, labels = np.array([[4.0], [-4.0]]), np.array([[1], [0]], dtype=np.int8)
    found = fit_calibration(logits, labels)
    assert 0.7 < found.slopes[0] < 1.5
    assert found.intercepts[0] == pytest.approx(0.0, abs=1e-6)


def test_unknown_labels_and_findings_of_one_kind_do_not_affect_the_fit() -> None:
    logits, labels = sample(200, effect=1.0)
    alone = fit_calibration(logits, labels)
    wider = np.concatenate([logits, np.full_like(logits, np.nan)], axis=1)
    both = np.concatenate([labels, np.full_like(labels, -1)], axis=1)
    found = fit_calibration(wider, both)
    assert found.slopes[0] == pytest.approx(alone.slopes[0], rel=1e-4)
    assert found.intercepts[1] == 0.0


def test_a_calibrated_head_gives_probabilities() -> None:
    logits, labels = sample(4000, effect=2.0)
    found = fit_calibration(logits, labels)
    head = LinearHead(torch.tensor([[1.0]]), torch.tensor([1.0]), torch.tensor([0.0]))
    folded = found.calibrated_head(head, np.array([0.1]))
    expected = expit(found(logits) + logit(0.1))
    assert folded.scores(torch.from_numpy(logits).float()).numpy() == pytest.approx(expected, abs=1e-5)


def test_a_finding_that_the_head_does_not_tell_apart_has_a_slope_near_0() -> None:
    told, labels = sample(300, effect=2.0, seed=4)
    untold, others = sample(300, effect=0.0, seed=5)
    found = fit_calibration(np.hstack([told, untold]), np.hstack([labels, others]))
    assert found.slopes[0] > 1.4
    assert 0.0 < found.slopes[1] < 0.25


def test_a_finding_with_few_labels_has_the_shared_slope() -> None:
    columns = [sample(400, effect=2.0, seed=seed) for seed in range(6)]
    logits, labels = np.hstack([logits for logits, _ in columns]), np.hstack([labels for _, labels in columns])
    labels[3:, 5] = -1
    labels[:3, 5] = 1, 0, 0
    found = fit_calibration(logits, labels)
    assert 0.5 * found.slopes[:5].mean() < found.slopes[5] < 1.2 * found.slopes[:5].mean()


def test_log_loss_is_balanced_and_averaged_over_findings() -> None:
    labels = np.array([[1, 1], [0, -1], [0, -1], [0, -1]], dtype=np.int8)
    assert log_loss(np.zeros((4, 2)), labels) == pytest.approx(np.log(2))
    odds = np.array([[2.0], [-1.0], [-1.0], [-1.0]])
    assert log_loss(odds, labels[:, :1]) == pytest.approx((np.log1p(np.exp(-2.0)) + np.log1p(np.exp(-1.0))) / 2)
    assert np.isnan(log_loss(odds, np.ones((4, 1), dtype=np.int8)))


def test_intervals_of_rates_resample_patients() -> None:
    eligible = np.ones((40, 2), dtype=bool)
    positive = np.tile(np.arange(40)[:, None] % 4 > 0, (1, 2))
    alone = rates_with_intervals(positive, eligible, np.arange(40).astype(str), seed=0)
    assert alone.value == pytest.approx([0.75, 0.75])
    assert (alone.lower < 0.75).all()
    assert (alone.upper > 0.75).all()
    clustered = rates_with_intervals(positive, eligible, (np.arange(40) % 4).astype(str), seed=0)  # four patients, ten images each
    assert clustered.upper[0] - clustered.lower[0] > alone.upper[0] - alone.lower[0]
    eligible[:, 1] = False
    assert np.isnan(rates_with_intervals(positive, eligible, np.arange(40).astype(str), seed=0).lower[1])


@pytest.mark.parametrize(("right", "patients"), [(True, 8), (True, 1), (True, 300), (False, 8), (False, 20)])
def test_the_interval_of_a_rate_without_an_exception_is_that_of_wilson(right: bool, patients: int) -> None:
    cells = np.full((patients, 1), right)
    found = rates_with_intervals(cells, np.ones_like(cells), np.arange(patients).astype(str), seed=0)
    expected = binomtest(patients * right, patients).proportion_ci(0.95, method="wilson")
    assert (found.value[0], found.lower[0], found.upper[0]) == pytest.approx((float(right), expected.low, expected.high))


def test_images_of_one_patient_are_one_case() -> None:
    patients = np.repeat(np.arange(8), 3).astype(str)
    cells = np.ones((24, 1), dtype=bool)
    found = rates_with_intervals(cells, cells, patients, seed=0)
    assert (round(found.lower[0], 2), found.upper[0]) == (0.68, 1.0)
    half = np.tile([[True], [False]], (3, 1))
    alone = rates_with_intervals(half, np.ones_like(half), np.zeros(6, dtype=int).astype(str), seed=0)
    assert alone.value[0] == 0.5
    assert alone.lower[0] < 0.2 < 0.8 < alone.upper[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(2, 10), st.integers(0, 5))
def test_folds_keep_patients_together_and_are_of_equal_size(patients: int, images: int, most: int, seed: int) -> None:
    whose = np.repeat(np.arange(patients).astype(str), images)
    labels = (np.random.default_rng(seed).random((len(whose), 3)) < 0.3).astype(np.int8)
    fold = assign_folds(whose, labels, max_folds=most, seed=seed)
    assert all(len(set(fold[whose == name])) == 1 for name in set(whose))
    sizes = np.bincount(fold)
    assert len(sizes) == min(most, patients)
    assert sizes.max() - sizes.min() <= images
    assert np.array_equal(fold[::-1], assign_folds(whose[::-1], labels[::-1], max_folds=most, seed=seed))


def test_positives_of_a_rare_finding_are_spread_over_folds() -> None:
    labels = np.zeros((40, 2), dtype=np.int8)
    labels[:4, 1], labels[:, 0] = 1, 1
    fold = assign_folds(np.arange(40).astype(str), labels, max_folds=4, seed=0)
    assert sorted(fold[:4]) == [0, 1, 2, 3]


def test_no_image_is_scored_by_a_model_of_its_own_fold() -> None:
    fold = np.array([0, 1, 2, 0, 1])
    seen: list[tuple[set[int], set[int]]] = []

    def score(rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        seen.append((set(fold[rows]), set(fold[held_out])))
        return held_out[:, None].astype(np.float64)

    assert score_out_of_fold(fold, 1, score)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert [(a & b, b) for a, b in seen] == [(set(), {0}), (set(), {1}), (set(), {2})]


def test_a_cross_fitted_calibration_has_a_higher_loss_than_one_fitted_to_the_same_labels() -> None:
    logits, labels = sample(60, effect=0.0, seed=1)
    fold = np.arange(60) % 5
    assert log_loss(cross_fit_calibration(logits, labels, fold), labels) > log_loss(fit_calibration(logits, labels)(logits), labels)


def test_the_comparison_detects_the_better_ranking() -> None:
    truth, labels = sample(300, effect=2.5, seed=2)
    noise, _ = sample(300, effect=0.0, seed=9)
    patients = np.arange(300).astype(str)
    found = compare(truth, noise, labels, patients, seed=0)
    assert found.first > found.second
    assert (found.lower > 0, found.share_not_worse, found.worse_columns, found.cases, found.patients) == (True, 1.0, (), 300, 300)
    turned = compare(noise, truth, labels, patients, seed=0)
    assert (turned.upper < 0, turned.share_not_worse, turned.worse_columns) == (True, 0.0, (0,))
    same = compare(truth, truth, labels, patients, seed=0)
    assert (same.lower, same.upper, same.share_not_worse) == (0.0, 0.0, 1.0)


def test_cases_without_a_score_are_excluded() -> None:
    truth, labels = sample(100, effect=2.5, seed=2)
    holed = truth.copy()
    holed[:40] = np.nan
    assert compare(holed, truth, labels, np.arange(100).astype(str), seed=0).cases == 60
    nothing = compare(np.full_like(truth, np.nan), truth, labels, np.arange(100).astype(str), seed=0)
    assert (nothing.cases, nothing.share_not_worse, np.isnan(nothing.first)) == (0, 0.0, True)
    one_kind = compare(truth, truth, np.ones_like(labels), np.arange(100).astype(str), seed=0)
    assert (np.isnan(one_kind.first), one_kind.share_not_worse) == (True, 0.0)


def test_two_labels_of_half_weight_count_as_one() -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat([[1], [0]], 12, axis=0).astype(np.int8)
    logits = rng.normal(size=(24, 1)) + labels
    twice = np.concatenate([np.arange(24), np.arange(12, 24)])
    weights = np.where(labels[twice] == 0, 0.5, 1.0)
    once, halved = fit_calibration(logits, labels), fit_calibration(logits[twice], labels[twice], weights)
    assert halved.slopes == pytest.approx(once.slopes)
    assert halved.intercepts == pytest.approx(once.intercepts)
    assert fit_calibration(logits, labels, np.ones(labels.shape)).slopes.tolist() == once.slopes.tolist()
