"""The archive scored again by another version: order, restarts, and which studies get another report."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from pipeline import rescore, versions
from pipeline.domain import FINDINGS, Decision, JobKind, JobState, ReportState, Study, StudyState, VersionState
from pipeline.errors import OutOfResources, RefusedByArchive
from pipeline.ports.services import ReportContent
from tests.builders.fakes.models import FakeScorers
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital

SAME, OTHER = dict.fromkeys(FINDINGS, 0.5), dict.fromkeys(FINDINGS, 2.0)  # the film of study 1.1 is bright


@pytest.fixture
def hospital() -> Hospital:
    """Three studies, reported by version 1, the third the newest."""
    made = Hospital()
    for number in (1, 2, 3):
        made.receive(made.film(f"1.{number}", f"1.{number}.1"))
        made.run()
    assert {study.state for study in made.catalog.tables.studies.values()} == {StudyState.REPORTED}
    return made


def promote(hospital: Hospital, number: int = 2, thresholds: dict[str, float] = OTHER) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(number, VersionState.CANDIDATE, thresholds=thresholds))
    versions.promote(number, catalog=hospital.catalog, verify=FakeScorers().load, source="")


def waiting(hospital: Hospital) -> list[str]:
    """Subjects of the score jobs, in the order in which they will be taken."""
    with hospital.catalog.begin() as tx:
        return [job.subject for job in tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=0, limit=99)]


def reports(hospital: Hospital, study: str) -> list[int]:
    return [report.version for report in hospital.catalog.tables.reports.values() if report.study_instance_uid == study]


def scored_by(hospital: Hospital, version: int) -> list[str]:
    return sorted(study for study, number in hospital.catalog.tables.predictions if number == version)


def test_nothing_is_done_while_the_same_version_serves(hospital: Hospital) -> None:
    assert rescore.rescore(catalog=hospital.catalog) == 0
    assert rescore.rescore(catalog=Hospital(serving=False).catalog) == 0


def test_the_newest_study_comes_first_and_arrivals_before_all(hospital: Hospital) -> None:
    promote(hospital)
    assert rescore.rescore(catalog=hospital.catalog) == 3
    assert rescore.rescore(catalog=hospital.catalog) == 0  # they wait already
    hospital.receive(hospital.film("1.9", "1.9.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    assert waiting(hospital) == ["1.9", "1.3", "1.2", "1.1"]


def test_only_so_many_wait_at_a_time(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescore, "MAX_WAITING_JOBS", 2)
    promote(hospital)
    assert rescore.rescore(catalog=hospital.catalog) == 2
    hospital.run()
    assert scored_by(hospital, 2) == ["1.2", "1.3"]
    assert rescore.rescore(catalog=hospital.catalog) == 1
    hospital.run()
    assert rescore.rescore(catalog=hospital.catalog) == 0
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3"]


@pytest.mark.parametrize(
    ("policy", "thresholds", "told"),
    [("all", SAME, True), ("all", OTHER, True), ("changed", SAME, False), ("changed", OTHER, True), ("none", OTHER, False)],
)
def test_who_gets_another_report(
    hospital: Hospital, policy: Literal["all", "changed", "none"], thresholds: dict[str, float], told: bool
) -> None:
    hospital.rescored_studies = policy
    promote(hospital, thresholds=thresholds)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3"]
    assert reports(hospital, "1.1") == ([1, 2] if told else [1])
    if told:
        first, second = [r for r in hospital.catalog.tables.reports.values() if r.study_instance_uid == "1.1"]
        assert second.predecessor == first.sop_instance_uid
    assert hospital.study("1.1") == replace(hospital.study("1.1"), state=StudyState.REPORTED, revision=2)


def test_changed_is_measured_against_what_was_told_last(hospital: Hospital) -> None:
    promote(hospital, 2, SAME)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    promote(hospital, 3, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert reports(hospital, "1.1") == [1, 3]
    assert {p.decision for p in hospital.catalog.tables.predictions["1.1", 3]} == {Decision.ABSENT}


@pytest.mark.parametrize(("policy", "told"), [("all", True), ("changed", True), ("none", False)])
def test_a_study_whose_report_was_refused_is_scored_again_and_told_again(
    hospital: Hospital, policy: Literal["all", "changed", "none"], told: bool
) -> None:
    """What the archive has refused has told nobody anything, so the same decisions are news."""
    hospital.receive(hospital.film("1.4", "1.4.1"))
    hospital.archive.errors = [RefusedByArchive("not this class")]
    hospital.run()
    assert hospital.study("1.4").state is StudyState.SCORED
    hospital.rescored_studies = policy
    promote(hospital, thresholds=SAME)
    assert rescore.rescore(catalog=hospital.catalog) == 4
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3", "1.4"]
    assert reports(hospital, "1.4") == ([1, 2] if told else [1])
    assert hospital.study("1.4").state is (StudyState.REPORTED if told else StudyState.SCORED)
    last = [report for report in hospital.catalog.tables.reports.values() if report.study_instance_uid == "1.4"][-1]
    assert last.predecessor is None
    assert rescore.rescore(catalog=hospital.catalog) == 0


def test_a_report_that_was_never_built_is_made_by_the_next_version(hospital: Hospital) -> None:
    """Its revision is overtaken; the decisions are those that it would have told, and nobody has heard them."""
    promote(hospital, 2, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    hospital.work_once(JobKind.SCORE)
    write = hospital.writer.write
    hospital.writer.write = failing  # type: ignore[method-assign]
    hospital.work_once(JobKind.REPORT)
    hospital.writer.write = write  # type: ignore[method-assign]
    left = [report for report in hospital.catalog.tables.reports.values() if report.state is ReportState.PENDING]
    assert [report.version for report in left] == [2]
    promote(hospital, 3, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    while hospital.work_once(JobKind.SCORE):
        pass
    hospital.run()
    assert reports(hospital, left[0].study_instance_uid) == [1, 2, 3]


def failing(content: ReportContent) -> bytes:
    raise OutOfResources("the disk is full")


def test_a_late_document_leaves_a_study_that_was_scored_again_reported(hospital: Hospital) -> None:
    promote(hospital, thresholds=SAME)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.ARRIVING)
    hospital.catalog.tick(61)
    hospital.settle()
    assert hospital.study("1.1").state is StudyState.REPORTED


def test_a_study_that_cannot_be_read_any_more_is_set_aside_once(hospital: Hospital) -> None:
    hospital.pixels.broken = {"1.2.1"}
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert [job.subject for job in hospital.jobs(JobState.QUARANTINED)] == ["1.2"]
    assert rescore.rescore(catalog=hospital.catalog) == 0
    assert scored_by(hospital, 2) == ["1.1", "1.3"]
    assert hospital.study("1.2").state is StudyState.REPORTED


def test_a_worker_that_dies_loses_nothing(hospital: Hospital) -> None:
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    with hospital.catalog.begin() as tx:
        tx.jobs.claim([JobKind.SCORE], worker="killed", lease_seconds=60, limit=8)
    assert rescore.rescore(catalog=hospital.catalog) == 0
    hospital.catalog.tick(61)
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3"]


def test_a_new_film_is_reported_whatever_is_scored_again(hospital: Hospital) -> None:
    hospital.rescored_studies = "none"
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    hospital.receive(hospital.film("1.1", "1.1.2"))
    hospital.run()
    assert reports(hospital, "1.1") == [1, 2]
    found: Study = hospital.study("1.1")
    assert (found.state, found.revision) == (StudyState.REPORTED, 2)


def test_a_round_looks_at_so_many_studies_and_the_next_one_goes_on_below(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescore, "STUDIES_PER_SPAN", 1)
    monkeypatch.setattr(rescore, "SPANS_PER_ROUND", 2)
    promote(hospital)
    walk = rescore.RescoreCursor()
    assert [rescore.rescore(catalog=hospital.catalog, cursor=walk) for _ in range(3)] == [2, 1, 0]
    assert waiting(hospital) == ["1.3", "1.2", "1.1"]


def test_a_walk_begins_anew_at_its_end_and_with_another_version(hospital: Hospital) -> None:
    promote(hospital)
    walk = rescore.RescoreCursor()
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.SCORED)  # its report is on its way
    assert rescore.rescore(catalog=hospital.catalog, cursor=walk) == 2
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.REPORTED)
    assert rescore.rescore(catalog=hospital.catalog, cursor=walk) == 1
    hospital.run()
    promote(hospital, 3)
    assert rescore.rescore(catalog=hospital.catalog, cursor=walk) == 3
