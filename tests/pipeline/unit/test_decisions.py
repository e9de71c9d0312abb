"""Scores become decisions on the scale of each finding: learnt ones at a threshold, others by their rank."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import decisions
from pipeline.decisions import ALL_VIEWS, DecisionPolicy, predict_study
from pipeline.domain import FINDINGS, Decision, NotAssessedReason, ReferenceDistribution, Scale
from tests.builders.fakes.versions import a_version

ZERO_SHOT = a_version(scales={}, thresholds={})


def a_reference(n: int = 999, **changes: Any) -> ReferenceDistribution:
    """A reference distribution of scores spread evenly over 0..1, for every finding."""
    values: dict[str, Any] = {
        "number": 3,
        "version": 1,
        "studies": n,
        "made_at": datetime(2026, 1, 1, tzinfo=UTC),
        "scores": {ALL_VIEWS: np.repeat(np.linspace(0, 1, n, dtype=np.float32)[:, None], len(FINDINGS), axis=1)},
        "priors": dict.fromkeys(FINDINGS, 0.05),
        "call_rates": dict.fromkeys(FINDINGS, 0.05),
        "separation": DecisionPolicy().separation,
    }
    return ReferenceDistribution(**values | changes)


def scores(value: float) -> np.ndarray[Any, Any]:
    return np.full(len(FINDINGS), value, dtype=np.float32)


@pytest.mark.parametrize(
    ("score", "decision"),
    [(0.31, Decision.PRESENT), (0.3, Decision.PRESENT), (0.25, Decision.UNDETERMINED), (0.2, Decision.ABSENT)],
)
def test_a_learnt_finding_is_decided_at_its_operating_point(score: float, decision: Decision) -> None:
    version = a_version(thresholds=dict.fromkeys(FINDINGS, 0.3), undetermined_margin=0.4)
    (first, *_) = predict_study(scores(score), version)
    assert first.decision is decision
    assert first.scale is Scale.BAND
    assert first.likelihood == pytest.approx(score)
    assert first.excess is not None
    assert (first.excess >= 0) == (decision is Decision.PRESENT)


def test_a_finding_that_was_not_learnt_is_not_assessed_without_a_reference_distribution() -> None:
    version = a_version(scales={"Mass": Scale.PROBABILITY})
    predicted = {one.finding: one for one in predict_study(scores(0.99), version)}
    assert predicted.pop("Mass").decision is Decision.PRESENT
    assert {one.decision for one in predicted.values()} == {Decision.NOT_ASSESSED}
    assert {one.reason for one in predicted.values()} == {NotAssessedReason.NO_REFERENCE}
    assert {one.likelihood for one in predicted.values()} == {None}


def test_a_rank_is_called_only_above_the_call_rate_and_never_absent() -> None:
    reference = a_reference()
    called = [predict_study(scores(value), ZERO_SHOT, reference)[0] for value in np.linspace(0, 1, 200)]
    assert np.mean([one.decision is Decision.PRESENT for one in called]) == pytest.approx(0.05, abs=0.006)
    assert {one.decision for one in called} == {Decision.PRESENT, Decision.UNDETERMINED}
    assert {one.reference for one in called} == {3}


def test_a_raw_score_of_a_softmax_alone_calls_nothing() -> None:
    high = a_reference(scores={ALL_VIEWS: np.full((500, len(FINDINGS)), 0.97, np.float32)})
    assert {one.decision for one in predict_study(scores(0.97), ZERO_SHOT, high)} == {Decision.UNDETERMINED}


def test_the_rank_is_that_of_the_own_view_where_there_is_one() -> None:
    low, high = (np.full((300, len(FINDINGS)), value, np.float32) for value in (0.2, 0.8))
    reference = a_reference(scores={ALL_VIEWS: np.concatenate([low, high]), "AP": high})
    of_view, of_all = (predict_study(scores(0.5), ZERO_SHOT, reference, view)[0].percentile for view in ("AP", "PA"))
    assert of_view is not None
    assert of_view < 0.01
    assert of_all == pytest.approx(0.5)


def test_mean_likelihood_of_an_archive_is_the_prior() -> None:
    reference = a_reference(priors=dict.fromkeys(FINDINGS, 0.02))
    told = [predict_study(scores(value), ZERO_SHOT, reference)[0].likelihood for value in np.linspace(0.0005, 0.9995, 1000)]
    assert np.mean(np.array(told, dtype=float)) == pytest.approx(0.02, rel=0.1)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_percentiles_lie_between_0_and_1_and_rise_with_the_score(stored: list[float], one: float, other: float) -> None:
    ascending = np.sort(np.array(stored, dtype=np.float32))
    low, high = (decisions.percentile(score, ascending) for score in sorted((one, other)))
    assert 0 < low <= high < 1


@pytest.mark.parametrize(
    ("age", "unknown", "reason"),
    [
        ("034Y", "assess", None),
        ("016Y", "assess", None),
        ("015Y", "assess", NotAssessedReason.AGE),
        ("190M", "assess", NotAssessedReason.AGE),
        ("003D", "assess", NotAssessedReason.AGE),
        ("", "assess", None),
        ("", "withhold", NotAssessedReason.AGE_UNKNOWN),
        ("old", "withhold", NotAssessedReason.AGE_UNKNOWN),
    ],
)
def test_the_scope_has_an_age(age: str, unknown: str, reason: NotAssessedReason | None) -> None:
    assert decisions.judge_age(age, DecisionPolicy(unknown_age=unknown)) is reason  # type: ignore[arg-type]  # a word of the table


def test_withheld_findings_have_no_number_and_keep_their_first_reason() -> None:
    predictions = predict_study(scores(0.9), a_version())
    stopped = decisions.withhold(predictions, NotAssessedReason.STOPPED, ["Mass"])
    all_of_them = decisions.withhold(stopped, NotAssessedReason.WITHDRAWN)
    by_name = {one.finding: one for one in all_of_them}
    assert by_name["Mass"].reason is NotAssessedReason.STOPPED
    assert by_name["Edema"].reason is NotAssessedReason.WITHDRAWN
    assert {(one.decision, one.likelihood, one.excess) for one in all_of_them} == {(Decision.NOT_ASSESSED, None, None)}
    assert sum(one.decision is Decision.NOT_ASSESSED for one in stopped) == 1
