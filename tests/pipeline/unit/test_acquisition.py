"""What to label next: the rules alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import rules
from pipeline.acquisition import (
    DISTANCE_CHUNK_ROWS,
    CandidateStudies,
    LabelHistory,
    SelectedStudy,
    SelectionPolicy,
    SelectionReason,
    ranks_within_stratum,
    select_studies,
)
from pipeline.domain import FINDINGS

HERNIA, MASS, EDEMA = (FINDINGS.index(name) for name in ("Hernia", "Mass", "Edema"))


def only(reason: SelectionReason, **changes: Any) -> SelectionPolicy:
    return SelectionPolicy(**{kind.value: float(kind is reason) for kind in SelectionReason} | changes)


def candidates(count: int, *, seed: int = 0, patients: int | None = None, strata: int = 1, other: bool = True) -> CandidateStudies:
    chance = np.random.default_rng(seed)
    names = np.arange(count) if patients is None else chance.integers(patients, size=count)
    scores, others = chance.random((2, count, len(FINDINGS)))
    return CandidateStudies(
        patient=np.array([f"P{name}" for name in names], dtype=np.str_),
        stratum=np.array([f"S{place % strata}" for place in range(count)], dtype=np.str_),
        scores=scores,
        zero_shot_scores=others if other else np.full_like(others, np.nan),
    )


def experience(**changes: Any) -> LabelHistory:
    nothing = np.zeros(len(FINDINGS))
    values: dict[str, Any] = {
        "positives": nothing,
        "searched": nothing,
        "search_positives": nothing,
        "read_scores": np.zeros((0, len(FINDINGS))),
    }
    return LabelHistory(**{**values, **changes})


def known(**positives: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """So many positives of these findings, plenty of all others."""
    return np.array([float(positives.get(finding, 1000)) for finding in FINDINGS])


shares = st.floats(0, 1).filter(lambda share: share == 0 or share > 1e-3)


@given(
    st.builds(
        SelectionPolicy,
        positives=shares,
        disagreement=shares,
        uncertainty=shares,
        coverage=shares,
        monitoring=st.just(0.1),
    ),
    st.integers(0, 40),
    st.integers(1, 50),
    st.integers(1, 12),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_list_is_full_and_holds_a_patient_once(
    policy: SelectionPolicy, studies: int, count: int, patients: int, strata: int, other: bool, seed: int
) -> None:
    of = candidates(studies, seed=seed, patients=patients, strata=strata, other=other)
    picks = select_studies(of, experience(read_scores=of.scores[:3]), policy, count=count, seed=seed)
    chosen = [of.patient[pick.row] for pick in picks]
    assert len(chosen) == len(set(chosen)) == min(count, len(set(of.patient)))
    assert all(0 < pick.probability <= 1 for pick in picks)
    assert all(
        (pick.finding in FINDINGS) == (pick.reason in (SelectionReason.POSITIVES, SelectionReason.DISAGREEMENT)) for pick in picks
    )
    assert picks == select_studies(of, experience(read_scores=of.scores[:3]), policy, count=count, seed=seed)


def test_the_reason_of_the_random_sample_is_the_learners_word() -> None:
    assert SelectionReason.MONITORING == rules.MONITORING


def test_shares_hold_on_average_however_short_the_lists() -> None:
    policy = SelectionPolicy()
    of = candidates(60)
    seen = Counter(pick.reason for seed in range(400) for pick in select_studies(of, experience(), policy, count=3, seed=seed))
    for reason, share in policy.shares.items():
        assert seen[reason] / 1200 == pytest.approx(share, abs=0.05), reason


def test_the_random_sample_is_drawn_with_the_chance_it_states() -> None:
    """Patients have equal chances whatever their scores, and studies of one patient share its chance."""
    of = candidates(40, patients=15, strata=3)
    drawn: Counter[int] = Counter()
    stated: dict[int, float] = {}
    rounds = 3000
    for seed in range(rounds):
        for pick in select_studies(of, experience(), SelectionPolicy(), count=5, seed=seed):
            if pick.reason is SelectionReason.MONITORING:
                drawn[pick.row] += 1
                stated[pick.row] = pick.probability
    patients, studies = np.unique(of.patient, return_counts=True)
    for row, probability in stated.items():
        assert probability == pytest.approx(0.5 / len(patients) / studies[patients == of.patient[row]][0])
        assert drawn[row] / rounds == pytest.approx(probability, abs=0.012)
    assert len(stated) == len(of)


def test_the_random_sample_takes_its_part_of_each_stratum() -> None:
    of = candidates(90, strata=3)
    picks = select_studies(of, experience(), only(SelectionReason.MONITORING), count=30, seed=4)
    assert Counter(of.stratum[pick.row] for pick in picks) == {"S0": 10, "S1": 10, "S2": 10}


def test_positives_are_looked_for_where_they_are_scarce_and_ranked_highest() -> None:
    of = candidates(50)
    picks = select_studies(
        of, experience(positives=known(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=1.0), count=5, seed=0
    )
    assert {pick.finding for pick in picks} == {"Hernia"}
    assert {pick.row for pick in picks} == set(np.argsort(-of.scores[:, HERNIA])[:5].tolist())
    assert [pick.probability for pick in picks] == [1.0] * 5


def test_what_was_looked_for_in_vain_is_looked_for_less() -> None:
    of = candidates(50)
    starved = known(Hernia=1, Mass=1)
    mined, found = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    mined[[HERNIA, MASS]], found[MASS] = 30, 15
    picks = select_studies(
        of, experience(positives=starved, searched=mined, search_positives=found), only(SelectionReason.POSITIVES), count=4, seed=0
    )
    assert Counter(pick.finding for pick in picks)["Mass"] > Counter(pick.finding for pick in picks)["Hernia"]


def test_a_wider_look_gives_each_study_its_chance() -> None:
    of = candidates(50)
    picks = select_studies(
        of, experience(positives=known(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=4.0), count=5, seed=0
    )
    assert {pick.row for pick in picks} <= set(np.argsort(-of.scores[:, HERNIA])[:20].tolist())
    assert [pick.probability for pick in picks] == [0.25] * 5


def test_a_view_that_is_scored_high_as_a_whole_does_not_fill_the_list() -> None:
    of = candidates(40, strata=2)
    of.scores[of.stratum == "S0"] = 0.5 + of.scores[of.stratum == "S0"] / 2
    of.scores[of.stratum == "S1"] /= 2
    picks = select_studies(
        of, experience(positives=known(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=1.0), count=10, seed=0
    )
    assert Counter(of.stratum[pick.row] for pick in picks) == {"S0": 5, "S1": 5}


def test_disagreement_is_of_ranks_and_names_its_finding() -> None:
    of = candidates(30)
    of.zero_shot_scores[:] = of.scores / 2  # another scale, the same order
    of.zero_shot_scores[7, EDEMA] = 1 - of.scores[7, EDEMA]
    of.scores[7, EDEMA], of.zero_shot_scores[7, EDEMA] = 0.99, 0.0
    (pick,) = select_studies(of, experience(), only(SelectionReason.DISAGREEMENT), count=1, seed=0)
    assert pick == SelectedStudy(7, SelectionReason.DISAGREEMENT, "Edema", 1.0)


def test_without_a_second_opinion_the_share_goes_to_coverage() -> None:
    picks = select_studies(candidates(30, other=False), experience(), only(SelectionReason.DISAGREEMENT), count=4, seed=0)
    assert [pick.reason for pick in picks] == [SelectionReason.COVERAGE] * 4


def test_uncertain_is_what_lies_between() -> None:
    of = candidates(20)
    of.scores[:] = 0.01
    of.scores[11] = 0.5
    (pick,) = select_studies(of, experience(), only(SelectionReason.UNCERTAINTY), count=1, seed=0)
    assert (pick.row, pick.reason) == (11, SelectionReason.UNCERTAINTY)


def test_coverage_finds_what_is_unlike_the_rest_and_states_the_chance() -> None:
    of = candidates(200, strata=2)
    of.scores[:] = 0.5 + of.scores / 100
    of.scores[[17, 18]] = np.where(np.arange(len(FINDINGS)) % 2, 0.95, 0.05)
    picks = select_studies(of, experience(), only(SelectionReason.COVERAGE), count=6, seed=0)
    assert {pick.row for pick in picks} & {17, 18}
    seen = [
        select_studies(of, experience(), only(SelectionReason.COVERAGE, distance_power=1.0), count=1, seed=seed)[0]
        for seed in range(1500)
    ]
    often, times = Counter(pick.row for pick in seen).most_common(1)[0]
    (stated,) = {round(pick.probability, 9) for pick in seen if pick.row == often}
    assert times / 1500 == pytest.approx(stated, abs=0.04)


def test_coverage_does_not_go_twice_to_one_place() -> None:
    of = candidates(100)
    of.scores[:] = 0.5 + of.scores / 100
    of.scores[[3, 4]] = np.where(np.arange(len(FINDINGS)) % 2, 0.95, 0.05)
    picks = select_studies(of, experience(read_scores=of.scores[[3]]), only(SelectionReason.COVERAGE), count=5, seed=0)
    assert not {pick.row for pick in picks} & {3, 4}


@pytest.mark.parametrize(("known", "unlike"), [(10, 20), (20, 10)])
@pytest.mark.parametrize("place", [0, DISTANCE_CHUNK_ROWS - 1, DISTANCE_CHUNK_ROWS, 3 * DISTANCE_CHUNK_ROWS + 1])
def test_coverage_knows_everything_that_was_read(place: int, known: int, unlike: int) -> None:
    """Two studies lie far from the rest, one of them where something was read, wherever that stands among what was read."""
    archive = candidates(60)
    scores = 0.4 + 0.2 * archive.scores
    scores[10], scores[20] = 0.999, np.where(np.arange(len(FINDINGS)) % 2, 0.999, 0.001)
    read = np.full((3 * DISTANCE_CHUNK_ROWS + 2, len(FINDINGS)), 0.5)
    read[place] = scores[known]
    policy = only(SelectionReason.COVERAGE, distance_power=60.0)
    picks = select_studies(replace(archive, scores=scores), experience(read_scores=read), policy, count=1, seed=4)
    assert [pick.row for pick in picks] == [unlike]


def test_heights() -> None:
    scores = np.array([[0.1], [0.3], [0.2], [0.9], [np.nan]])
    assert ranks_within_stratum(scores, np.array(["a", "a", "a", "b", "b"])).ravel().tolist()[:4] == pytest.approx(
        [1 / 6, 5 / 6, 0.5, 0.5]
    )
    assert np.isnan(ranks_within_stratum(scores, np.array(["a", "a", "a", "b", "b"]))[4, 0])


def test_nothing_to_choose_from() -> None:
    assert select_studies(candidates(0), experience(), SelectionPolicy(), count=5, seed=0) == []
    assert select_studies(candidates(5), experience(), SelectionPolicy(), count=0, seed=0) == []
    with pytest.raises(ZeroDivisionError):
        _ = only(SelectionReason.COVERAGE, coverage=0.0).shares
