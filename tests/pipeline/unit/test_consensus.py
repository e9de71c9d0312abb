"""Consensus: one state per study and finding, whatever the order of the labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import rules
from pipeline.consensus import (
    ExposureWeights,
    LabelPolicy,
    labels_in_force,
    resolve_consensus,
    select_blind_labels,
    select_unexposed_labels,
)
from pipeline.domain import ABSENT, FINDINGS, PRESENT, UNKNOWN, Label, LabelExposure, LabelState
from pipeline.finding_names import all_absent

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NEWEST, MAJORITY = LabelPolicy(), LabelPolicy(policy="majority")
ADJUDICATOR = LabelPolicy(policy="adjudicator", adjudicators=("zoe", "bob"))
POLICIES = [NEWEST, MAJORITY, ADJUDICATOR]
YES, NO, MAYBE = LabelState
READERS = ("alice", "bob", "carl", "dora", "zoe")


def make_label(
    number: int, state: LabelState | None = YES, reader: str = "alice", *, hour: float | None = None, **changes: object
) -> Label:
    values = {"study_instance_uid": "1.1", "finding": "Mass", "source": "csv", "revokes": None, **changes}
    stated_at = NOON + timedelta(hours=number if hour is None else hour)
    return Label(id=number, state=state, reader=reader, stated_at=stated_at, **values)  # type: ignore[arg-type]  # a row of a table


@st.composite
def label_lists(draw: st.DrawFn) -> list[Label]:
    """Labels as a catalog may hold them: numbered, some revoked once by a later one."""
    made: list[Label] = []
    for number in range(1, draw(st.integers(0, 25)) + 1):
        free = [one for one in made if one.id not in {m.revokes for m in made}]
        earlier: Label | None = draw(st.sampled_from([None, *free]))
        study = earlier.study_instance_uid if earlier else draw(st.sampled_from(["1.1", "1.2"]))
        finding = earlier.finding if earlier else draw(st.sampled_from(["Mass", "Edema"]))
        states: list[LabelState | None] = [*LabelState, None] if earlier else [*LabelState]
        made.append(
            make_label(
                number,
                draw(st.sampled_from(states)),
                draw(st.sampled_from(READERS)),
                hour=draw(st.integers(0, 9)),
                study_instance_uid=study,
                finding=finding,
                revokes=earlier.id if earlier else None,
            )
        )
    return made


@given(label_lists(), st.randoms(use_true_random=False), st.sampled_from(POLICIES))
def test_consensus_does_not_depend_on_the_order_of_labels(labels: list[Label], chance: object, policy: LabelPolicy) -> None:
    shuffled = list(labels)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # random.Random
    first, second = resolve_consensus(labels, policy), resolve_consensus(shuffled, policy)
    assert list(first.by_key.items()) == list(second.by_key.items())
    assert first.fingerprint == second.fingerprint


@given(label_lists(), st.sampled_from(POLICIES))
def test_labels_not_in_force_do_not_change_the_consensus(labels: list[Label], policy: LabelPolicy) -> None:
    """Resolving what stands alone gives the same: no statement is heard twice, none that was revoked at all."""
    assert resolve_consensus(labels_in_force(labels), policy).by_key == resolve_consensus(labels, policy).by_key
    assert labels_in_force(labels_in_force(labels)) == labels_in_force(labels)


@given(label_lists())
def test_each_reader_has_at_most_one_label_in_force_per_finding_and_it_is_not_revoked(labels: list[Label]) -> None:
    stand = labels_in_force(labels)
    revoked = {one.revokes for one in labels}
    assert all(one.id not in revoked and one.state is not None for one in stand)
    assert max(Counter((one.study_instance_uid, one.finding, one.reader) for one in stand).values(), default=1) == 1


@given(label_lists(), st.sampled_from(POLICIES))
def test_a_withdrawal_removes_one_vote_only(labels: list[Label], policy: LabelPolicy) -> None:
    for victim in labels_in_force(labels):
        taken_back = make_label(
            len(labels) + 1,
            None,
            "nobody",
            study_instance_uid=victim.study_instance_uid,
            finding=victim.finding,
            revokes=victim.id,
        )
        assert labels_in_force([*labels, taken_back]) == [one for one in labels_in_force(labels) if one.id != victim.id]


@given(label_lists(), st.sampled_from(POLICIES))
def test_every_policy_follows_unanimous_readers(labels: list[Label], policy: LabelPolicy) -> None:
    for key, held in resolve_consensus(labels, policy).by_key.items():
        states = {vote.state for vote in held.votes}
        assert held.is_disputed == (len(states) > 1)
        assert (key in [(c.study_instance_uid, c.finding) for c in resolve_consensus(labels, policy).conflicts]) == held.is_disputed
        if not held.is_disputed:
            assert states == {held.state}


@given(st.lists(st.sampled_from(LabelState), min_size=1, max_size=5))
def test_a_majority_is_more_than_half_of_the_readers(states: list[LabelState]) -> None:
    votes = [make_label(number, state, READERS[number - 1]) for number, state in enumerate(states, 1)]
    most, count = Counter(states).most_common(1)[0]
    assert resolve_consensus(votes, MAJORITY).by_key["1.1", "Mass"].state is (most if count > len(states) / 2 else MAYBE)


@given(label_lists())
def test_the_fingerprint_covers_present_and_absent_findings_only(labels: list[Label]) -> None:
    resolution = resolve_consensus(labels, NEWEST)
    certain = [one for one in labels if one.state is not MAYBE]
    assert resolution.fingerprint == rules.labels_fingerprint({key: held.state for key, held in resolution.by_key.items()})
    doubted = make_label(len(labels) + 1, MAYBE, "newcomer", study_instance_uid="1.9")
    assert resolve_consensus([*labels, doubted], NEWEST).fingerprint == resolution.fingerprint
    learnt = make_label(len(labels) + 1, YES, "newcomer", study_instance_uid="1.9")
    assert resolve_consensus([*labels, learnt], NEWEST).fingerprint != resolution.fingerprint
    assert (resolution.fingerprint == "") == (not any(held.state is not MAYBE for held in resolution.by_key.values()))
    assert certain or resolution.fingerprint == ""


def test_the_fingerprint_is_stable_across_releases() -> None:
    states = {("1.2", "Mass"): NO, ("1.1", "Edema"): YES, ("1.1", "Mass"): MAYBE}
    assert rules.labels_fingerprint(states) == hashlib.sha256(b"1.1\tEdema\tpresent\n1.2\tMass\tabsent\n").hexdigest()


def test_each_policy_decides_between_two_disagreeing_readers() -> None:
    votes = [make_label(1, YES, "alice"), make_label(2, NO, "bob"), make_label(3, NO, "carl")]
    assert {policy.policy: resolve_consensus(votes, policy).by_key["1.1", "Mass"].state for policy in POLICIES} == {
        "newest": NO,
        "majority": NO,
        "adjudicator": NO,
    }
    (conflict,) = resolve_consensus(votes, NEWEST).conflicts
    assert [(vote.reader, vote.state) for vote in conflict.votes] == [("alice", YES), ("bob", NO), ("carl", NO)]
    even = votes[:2]
    assert [resolve_consensus(even, policy).by_key["1.1", "Mass"].state for policy in POLICIES] == [NO, MAYBE, NO]
    assert resolve_consensus([*votes, make_label(4, YES, "zoe")], ADJUDICATOR).by_key["1.1", "Mass"].state is YES
    assert resolve_consensus([votes[0], votes[2]], ADJUDICATOR).by_key["1.1", "Mass"].state is MAYBE  # no adjudicator has read it


def test_a_readers_vote_is_the_label_with_the_latest_statement_time() -> None:
    votes = [make_label(1, YES, hour=5), make_label(2, NO, hour=3), make_label(3, NO, "bob", hour=4)]
    assert resolve_consensus(votes, NEWEST).by_key["1.1", "Mass"].state is YES  # an old table that comes late is still old
    assert len(resolve_consensus(votes, NEWEST).by_key["1.1", "Mass"].votes) == 2
    assert (
        resolve_consensus([*votes, make_label(4, MAYBE, hour=5)], NEWEST).by_key["1.1", "Mass"].state is MAYBE
    )  # at one moment: the later heard


def test_withdrawing_a_correction_does_not_restore_the_corrected_label() -> None:
    labels = [make_label(1, YES), make_label(2, NO), make_label(3, None, revokes=2)]
    assert labels_in_force(labels) == []
    assert resolve_consensus([*labels, make_label(4, YES)], NEWEST).by_key["1.1", "Mass"].state is YES


def test_targets_of_unlabelled_and_uncertain_findings_are_unknown() -> None:
    labels = [
        make_label(1),
        make_label(2, NO, finding="Edema"),
        make_label(3, MAYBE, finding="Hernia"),
        make_label(4, study_instance_uid="1.2"),
    ]
    labels += [
        replace(make_label(10 + n, state, finding=finding), study_instance_uid="1.3")
        for n, (finding, state) in enumerate(all_absent().items())
    ]
    resolution = resolve_consensus(labels, NEWEST)
    targets = resolution.targets(["1.3", "1.1", "9"])
    assert targets.dtype == np.int8
    assert targets.shape == (3, len(FINDINGS))
    assert (targets[0] == ABSENT).all()
    assert [targets[1, FINDINGS.index(name)] for name in ("Mass", "Edema", "Hernia", "Nodule")] == [
        PRESENT,
        ABSENT,
        UNKNOWN,
        UNKNOWN,
    ]
    assert (targets[2] == UNKNOWN).all()
    assert resolution.studies == ["1.1", "1.2", "1.3"]
    assert resolve_consensus([make_label(1, MAYBE)], NEWEST).studies == []


@pytest.mark.parametrize("policy", POLICIES)
def test_without_labels_the_consensus_is_empty(policy: LabelPolicy) -> None:
    nothing = resolve_consensus([], policy)
    assert (nothing.by_key, nothing.conflicts, nothing.studies, nothing.fingerprint) == ({}, [], [], "")


def test_a_mind_changed_after_the_result_is_not_learnt() -> None:
    blind, seen = make_label(1, YES), make_label(2, NO, exposure=LabelExposure.SEEN)
    assert labels_in_force([blind, seen]) == [seen]
    assert select_blind_labels([blind, seen]) == [blind]
    alone = make_label(3, NO, "bob", exposure=LabelExposure.SEEN)
    assert select_blind_labels([blind, alone]) == [blind, alone]  # the only statement of this reader
    withdrawal = make_label(4, None, revokes=1)
    assert select_blind_labels([blind, seen, withdrawal]) == [blind, seen, withdrawal]
    assert resolve_consensus(select_blind_labels([blind, seen]), NEWEST).by_key["1.1", "Mass"].state is YES


def test_versions_are_measured_on_unexposed_labels_and_withdrawals_still_count() -> None:
    blind, possible = make_label(1, YES), make_label(2, NO, "bob", exposure=LabelExposure.POSSIBLE)
    changed = make_label(3, NO, exposure=LabelExposure.SEEN)
    assert select_unexposed_labels([blind, possible, changed]) == [blind]
    assert resolve_consensus(select_unexposed_labels([blind, possible, changed]), NEWEST).by_key["1.1", "Mass"].state is YES
    withdrawal = make_label(4, None, revokes=1)
    assert resolve_consensus(select_unexposed_labels([blind, possible, withdrawal]), NEWEST).by_key == {}


def test_exposed_labels_weigh_less_where_they_deny_a_finding() -> None:
    weights = ExposureWeights(seen_present=0.9, seen_absent=0.4, possible_absent=0.7)
    found = {
        (state, exposure): weights.weigh(make_label(1, state, exposure=exposure))
        for state in (YES, NO)
        for exposure in LabelExposure
    }
    assert found == {
        (YES, LabelExposure.NONE): 1.0,
        (YES, LabelExposure.POSSIBLE): 1.0,
        (YES, LabelExposure.SEEN): 0.9,
        (NO, LabelExposure.NONE): 1.0,
        (NO, LabelExposure.POSSIBLE): 0.7,
        (NO, LabelExposure.SEEN): 0.4,
    }
