"""Figures of a version on labels that it has not learnt from; the learning curve."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import numpy as np
import pytest

from models.evaluation.statistics import auc, delong
from pipeline import version_figures as figures
from pipeline.consensus import LabelPolicy
from pipeline.domain import Label, LabelExposure, LabelState
from tests.builders.fakes.versions import a_version

NUMBERS = count(1)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRESENT, ABSENT = LabelState.PRESENT, LabelState.ABSENT


def a_label(study: str, state: LabelState | None = PRESENT, **changes: object) -> Label:
    values = {"id": next(NUMBERS), "study_instance_uid": study, "finding": "Mass", "state": state, "reader": "a", "source": "desk"}
    return Label(**(values | {"stated_at": NOON} | changes))  # type: ignore[arg-type]  # as above


def test_auc_and_interval_are_those_of_the_evaluation() -> None:
    random = np.random.default_rng(3)
    present = random.random(60) < 0.3
    scores = np.round(random.normal(size=60) + present, 1)  # with ties
    found = figures.estimate_auc(scores, present)
    labels = present.astype(np.int8)[:, None]
    assert found.value == pytest.approx(auc(scores[:, None], labels)[0])
    _, covariance = delong(scores[None], labels[:, 0])
    assert found.value is not None
    assert found.lower is not None
    assert found.upper is not None
    width = np.log(found.upper / (1 - found.upper)) - np.log(found.lower / (1 - found.lower))
    error = width / 2 / figures.Z * found.value * (1 - found.value)
    assert error**2 == pytest.approx(float(np.squeeze(covariance)), rel=1e-6)


def test_an_auc_without_both_kinds_is_undefined() -> None:
    found = figures.estimate_auc(np.array([0.1, 0.2]), np.array([True, True]))
    assert (found.value, found.positives, found.negatives) == (None, 2, 0)
    assert figures.average_auc({"Mass": found}) is None


def test_labels_of_patients_that_a_version_has_learnt_from_do_not_measure_it() -> None:
    old, monitored = a_label("1.1"), a_label("1.2", selection_reason="monitoring")
    same_patient, other = a_label("1.3"), a_label("1.4")
    version = a_version(card={"learning": {"newest_label": monitored.id}})
    patients = {"1.1": "P", "1.2": "Q", "1.3": "P", "1.4": "R"}
    everything = [old, monitored, same_patient, other]
    assert figures.select_unseen_labels(everything, version, patients) == [monitored, other]
    assert figures.select_unseen_labels(everything, a_version(), patients) == everything


def test_labels_are_measured_apart_by_exposure() -> None:
    said = [
        a_label("1.1"),
        a_label("1.2", ABSENT),
        a_label("1.3", exposure=LabelExposure.SEEN),
        a_label("1.4", ABSENT, exposure=LabelExposure.SEEN),
        a_label("1.5", selection_reason="monitoring"),
    ]
    said.append(a_label("1.5", None, revokes=said[-1].id))
    scores = {("1.1", "Mass"): 0.9, ("1.2", "Mass"): 0.1, ("1.3", "Mass"): 0.1, ("1.4", "Mass"): 0.9, ("1.5", "Mass"): 0.9}
    found = {
        sample: figures.measure_sample(labels, scores, LabelPolicy()) for sample, labels in figures.split_samples(said).items()
    }
    assert {sample: {finding: one.value for finding, one in each.items()} for sample, each in found.items()} == {
        "none": {"Mass": 1.0},
        "possible": {},
        "seen": {"Mass": 0.0},
        "monitoring": {},
    }


def test_a_reliability_curve_has_bins_of_equal_numbers() -> None:
    said = [a_label(f"1.{number}", PRESENT if number % 4 == 0 else ABSENT) for number in range(40)]
    probabilities = {(f"1.{number}", "Mass"): 0.25 + number / 1000 for number in range(40)}
    curves = figures.measure_reliability(said, probabilities, LabelPolicy())
    assert set(curves) == {"", "Mass"}
    assert [each.labels for each in curves["Mass"]] == [10, 10, 10, 10]
    assert sum(each.observed * each.labels for each in curves["Mass"]) == 10
    assert all(each.lower < 0.25 < each.upper for each in curves["Mass"])
    assert figures.measure_reliability(said[:15], probabilities, LabelPolicy()) == {}


def test_the_learning_curve_tells_what_the_next_studies_bring() -> None:
    def learnt(number: int, films: int, value: float | None) -> object:
        compared = [{"against": "zero-shot", "monitoring": monitoring, "candidate": value} for monitoring in (True, False)]
        return a_version(number, card={"learning": {"films": films, "comparisons": compared}})

    sizes = (100, 25, 400)
    versions = [a_version(), *(learnt(n, size, 0.9 - 1 / np.sqrt(size)) for n, size in enumerate(sizes, 2)), learnt(9, 50, None)]
    points = figures.list_curve_points(versions)  # type: ignore[arg-type]  # as above
    assert [(point.version, point.studies) for point in points] == [(3, 25), (2, 100), (4, 400)]
    projected = figures.project_curve(points)
    assert projected is not None
    assert projected.gain == pytest.approx(1 / np.sqrt(400) - 1 / np.sqrt(450))
    assert projected.error == pytest.approx(0, abs=1e-9)
    assert figures.project_curve(points[:2]) is None
