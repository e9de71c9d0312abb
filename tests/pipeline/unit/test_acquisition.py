"""The choice of studies to label next, on arrays."""

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


def make_candidates(
    count: int, *, seed: int = 0, patients: int | None = None, strata: int = 1, zero_shot_scores: bool = True
) -> CandidateStudies:
    chance = np.random.default_rng(seed)
    names = np.arange(count) if patients is None else chance.integers(patients, size=count)
    scores, zero_shot = chance.random((2, count, len(FINDINGS)))
    return CandidateStudies(
        patient=np.array([f"P{name}" for name in names], dtype=np.str_),
        stratum=np.array([f"S{place % strata}" for place in range(count)], dtype=np.str_),
        scores=scores,
        zero_shot_scores=zero_shot if zero_shot_scores else np.full_like(zero_shot, np.nan),
    )


def make_history(**changes: Any) -> LabelHistory:
    zeros = np.zeros(len(FINDINGS))
    values: dict[str, Any] = {
        "positives": zeros,
        "searched": zeros,
        "search_positives": zeros,
        "read_scores": np.zeros((0, len(FINDINGS))),
    }
    return LabelHistory(**{**values, **changes})


def positives_of(**positives: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """[F] positives of these findings; 1000 of all others."""
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
def test_a_list_is_full_and_contains_each_patient_once(
    policy: SelectionPolicy, studies: int, count: int, patients: int, strata: int, zero_shot_scores: bool, seed: int
) -> None:
    pool = make_candidates(studies, seed=seed, patients=patients, strata=strata, zero_shot_scores=zero_shot_scores)
    selected = select_studies(pool, make_history(read_scores=pool.scores[:3]), policy, count=count, seed=seed)
    chosen = [pool.patient[study.row] for study in selected]
    assert len(chosen) == len(set(chosen)) == min(count, len(set(pool.patient)))
    assert all(0 < study.probability <= 1 for study in selected)
    assert all(
        (study.finding in FINDINGS) == (study.reason in (SelectionReason.POSITIVES, SelectionReason.DISAGREEMENT))
        for study in selected
    )
    assert selected == select_studies(pool, make_history(read_scores=pool.scores[:3]), policy, count=count, seed=seed)


def test_learning_and_the_worklist_use_one_word_for_the_monitoring_sample() -> None:
    assert SelectionReason.MONITORING == rules.MONITORING


def test_shares_hold_on_average_even_for_short_lists() -> None:
    policy = SelectionPolicy()
    pool = make_candidates(60)
    seen = Counter(
        study.reason for seed in range(400) for study in select_studies(pool, make_history(), policy, count=3, seed=seed)
    )
    for reason, share in policy.shares.items():
        assert seen[reason] / 1200 == pytest.approx(share, abs=0.05), reason


def test_the_monitoring_sample_is_drawn_with_its_stated_probability() -> None:
    """Patients have equal probabilities whatever their scores; the studies of a patient share its probability."""
    pool = make_candidates(40, patients=15, strata=3)
    drawn: Counter[int] = Counter()
    stated: dict[int, float] = {}
    rounds = 3000
    for seed in range(rounds):
        for study in select_studies(pool, make_history(), SelectionPolicy(), count=5, seed=seed):
            if study.reason is SelectionReason.MONITORING:
                drawn[study.row] += 1
                stated[study.row] = study.probability
    patients, studies = np.unique(pool.patient, return_counts=True)
    for row, probability in stated.items():
        assert probability == pytest.approx(0.5 / len(patients) / studies[patients == pool.patient[row]][0])
        assert drawn[row] / rounds == pytest.approx(probability, abs=0.012)
    assert len(stated) == len(pool)


def test_the_monitoring_sample_is_proportional_over_strata() -> None:
    pool = make_candidates(90, strata=3)
    selected = select_studies(pool, make_history(), only(SelectionReason.MONITORING), count=30, seed=4)
    assert Counter(pool.stratum[study.row] for study in selected) == {"S0": 10, "S1": 10, "S2": 10}


def test_positives_are_searched_for_scarce_findings_among_the_highest_ranks() -> None:
    pool = make_candidates(50)
    selected = select_studies(
        pool, make_history(positives=positives_of(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=1.0), count=5, seed=0
    )
    assert {study.finding for study in selected} == {"Hernia"}
    assert {study.row for study in selected} == set(np.argsort(-pool.scores[:, HERNIA])[:5].tolist())
    assert [study.probability for study in selected] == [1.0] * 5


def test_a_finding_with_unsuccessful_searches_is_searched_less() -> None:
    pool = make_candidates(50)
    scarce = positives_of(Hernia=1, Mass=1)
    searched, found = np.zeros(len(FINDINGS)), np.zeros(len(FINDINGS))
    searched[[HERNIA, MASS]], found[MASS] = 30, 15
    selected = select_studies(
        pool,
        make_history(positives=scarce, searched=searched, search_positives=found),
        only(SelectionReason.POSITIVES),
        count=4,
        seed=0,
    )
    assert Counter(study.finding for study in selected)["Mass"] > Counter(study.finding for study in selected)["Hernia"]


def test_a_larger_pool_gives_each_study_its_stated_probability() -> None:
    pool = make_candidates(50)
    selected = select_studies(
        pool, make_history(positives=positives_of(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=4.0), count=5, seed=0
    )
    assert {study.row for study in selected} <= set(np.argsort(-pool.scores[:, HERNIA])[:20].tolist())
    assert [study.probability for study in selected] == [0.25] * 5


def test_a_view_with_generally_high_scores_does_not_fill_the_list() -> None:
    pool = make_candidates(40, strata=2)
    pool.scores[pool.stratum == "S0"] = 0.5 + pool.scores[pool.stratum == "S0"] / 2
    pool.scores[pool.stratum == "S1"] /= 2
    selected = select_studies(
        pool, make_history(positives=positives_of(Hernia=0)), only(SelectionReason.POSITIVES, pool_factor=1.0), count=10, seed=0
    )
    assert Counter(pool.stratum[study.row] for study in selected) == {"S0": 5, "S1": 5}


def test_disagreement_compares_ranks_and_names_the_finding() -> None:
    pool = make_candidates(30)
    pool.zero_shot_scores[:] = pool.scores / 2  # another scale, the same order
    pool.zero_shot_scores[7, EDEMA] = 1 - pool.scores[7, EDEMA]
    pool.scores[7, EDEMA], pool.zero_shot_scores[7, EDEMA] = 0.99, 0.0
    (study,) = select_studies(pool, make_history(), only(SelectionReason.DISAGREEMENT), count=1, seed=0)
    assert study == SelectedStudy(7, SelectionReason.DISAGREEMENT, "Edema", 1.0)


def test_without_zero_shot_scores_the_disagreement_share_goes_to_coverage() -> None:
    selected = select_studies(
        make_candidates(30, zero_shot_scores=False), make_history(), only(SelectionReason.DISAGREEMENT), count=4, seed=0
    )
    assert [study.reason for study in selected] == [SelectionReason.COVERAGE] * 4


def test_uncertainty_draws_the_scores_between_present_and_absent() -> None:
    pool = make_candidates(20)
    pool.scores[:] = 0.01
    pool.scores[11] = 0.5
    (study,) = select_studies(pool, make_history(), only(SelectionReason.UNCERTAINTY), count=1, seed=0)
    assert (study.row, study.reason) == (11, SelectionReason.UNCERTAINTY)


def test_coverage_draws_outliers_and_states_their_probability() -> None:
    pool = make_candidates(200, strata=2)
    pool.scores[:] = 0.5 + pool.scores / 100
    pool.scores[[17, 18]] = np.where(np.arange(len(FINDINGS)) % 2, 0.95, 0.05)
    selected = select_studies(pool, make_history(), only(SelectionReason.COVERAGE), count=6, seed=0)
    assert {study.row for study in selected} & {17, 18}
    seen = [
        select_studies(pool, make_history(), only(SelectionReason.COVERAGE, distance_power=1.0), count=1, seed=seed)[0]
        for seed in range(1500)
    ]
    row, count = Counter(study.row for study in seen).most_common(1)[0]
    (stated,) = {round(study.probability, 9) for study in seen if study.row == row}
    assert count / 1500 == pytest.approx(stated, abs=0.04)


def test_coverage_draws_one_study_per_cluster_of_outliers() -> None:
    pool = make_candidates(100)
    pool.scores[:] = 0.5 + pool.scores / 100
    pool.scores[[3, 4]] = np.where(np.arange(len(FINDINGS)) % 2, 0.95, 0.05)
    selected = select_studies(pool, make_history(read_scores=pool.scores[[3]]), only(SelectionReason.COVERAGE), count=5, seed=0)
    assert not {study.row for study in selected} & {3, 4}


@pytest.mark.parametrize(("known", "unlike"), [(10, 20), (20, 10)])
@pytest.mark.parametrize("place", [0, DISTANCE_CHUNK_ROWS - 1, DISTANCE_CHUNK_ROWS, 3 * DISTANCE_CHUNK_ROWS + 1])
def test_coverage_avoids_every_study_that_was_read(place: int, known: int, unlike: int) -> None:
    """Two studies lie far from the rest; one of them was read, at any position among the studies read."""
    archive = make_candidates(60)
    scores = 0.4 + 0.2 * archive.scores
    scores[10], scores[20] = 0.999, np.where(np.arange(len(FINDINGS)) % 2, 0.999, 0.001)
    read = np.full((3 * DISTANCE_CHUNK_ROWS + 2, len(FINDINGS)), 0.5)
    read[place] = scores[known]
    policy = only(SelectionReason.COVERAGE, distance_power=60.0)
    selected = select_studies(replace(archive, scores=scores), make_history(read_scores=read), policy, count=1, seed=4)
    assert [study.row for study in selected] == [unlike]


def test_ranks_within_stratum() -> None:
    scores = np.array([[0.1], [0.3], [0.2], [0.9], [np.nan]])
    assert ranks_within_stratum(scores, np.array(["a", "a", "a", "b", "b"])).ravel().tolist()[:4] == pytest.approx(
        [1 / 6, 5 / 6, 0.5, 0.5]
    )
    assert np.isnan(ranks_within_stratum(scores, np.array(["a", "a", "a", "b", "b"]))[4, 0])


def test_without_candidates_the_list_is_empty() -> None:
    assert select_studies(make_candidates(0), make_history(), SelectionPolicy(), count=5, seed=0) == []
    assert select_studies(make_candidates(5), make_history(), SelectionPolicy(), count=0, seed=0) == []
    with pytest.raises(ZeroDivisionError):
        _ = only(SelectionReason.COVERAGE, coverage=0.0).shares


def test_studies_without_a_report_come_first_as_long_as_they_leave_a_choice() -> None:
    candidates = make_candidates(1000)
    reported = np.arange(1000) >= 60
    few = select_studies(replace(candidates, reported=reported), make_history(), SelectionPolicy(), count=20, seed=1)
    assert len(few) == len({study.row for study in few}) == 20
    assert sum(not reported[study.row] for study in few) >= 15  # a quarter of 60 patients; others by chance
    enough = np.arange(1000) >= 200
    many = select_studies(replace(candidates, reported=enough), make_history(), SelectionPolicy(), count=20, seed=1)
    assert not any(enough[study.row] for study in many)


@pytest.mark.parametrize("is_reported", [False, True])
def test_where_all_are_alike_reports_change_no_choice(is_reported: bool) -> None:
    candidates = make_candidates(300)
    alike = replace(candidates, reported=np.full(300, is_reported))
    asked = {"count": 25, "seed": 3}
    assert select_studies(alike, make_history(), SelectionPolicy(), **asked) == select_studies(
        candidates, make_history(), SelectionPolicy(), **asked
    )


def test_a_patient_with_studies_of_either_kind_is_chosen_once() -> None:
    candidates = make_candidates(400, patients=80)
    reported = np.arange(400) % 2 == 1
    chosen = select_studies(replace(candidates, reported=reported), make_history(), SelectionPolicy(), count=60, seed=2)
    patients = [candidates.patient[study.row] for study in chosen]
    assert len(patients) == len(set(patients)) == 60
