from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from models.evaluation import statistics
from models.evaluation.statistics import PatientBootstrap
from tests.builders import benches


def scored(images: int = 400, *, unknown: float = 0.1, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    """Scores in 0..1 with many ties and some skill."""
    labels = benches.random_labels(images, [0.5, 0.2, 0.03], seed=seed, unknown=unknown)
    noise = np.random.default_rng(seed + 1).normal(size=labels.shape)
    return np.round(1 / (1 + np.exp(-noise - labels)), 2), labels


def by_column(
    measure: Callable[[npt.NDArray[np.int8], npt.NDArray[np.float64]], float],
    scores: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int8],
) -> npt.NDArray[np.float64]:
    """Return a measure of each finding on its known labels."""
    columns = [(labels[:, f] != -1, f) for f in range(labels.shape[1])]
    return np.array([measure(labels[known, f], scores[known, f]) for known, f in columns])


@pytest.mark.parametrize("seed", range(3))
def test_ranking_and_probability_measures_agree_with_scikit_learn(seed: int) -> None:
    scores, labels = scored(seed=seed)
    np.testing.assert_allclose(statistics.auc(scores, labels), by_column(roc_auc_score, scores, labels))
    np.testing.assert_allclose(statistics.auprc(scores, labels), by_column(average_precision_score, scores, labels))
    np.testing.assert_allclose(statistics.brier(scores, labels), by_column(brier_score_loss, scores, labels))


@given(
    hnp.arrays(np.int8, (12, 1), elements=st.integers(-1, 1)),
    hnp.arrays(np.float64, (12, 1), elements=st.integers(0, 4).map(float)),
)
def test_the_auc_is_the_share_of_pairs_in_order(labels: npt.NDArray[np.int8], scores: npt.NDArray[np.float64]) -> None:
    above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    (measured,) = statistics.auc(scores, labels)
    if above.size:
        assert measured == pytest.approx(np.mean((np.sign(above) + 1) / 2))
    else:
        assert np.isnan(measured)


def test_undefined_measures_are_nan_and_not_counted() -> None:
    labels = np.array([[1, 0, 1, -1, 1], [1, 0, 0, -1, 0], [1, 0, 1, -1, -1]], dtype=np.int8)
    scores = np.array([[0.9, 0.9, np.nan, 0.1, 0.8], [0.8, 0.1, 0.5, 0.1, 0.3], [0.1, 0.1, 0.1, 0.1, np.nan]])
    for measure in (statistics.auc, statistics.auprc):
        values = measure(scores, labels)
        np.testing.assert_array_equal(values, [np.nan, np.nan, np.nan, np.nan, 1.0])
        assert statistics.macro_average(values) == 1.0
        assert statistics.count_defined(values) == 1
    np.testing.assert_array_equal(np.isnan(statistics.brier(scores, labels)), [False, False, True, True, False])
    np.testing.assert_array_equal(np.isnan(statistics.ece(scores, labels)), [False, False, True, True, False])
    assert np.isnan(statistics.macro_average(np.array([np.nan, np.nan])))
    assert np.isnan(statistics.prevalence_weighted(np.array([np.nan, np.nan]), labels[:, :2]))


def test_the_prevalence_weighted_mean_follows_the_common_findings() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=np.int8)
    assert statistics.prevalence_weighted(np.array([0.8, 0.4, np.nan]), labels) == pytest.approx((0.75 * 0.8 + 0.25 * 0.4) / 1.0)


def test_calibration_error_of_calibrated_and_of_overconfident_probabilities() -> None:
    rng = np.random.default_rng(3)
    calibrated = rng.random((20_000, 1))
    labels = (rng.random(calibrated.shape) < calibrated).astype(np.int8)
    assert statistics.ece(calibrated, labels)[0] < 0.02
    # always certain and right in 3 of 4: one bin each, off by a quarter
    certain = np.repeat([[0.0], [1.0]], 8, axis=0)
    assert statistics.ece(certain, np.array([[0, 0, 0, 1] * 2 + [1, 1, 1, 0] * 2], dtype=np.int8).T)[0] == pytest.approx(0.25)


def test_calibration_error_does_not_depend_on_the_order_of_the_images() -> None:
    scores, labels = scored(unknown=0)
    order = np.random.default_rng(0).permutation(len(labels))
    np.testing.assert_allclose(statistics.ece(scores, labels), statistics.ece(scores[order], labels[order]))


