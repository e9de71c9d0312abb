"""The archive rescored by another version: order, restarts, and the studies that get another report."""

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

SAME, OTHER = dict.fromkeys(FINDINGS, 0.5), dict.fromkeys(FINDINGS, 2.0)  # the image of study 1.1 is bright


@pytest.fixture
def hospital() -> Hospital:
    """Three studies, reported by version 1, the third the newest."""
    made = Hospital()
    for number in (1, 2, 3):
        made.receive(made.header(f"1.{number}", f"1.{number}.1"))
        made.run()
    assert {study.state for study in made.catalog.tables.studies.values()} == {StudyState.REPORTED}
    return made


def promote(hospital: Hospital, number: int = 2, thresholds: dict[str, float] = OTHER) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(number, VersionState.CANDIDATE, thresholds=thresholds))
    versions.promote(number, catalog=hospital.catalog, verify=FakeScorers().load, source="")


def claimable_subjects(hospital: Hospital) -> list[str]:
    """Subjects of the score jobs, in the order of their claims."""
    with hospital.catalog.begin() as tx:
        return [job.subject for job in tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=0, limit=99)]


def reporting_versions(hospital: Hospital, study: str) -> list[int]:
    return [report.version for report in hospital.catalog.tables.reports.values() if report.study_instance_uid == study]


def scored_by(hospital: Hospital, version: int) -> list[str]:
    return sorted(study for study, number in hospital.catalog.tables.predictions if number == version)


def test_no_study_is_rescored_while_the_same_version_serves(hospital: Hospital) -> None:
    assert rescore.rescore(catalog=hospital.catalog) == 0
    assert rescore.rescore(catalog=Hospital(serving=False).catalog) == 0


def test_rescoring_starts_with_the_newest_study_and_runs_after_arrivals(hospital: Hospital) -> None:
    promote(hospital)
    assert rescore.rescore(catalog=hospital.catalog) == 3
    assert rescore.rescore(catalog=hospital.catalog) == 0  # they are enqueued already
    hospital.receive(hospital.header("1.9", "1.9.1"))
    hospital.catalog.tick(61)
    hospital.settle()
    assert claimable_subjects(hospital) == ["1.9", "1.3", "1.2", "1.1"]


def test_the_number_of_waiting_rescore_jobs_is_limited(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
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
    ("policy", "thresholds", "reported"),
    [("all", SAME, True), ("all", OTHER, True), ("changed", SAME, False), ("changed", OTHER, True), ("none", OTHER, False)],
)
def test_the_policy_decides_which_rescored_studies_are_reported_again(
    hospital: Hospital, policy: Literal["all", "changed", "none"], thresholds: dict[str, float], reported: bool
) -> None:
    hospital.rescored_studies = policy
    promote(hospital, thresholds=thresholds)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3"]
    assert reporting_versions(hospital, "1.1") == ([1, 2] if reported else [1])
    if reported:
        first, second = [r for r in hospital.catalog.tables.reports.values() if r.study_instance_uid == "1.1"]
        assert second.predecessor == first.sop_instance_uid
    assert hospital.study("1.1") == replace(hospital.study("1.1"), state=StudyState.REPORTED, revision=2)


