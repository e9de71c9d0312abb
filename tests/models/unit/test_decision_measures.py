"""Figures of decisions on small populations that can be counted by hand."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from models.evaluation.decisions import measure_decisions

LABELS = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], dtype=np.int8)
NONE = np.full((4, 2), np.nan)


def test_figures_are_those_counted_by_hand() -> None:
    calls = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], dtype=bool)
    rank = np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = measure_decisions(calls, rank, NONE, LABELS, np.ones(4), np.array([0.25, 0.5]))
    assert (found.calls_per_study, found.true_per_study, found.reference_per_study) == (0.75, 0.5, 0.75)
    assert found.ppv == pytest.approx(1 / 3)
    assert found.ppv_over_prevalence == pytest.approx((1 / 3) / 0.25)
    assert found.ppv_over_chance == pytest.approx((1 / 3) / (1 / 4))
    assert found.sensitivity == pytest.approx(0.5)
    assert found.specificity == pytest.approx(2 / 3)
    assert found.normal_without_call == pytest.approx(0.5)
    assert (found.top1, found.top3) == (0.5, 1.0)
    assert found.worst_call_over_prior == pytest.approx(2.0)
    assert math.isnan(found.brier_skill)


def test_weights_count_as_repeated_studies() -> None:
    rng = np.random.default_rng(0)
    labels, calls, rank = rng.integers(0, 2, (6, 3)).astype(np.int8), rng.random((6, 3)) > 0.5, rng.random((6, 3))
    probability, times, prior = rng.uniform(0.1, 0.9, (6, 3)), np.array([1, 2, 1, 3, 1, 1]), np.full(3, 0.1)
    weighted = measure_decisions(calls, rank, probability, labels, times.astype(float), prior)
    rows = np.repeat(np.arange(6), times)
    other = measure_decisions(calls[rows], rank[rows], probability[rows], labels[rows], np.ones(len(rows)), prior)
    assert list(asdict(weighted).values()) == pytest.approx(list(asdict(other).values()))


def test_true_probabilities_have_the_slope_1_and_overconfident_ones_less() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(-1, 1.5, (4000, 2))
    labels = (rng.random((4000, 2)) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    found = [
        measure_decisions(labels == 1, odds, 1 / (1 + np.exp(-factor * odds)), labels, np.ones(4000), np.ones(2))
        for factor in (1, 3)
    ]
    assert found[0].calibration_slope == pytest.approx(1, abs=0.06)
    assert found[1].calibration_slope == pytest.approx(1 / 3, abs=0.03)
    assert found[0].brier_skill > 0.2 > found[1].brier_skill


def test_without_calls_and_without_findings_figures_are_undefined_not_wrong() -> None:
    nothing = np.zeros((4, 2), dtype=bool)
    found = measure_decisions(nothing, np.zeros((4, 2)), NONE, np.zeros((4, 2), np.int8), np.ones(4), np.ones(2))
    assert found.normal_without_call == 1.0
    assert all(math.isnan(value) for value in (found.ppv, found.sensitivity, found.top1))
