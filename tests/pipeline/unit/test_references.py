"""A reference distribution is made once, frozen and numbered; studies scored before get one new revision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline import references, stops
from pipeline.decisions import DecisionPolicy
from pipeline.domain import FINDINGS, Decision, JobKind, NotAssessedReason, Scale, VersionState
from pipeline.errors import PermanentError
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital

POLICY = DecisionPolicy(min_reference_studies=6, priors=dict.fromkeys(FINDINGS, 0.2))


class ZeroShotHospital(Hospital):
    """A hospital whose serving version has learnt nothing."""

    def __init__(self) -> None:
        super().__init__(serving=False)
        self.decision = POLICY
        with self.catalog.begin() as tx:
            tx.versions.add(a_version(scales={}, thresholds={}))

    def take(self, studies: range, **elements: object) -> None:
        for number in studies:
            uid = f"1.{number}"
            self.receive(self.header(uid, f"{uid}.1", patient_id=f"P{number}", **elements))
        self.run()

    def decisions_of(self, uid: str, version: int = 1) -> set[Decision]:
        return {one.decision for one in self.catalog.tables.predictions[uid, version]}

    def follow(self) -> None:
        references.follow(catalog=self.catalog, policy=POLICY)
        self.run()


@pytest.fixture
def hospital() -> Iterator[ZeroShotHospital]:
    yield ZeroShotHospital()


def test_before_enough_studies_nothing_is_assessed_and_then_every_study_gets_one_new_revision(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 6))
    hospital.follow()
    assert hospital.decisions_of("1.1") == {Decision.NOT_ASSESSED}
    assert hospital.catalog.tables.references == {}
    hospital.take(range(6, 9))
    hospital.follow()
    assert [one.studies for one in hospital.catalog.tables.references.values()] == [8]
    for number in range(1, 9):
        assert Decision.NOT_ASSESSED not in hospital.decisions_of(f"1.{number}")
        assert hospital.study(f"1.{number}").revision == 2
    hospital.follow()
    assert hospital.study("1.1").revision == 2
    reports = [one for one in hospital.catalog.tables.reports.values() if one.study_instance_uid == "1.1"]
    assert [one.revision for one in reports] == [1, 2]


def test_a_distribution_never_follows_the_archive_and_predictions_name_theirs(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 9))
    hospital.follow()
    before = hospital.catalog.tables.references[1].scores[""].copy()
    hospital.take(range(9, 20))
    hospital.follow()
    assert list(hospital.catalog.tables.references) == [1]
    assert (hospital.catalog.tables.references[1].scores[""] == before).all()
    again = references.make(catalog=hospital.catalog, policy=POLICY, source="alice")
    assert again is not None
    assert (again.number, again.studies) == (2, 19)
    hospital.take(range(20, 21))
    named = [{p.reference for p in hospital.catalog.tables.predictions[uid, 1]} for uid in ("1.19", "1.20")]
    assert named == [{1}, {2}]


def test_a_view_has_ranks_of_its_own_where_it_has_enough_studies(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 7))
    hospital.take(range(7, 10), view_position="AP")
    hospital.follow()
    assert {view: len(of) for view, of in hospital.catalog.tables.references[1].scores.items()} == {"": 9, "PA": 6}


def test_too_few_studies_and_a_version_without_ranks_are_refused(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 4))
    with pytest.raises(PermanentError, match="3 studies scored"):
        references.make(catalog=hospital.catalog, policy=POLICY)
    hospital.catalog.tables.versions[1] = a_version()
    with pytest.raises(PermanentError, match="tells no finding as a rank"):
        references.make(catalog=hospital.catalog, policy=POLICY)


def test_a_learnt_version_keeps_the_ranks_of_the_others_under_a_number_of_its_own(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 9))
    hospital.follow()
    learnt = a_version(2, VersionState.CANDIDATE, scales={"Mass": Scale.PROBABILITY})
    with hospital.catalog.begin() as tx:
        tx.versions.add(learnt)
        tx.versions.serve(2)
    hospital.take(range(9, 10))
    predicted = {one.finding: one for one in hospital.catalog.tables.predictions["1.9", 2]}
    assert predicted.pop("Mass").reference is None
    assert {one.reference for one in predicted.values()} == {2}
    assert hospital.catalog.tables.references[2].version == 2
    assert references.load_current(replace(learnt, number=3, base="another"), catalog=hospital.catalog) is None


def test_a_child_is_scored_and_not_assessed(hospital: ZeroShotHospital) -> None:
    hospital.take(range(1, 9))
    hospital.follow()
    hospital.take(range(9, 10), patient_age="007Y")
    child = hospital.catalog.tables.predictions["1.9", 1]
    assert {one.reason for one in child} == {NotAssessedReason.AGE}
    assert all(one.score >= 0 for one in child)


def test_a_stopped_finding_is_told_by_no_report_built_or_sent_after_the_stop() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    hospital.work_once(JobKind.SCORE)
    hospital.work_once(JobKind.REPORT)  # built, not sent
    stops.stop("Mass", reason="wrong on the new scanner", source="alice", catalog=hospital.catalog)
    hospital.run()
    (first, second) = hospital.catalog.tables.reports.values()
    assert [first.state.value, second.state.value] == ["built", "sent"]
    (told,) = [content for content in hospital.writer.written if content.report.revision == 2]
    assert told.statement.of("Mass").reason is NotAssessedReason.STOPPED
    assert {p.finding for p in hospital.catalog.tables.predictions["1.1", 1] if p.reason} == {"Mass"}
    with pytest.raises(PermanentError, match="stopped already"):
        stops.stop("Mass", reason="again", source="alice", catalog=hospital.catalog)
    stops.resume("Mass", source="alice", catalog=hospital.catalog)
    hospital.receive(hospital.header("1.2", "1.2.1"))
    hospital.run()
    assert not any(p.reason for p in hospital.catalog.tables.predictions["1.2", 1])


def test_while_all_are_stopped_nothing_leaves_and_a_recall_does() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    stops.stop("", reason="shown wrongly", source="alice", catalog=hospital.catalog)
    hospital.receive(hospital.header("1.2", "1.2.1"))
    hospital.run()
    assert len(hospital.archive.kept) == 1
    assert stops.recall(1, reason="shown wrongly", source="alice", catalog=hospital.catalog) == 1
    hospital.run()
    assert len(hospital.archive.kept) == 2
    newest = list(hospital.catalog.tables.reports.values())[-1]
    assert (newest.withdrawal, newest.revision, newest.state.value) == ("shown wrongly", 2, "sent")
    assert newest.predecessor is not None
    assert stops.recall(1, reason="again", source="alice", catalog=hospital.catalog) == 0
    stops.resume("", source="alice", catalog=hospital.catalog)
    hospital.catalog.tick(30)
    hospital.run()
    assert len(hospital.archive.kept) == 3