def test_changed_compares_with_the_decisions_of_the_last_report(hospital: Hospital) -> None:
    promote(hospital, 2, SAME)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    promote(hospital, 3, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert reporting_versions(hospital, "1.1") == [1, 3]
    assert {p.decision for p in hospital.catalog.tables.predictions["1.1", 3]} == {Decision.ABSENT}


@pytest.mark.parametrize(("policy", "reported"), [("all", True), ("changed", True), ("none", False)])
def test_a_study_with_a_refused_report_is_rescored_and_reported_again(
    hospital: Hospital, policy: Literal["all", "changed", "none"], reported: bool
) -> None:
    """A refused report reached no reader, so it counts as not reported, and the same decisions are reported."""
    hospital.receive(hospital.header("1.4", "1.4.1"))
    hospital.archive.errors = [RefusedByArchive("not this class")]
    hospital.run()
    assert hospital.study("1.4").state is StudyState.SCORED
    hospital.rescored_studies = policy
    promote(hospital, thresholds=SAME)
    assert rescore.rescore(catalog=hospital.catalog) == 4
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3", "1.4"]
    assert reporting_versions(hospital, "1.4") == ([1, 2] if reported else [1])
    assert hospital.study("1.4").state is (StudyState.REPORTED if reported else StudyState.SCORED)
    last = [report for report in hospital.catalog.tables.reports.values() if report.study_instance_uid == "1.4"][-1]
    assert last.predecessor is None
    assert rescore.rescore(catalog=hospital.catalog) == 0


def test_a_report_that_was_never_built_is_built_by_the_next_version(hospital: Hospital) -> None:
    """The next version has a newer revision with the same decisions; a report that was never built counts as not reported."""
    promote(hospital, 2, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    hospital.work_once(JobKind.SCORE)
    write = hospital.writer.write
    hospital.writer.write = raise_disk_full  # type: ignore[method-assign]
    hospital.work_once(JobKind.REPORT)
    hospital.writer.write = write  # type: ignore[method-assign]
    pending = [report for report in hospital.catalog.tables.reports.values() if report.state is ReportState.PENDING]
    assert [report.version for report in pending] == [2]
    promote(hospital, 3, OTHER)
    rescore.rescore(catalog=hospital.catalog)
    while hospital.work_once(JobKind.SCORE):
        pass
    hospital.run()
    assert reporting_versions(hospital, pending[0].study_instance_uid) == [1, 2, 3]


def raise_disk_full(content: ReportContent) -> bytes:
    raise OutOfResources("the disk is full")


def test_a_late_document_leaves_a_rescored_study_reported(hospital: Hospital) -> None:
    promote(hospital, thresholds=SAME)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.ARRIVING)
    hospital.catalog.tick(61)
    hospital.settle()
    assert hospital.study("1.1").state is StudyState.REPORTED


def test_a_study_with_lost_pixels_is_quarantined_once(hospital: Hospital) -> None:
    hospital.pixels.broken = {"1.2.1"}
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    hospital.run()
    assert [job.subject for job in hospital.jobs(JobState.QUARANTINED)] == ["1.2"]
    assert rescore.rescore(catalog=hospital.catalog) == 0
    assert scored_by(hospital, 2) == ["1.1", "1.3"]
    assert hospital.study("1.2").state is StudyState.REPORTED


def test_rescoring_survives_the_death_of_a_worker(hospital: Hospital) -> None:
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    with hospital.catalog.begin() as tx:
        tx.jobs.claim([JobKind.SCORE], worker="killed", lease_seconds=60, limit=8)
    assert rescore.rescore(catalog=hospital.catalog) == 0
    hospital.catalog.tick(61)
    hospital.run()
    assert scored_by(hospital, 2) == ["1.1", "1.2", "1.3"]


def test_a_new_image_is_reported_whatever_the_rescore_policy(hospital: Hospital) -> None:
    hospital.rescored_studies = "none"
    promote(hospital)
    rescore.rescore(catalog=hospital.catalog)
    hospital.receive(hospital.header("1.1", "1.1.2"))
    hospital.run()
    assert reporting_versions(hospital, "1.1") == [1, 2]
    found: Study = hospital.study("1.1")
    assert (found.state, found.revision) == (StudyState.REPORTED, 2)


def test_a_round_visits_a_limited_number_of_studies_and_the_next_round_resumes_below(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescore, "STUDIES_PER_SPAN", 1)
    monkeypatch.setattr(rescore, "SPANS_PER_ROUND", 2)
    promote(hospital)
    cursor = rescore.RescoreCursor()
    assert [rescore.rescore(catalog=hospital.catalog, cursor=cursor) for _ in range(3)] == [2, 1, 0]
    assert claimable_subjects(hospital) == ["1.3", "1.2", "1.1"]


def test_the_walk_restarts_after_the_oldest_study_and_with_another_version(hospital: Hospital) -> None:
    promote(hospital)
    cursor = rescore.RescoreCursor()
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.SCORED)  # its report is not sent yet
    assert rescore.rescore(catalog=hospital.catalog, cursor=cursor) == 2
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.REPORTED)
    assert rescore.rescore(catalog=hospital.catalog, cursor=cursor) == 1
    hospital.run()
    promote(hospital, 3)
    assert rescore.rescore(catalog=hospital.catalog, cursor=cursor) == 3