def test_delong_equals_a_manual_computation() -> None:
    """Three positives, two negatives, two scores, with the placements counted by hand.

    A: positives 3, 4, 5 against negatives 1, 4. Negatives below each positive: 1/2, 3/4, 1 (mean 3/4, variance 1/16).
       Positives above each negative: of 1: 1; of 4: (0 + 1/2 + 1)/3 = 1/2 (variance 1/8). Var = 1/48 + 1/16 = 1/12.
    B: positives 2, 1, 5 against negatives 3, 0. Below: 1/2, 1/2, 1 (mean 2/3, variance 1/12).
       Above: of 3: 1/3; of 0: 1 (variance 2/9). Var = 1/36 + 1/9 = 5/36.
    Covariance: below (-1/4, 0, 1/4) with (-1/6, -1/6, 1/3): 1/16; above (1/4, -1/4) with (-1/3, 1/3): -1/6.
       Cov = 1/48 - 1/12 = -1/16.
    """
    labels = np.array([1, 1, 1, 0, 0], dtype=np.int8)
    scores = np.array([[3.0, 4, 5, 1, 4], [2.0, 1, 5, 3, 0]])
    aucs, covariance = statistics.delong(scores, labels)
    np.testing.assert_allclose(aucs, [3 / 4, 2 / 3])
    np.testing.assert_allclose(covariance, [[1 / 12, -1 / 16], [-1 / 16, 5 / 36]])


def test_delong_agrees_with_the_bootstrap() -> None:
    scores, labels = scored(images=1500, unknown=0.1, seed=5)
    known = labels[:, 1] != -1
    _, covariance = statistics.delong(scores[known, 1][None], labels[known, 1])
    patients = np.array([str(row) for row in range(len(labels))])
    resampled = PatientBootstrap(patients, resamples=2000, seed=0).auc(scores, labels)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(resampled[:, 1].std(), rel=0.1)


def test_every_resample_is_the_auc_of_the_drawn_images() -> None:
    """With ties, unknown labels and several images per patient, against scikit-learn on the drawn rows."""
    scores, labels = scored(images=90, seed=2)
    patients = np.array([f"p{row // 3}" for row in range(len(labels))])
    bootstrap = PatientBootstrap(patients, resamples=20, seed=7)
    measured = bootstrap.auc(scores, labels)
    names, patient = np.unique(patients, return_inverse=True)
    for resample, drawn in enumerate(np.random.default_rng(7).integers(len(names), size=(20, len(names)))):
        images = np.concatenate([np.flatnonzero(patient == one) for one in drawn])
        for finding in range(labels.shape[1]):
            known = images[labels[images, finding] != -1]
            of_both = len(set(labels[known, finding])) == 2
            expected = roc_auc_score(labels[known, finding], scores[known, finding]) if of_both else np.nan
            np.testing.assert_allclose(measured[resample, finding], expected)


def test_the_bootstrap_draws_patients_not_images() -> None:
    """Repeated images of a patient add no information: the interval must not shrink."""
    scores, labels = scored(images=150, unknown=0, seed=4)
    patients = np.array([f"p{row}" for row in range(150)])
    alone = PatientBootstrap(patients, seed=0).auc(scores, labels)
    again = PatientBootstrap(np.repeat(patients, 4), seed=0).auc(scores.repeat(4, axis=0), labels.repeat(4, axis=0))
    np.testing.assert_allclose(alone, again)


def test_the_bootstrap_is_reproducible_and_pairs_its_measurements() -> None:
    scores, labels = scored()
    patients = np.array([str(row) for row in range(len(labels))])
    once, twice = (PatientBootstrap(patients, resamples=300, seed=1).auc(scores, labels) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    assert once.shape == (300, 3)
    monotone = PatientBootstrap(patients, resamples=300, seed=1).auc(10 * scores - 3, labels)
    np.testing.assert_allclose(once, monotone)
    assert np.isnan(PatientBootstrap(patients, resamples=3, seed=1).auc(np.full_like(scores, np.nan), labels)).all()


def test_intervals_cover_the_central_share_and_skip_nan() -> None:
    samples = np.stack([np.linspace(0, 1, 1001), np.full(1001, np.nan)], axis=1)
    samples[::2, 0] = np.nan
    lower, upper = statistics.percentile_interval(samples)
    np.testing.assert_allclose([lower[0], upper[0]], [0.025, 0.975], atol=2e-3)
    assert np.isnan([lower[1], upper[1]]).all()


def test_holm_equals_a_manual_computation() -> None:
    corrected = statistics.holm(np.array([0.04, 0.01, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(corrected, [0.06, 0.03, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm(np.array([0.6, 0.7])), [1.0, 1.0])


@given(hnp.arrays(np.float64, st.integers(1, 10), elements=st.floats(0, 1)))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p: npt.NDArray[np.float64]) -> None:
    corrected = statistics.holm(p)
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert corrected.max() <= 1


def test_normal_p_values_of_differences() -> None:
    assert statistics.normal_p(1.96, 1.0) == pytest.approx(0.05, abs=1e-3)
    assert statistics.normal_p(0.0, 0.0) == 1.0
    assert statistics.normal_p(0.1, 0.0) == 0.0
    assert np.isnan(statistics.normal_p(float("nan"), 1.0))
