"""Delivery mode: shadow mode keeps reports, the silent share keeps them for good, and the past is sent only when asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline import stops, withholding
from pipeline.domain import (
    FINDINGS,
    DeliveryMode,
    Header,
    JobKind,
    JobState,
    ReportState,
    StudyState,
    VersionState,
    VisibleKind,
    WithheldReason,
)
from pipeline.errors import PermanentError
from pipeline.rescore import rescore
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import Hospital

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
PATIENTS = [f"patient {number}" for number in range(4000)]


@pytest.fixture
def hospital() -> Hospital:
    made = Hospital()
    made.writer.visible = [VisibleKind.TEXT]
    return made


def films(hospital: Hospital, count: int) -> list[Header]:
    return [hospital.header(f"1.{n}", f"1.{n}.1", patient_id=f"P{n}") for n in range(1, count + 1)]


def resend_since(hospital: Hospital, since: datetime) -> int:
    return withholding.resend_withheld(since=since, source="me", catalog=hospital.catalog, deliver=hospital.deliver)


def serve_another(hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE, thresholds=dict.fromkeys(FINDINGS, 0.999)))
        tx.versions.serve(2)
    rescore(catalog=hospital.catalog)
    hospital.run()


def test_the_draw_has_its_share_and_depends_on_the_key() -> None:
    first, second = ({p for p in PATIENTS if withholding.is_drawn(p, share=0.05, key=key)} for key in (b"one", b"two"))
    assert 140 < len(first) < 260
    assert len(first & second) < 40
    assert first <= {p for p in PATIENTS if withholding.is_drawn(p, share=0.1, key=b"one")}
    assert not any(withholding.is_drawn(p, share=0.0, key=b"one") for p in PATIENTS)
    assert all(withholding.is_drawn(p, share=1.0, key=b"one") for p in PATIENTS)


@pytest.mark.parametrize("deliver", [DeliveryMode.SHADOW, DeliveryMode.NONE])
def test_nothing_leaves_and_everything_is_scored(hospital: Hospital, deliver: DeliveryMode) -> None:
    hospital.deliver = deliver
    for header in films(hospital, 3):
        hospital.receive(header)
    hospital.run()
    tables = hospital.catalog.tables
    assert hospital.archive.kept == []
    assert len(tables.predictions) == 3
    assert {study.state for study in tables.studies.values()} == {StudyState.SCORED}
    assert not hospital.jobs(JobState.WAITING) and not hospital.jobs(JobState.QUARANTINED)
    built = {(report.state, report.withheld) for report in tables.reports.values()}
    assert built == {(ReportState.BUILT if deliver is DeliveryMode.SHADOW else ReportState.PENDING, WithheldReason.SHADOW)}


@pytest.mark.parametrize("before", [DeliveryMode.SHADOW, DeliveryMode.NONE])
def test_the_past_is_sent_only_when_asked_for_and_once(hospital: Hospital, before: DeliveryMode) -> None:
    hospital.deliver = before
    first, second = films(hospital, 2)
    hospital.receive(first)
    hospital.run()
    with pytest.raises(PermanentError, match=before):
        resend_since(hospital, LONG_AGO)
    hospital.deliver = DeliveryMode.ALL
    hospital.receive(second)
    hospital.run()
    assert len(hospital.archive.kept) == 2  # the SR and the text of the second
    assert resend_since(hospital, hospital.catalog.now) == 0
    assert resend_since(hospital, LONG_AGO) == 1
    hospital.run()
    assert len(hospital.archive.kept) == 4
    assert hospital.study("1.1").state is StudyState.REPORTED
    assert resend_since(hospital, LONG_AGO) == 0


def test_another_version_scores_the_past_of_shadow_mode_and_sends_none_of_it(hospital: Hospital) -> None:
    for deliver in (DeliveryMode.SHADOW, DeliveryMode.NONE):
        hospital.deliver = deliver
        hospital.receive(films(hospital, 2)[deliver is DeliveryMode.NONE])
        hospital.run()
    hospital.deliver = DeliveryMode.ALL
    hospital.receive(films(hospital, 3)[2])
    hospital.run()
    serve_another(hospital)
    assert {study for study, version in hospital.catalog.tables.predictions if version == 2} == {"1.1", "1.2", "1.3"}
    sent = {report.study_instance_uid for report in hospital.catalog.tables.reports.values() if report.state is ReportState.SENT}
    assert sent == {"1.3"}
    hospital.receive(hospital.header("1.1", "1.1.2", patient_id="P1"))  # a film of today: its study is told
    hospital.run()
    assert hospital.study("1.1").state is StudyState.REPORTED


def test_a_report_that_waits_is_kept_when_delivery_ends_and_names_no_kept_predecessor(hospital: Hospital) -> None:
    hospital.archive.reachable = False
    hospital.receive(films(hospital, 1)[0])
    hospital.run()
    hospital.deliver, hospital.archive.reachable = DeliveryMode.SHADOW, True
    hospital.catalog.tick(4000)
    hospital.run()
    assert hospital.archive.kept == []
    hospital.deliver = DeliveryMode.ALL
    hospital.receive(hospital.header("1.1", "1.1.2", patient_id="P1"))
    hospital.run()
    reports = list(hospital.catalog.tables.reports.values())
    assert [report.withheld for report in reports] == [WithheldReason.SHADOW, None]
    assert reports[1].predecessor is None


def test_a_withdrawal_leaves_in_shadow_mode(hospital: Hospital) -> None:
    hospital.receive(films(hospital, 1)[0])
    hospital.run()
    hospital.deliver = DeliveryMode.SHADOW
    assert stops.recall(1, reason="wrong", source="me", catalog=hospital.catalog) == 1
    hospital.run()
    assert len(hospital.archive.kept) == 4


def test_the_silent_share_is_recorded_and_never_sent(hospital: Hospital) -> None:
    hospital.silent_share = 0.5
    for header in films(hospital, 8):
        hospital.receive(header)
    hospital.run()
    tables = hospital.catalog.tables
    silent = {uid for uid, study in tables.studies.items() if study.silent}
    assert 0 < len(silent) < 8
    assert silent == {uid for uid, study in tables.studies.items() if study.state is StudyState.SCORED}
    kept = {report.study_instance_uid: report.withheld for report in tables.reports.values() if report.withheld}
    assert kept == dict.fromkeys(silent, WithheldReason.SILENT)
    assert withholding.resend(sorted(silent), catalog=hospital.catalog) == []
    assert resend_since(hospital, LONG_AGO) == 0
    hospital.silent_share = 1.0  # a changed share changes no study that was drawn
    serve_another(hospital)
    assert {uid for uid, study in hospital.catalog.tables.studies.items() if study.silent} == silent
    same_patient = hospital.header("2.1", "2.1.1", patient_id=f"P{sorted(silent)[0].removeprefix('1.')}")
    hospital.silent_share = 0.5
    hospital.receive(same_patient)
    hospital.run()
    assert hospital.study("2.1").silent


def test_a_study_whose_report_was_delivered_is_not_silenced(hospital: Hospital) -> None:
    hospital.receive(films(hospital, 1)[0])
    hospital.run()
    hospital.silent_share = 1.0
    serve_another(hospital)
    assert hospital.study("1.1").silent is False
    assert hospital.jobs(JobState.QUARANTINED) == []
    assert {job.kind for job in hospital.jobs(JobState.DONE)} >= {JobKind.SCORE, JobKind.SEND}


def test_a_study_whose_report_is_about_to_be_delivered_is_not_silenced(hospital: Hospital) -> None:
    hospital.archive.reachable = False
    hospital.receive(films(hospital, 1)[0])
    hospital.run()
    hospital.silent_share, hospital.archive.reachable = 1.0, True
    hospital.receive(hospital.header("1.1", "1.1.2", patient_id="P1"))
    hospital.run()
    assert hospital.study("1.1").silent is False
