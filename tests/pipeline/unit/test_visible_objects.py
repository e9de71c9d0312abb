"""Visible objects of a report: rows, delivery, predecessors, and what happens when they come back."""

from __future__ import annotations

import pytest

from pipeline import rules, withholding
from pipeline.domain import JobKind, JobState, Receipt, ReportState, StudyState, VisibleKind, VisibleObject
from pipeline.errors import OutOfResources, RefusedByArchive
from tests.builders.hospital_in_memory import Hospital

TEXT_AND_CARD = [VisibleKind.TEXT, VisibleKind.CARD]


@pytest.fixture
def hospital() -> Hospital:
    made = Hospital()
    made.writer.visible = list(TEXT_AND_CARD)
    return made


def visible_of(hospital: Hospital, uid: str = "1.1.1.1") -> list[VisibleObject]:
    with hospital.catalog.read() as tx:
        return tx.reports.visible_objects(uid)


def test_each_object_reaches_the_archive_and_the_study_is_reported_after_the_last(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    for kind in (JobKind.SCORE, JobKind.REPORT):
        assert hospital.work_once(kind) == 1
    assert sorted(job.subject for job in hospital.jobs(JobState.WAITING)) == ["1.1.1.1", "1.1.1.1.1", "1.1.1.1.2"]
    for _ in range(3):
        assert hospital.study().state is StudyState.SCORED
        assert hospital.work_once(JobKind.SEND) == 1
    assert hospital.study().state is StudyState.REPORTED
    assert [one.state for one in visible_of(hospital)] == [ReportState.SENT] * 2
    assert [one.kind for one in visible_of(hospital)] == TEXT_AND_CARD


def test_an_object_that_the_archive_refuses_holds_back_no_other(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.archive.errors = [RefusedByArchive("0x0122 SOP class not supported")]
    hospital.writer.visible = [VisibleKind.TEXT]
    hospital.run()
    (text,) = visible_of(hospital)
    with hospital.catalog.read() as tx:
        sr = tx.reports.find("1.1.1.1")
    assert sr is not None
    assert sorted([text.state, sr.state]) == [ReportState.REFUSED, ReportState.SENT]
    assert len(hospital.archive.kept) == 1
    assert (hospital.study().state is StudyState.REPORTED) == (sr.state is ReportState.SENT)


@pytest.mark.parametrize("first", [True, False], ids=["the text is answered first", "the SR is answered first"])
def test_a_study_whose_text_is_refused_is_reported_all_the_same(first: bool) -> None:
    hospital = Hospital()
    hospital.writer.visible = [VisibleKind.TEXT]
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    for kind in (JobKind.SCORE, JobKind.REPORT):
        assert hospital.work_once(kind) == 1
    refuse = RefusedByArchive("0x0122 SOP class not supported")
    store = hospital.archive.store
    hospital.archive.store = lambda content: _refuse_text(content, refuse, store)  # type: ignore[method-assign]  # delegates
    with hospital.catalog.begin() as tx:
        jobs = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=60, limit=2)
    for job in sorted(jobs, key=lambda job: job.subject, reverse=first):
        try:
            hospital._send(job)
        except RefusedByArchive:
            assert job.subject == "1.1.1.1.1"
    assert hospital.study().state is StudyState.REPORTED


def _refuse_text(content: bytes, refusal: Exception, store: object) -> str:
    if content.startswith(b"text"):
        raise refusal
    return str(store(content))  # type: ignore[operator]  # the fake's own method


def test_a_second_revision_names_the_objects_of_the_first(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.run()
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.run()
    assert [one.predecessor for one in visible_of(hospital, "1.1.1.2")] == ["1.1.1.1.1", "1.1.1.1.2"]
    assert b"text 1.1.1.2.1 follows 1.1.1.1.1" in hospital.archive.kept


def test_an_object_that_is_new_in_the_configuration_has_no_predecessor(hospital: Hospital) -> None:
    hospital.writer.visible = [VisibleKind.TEXT]
    hospital.receive(hospital.header())
    hospital.run()
    hospital.writer.visible = list(TEXT_AND_CARD)
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.run()
    assert [one.predecessor for one in visible_of(hospital, "1.1.1.2")] == ["1.1.1.1.1", None]
    assert hospital.study().state is StudyState.REPORTED


def test_a_predecessor_that_was_refused_is_passed_over(hospital: Hospital) -> None:
    for sop in ("1.1.1", "1.1.2", "1.1.3"):
        hospital.receive(hospital.header(sop=sop))
        hospital.run()
        if sop == "1.1.2":
            with hospital.catalog.begin() as tx:
                tx.reports.mark_refused("1.1.1.2.1", "0x0122")
    assert [one.predecessor for one in visible_of(hospital, "1.1.1.3")] == ["1.1.1.1.1", "1.1.1.2.2"]


def test_the_files_are_durable_together_or_not_at_all(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    hospital.work_once(JobKind.SCORE)
    hospital.writer.write_visible = _raise_full  # type: ignore[method-assign,assignment]  # the disk is full at the second file
    hospital.work_once(JobKind.REPORT)
    with hospital.catalog.read() as tx:
        sr = tx.reports.find("1.1.1.1")
    assert sr is not None
    assert [sr.state, *(one.state for one in visible_of(hospital))] == [ReportState.PENDING] * 3
    assert not [job for job in hospital.jobs(JobState.WAITING) if job.kind is JobKind.SEND]


def _raise_full(*_: object) -> bytes:
    raise OutOfResources("no space")


def test_a_resent_report_takes_its_objects_along(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.run()
    assert withholding.resend(["1.1"], catalog=hospital.catalog) == ["1.1.1.1"]
    hospital.run()
    assert len(hospital.archive.kept) == 6


@pytest.mark.parametrize("maker", [rules.OWN_MODEL_NAME, "", "Broker 2000"])
@pytest.mark.parametrize("modality", ["OT", "DX"])
def test_a_card_that_comes_back_is_neither_scored_nor_read(hospital: Hospital, maker: str, modality: str) -> None:
    """By its equipment, or by its UID where the archive has changed the equipment."""
    hospital.receive(hospital.header())
    hospital.run()
    hospital.pixels.asked.clear()
    card = hospital.header(sop="1.1.1.1.2", sop_class_uid=rules.SECONDARY_CAPTURE, modality=modality, manufacturer_model_name=maker)
    assert hospital.receive(card) is Receipt.OWN_REPORT
    hospital.receive(hospital.header(sop="1.1.9"))  # a late image: the study is scored again, the card is not
    hospital.run()
    assert hospital.pixels.asked == ["1.1.9"]
    assert {image.header.sop_instance_uid for image in hospital.writer.written[-1].evidence} == {"1.1.1", "1.1.9"}


def test_a_text_that_comes_back_is_not_read_for_labels(hospital: Hospital) -> None:
    hospital.receive(hospital.header())
    hospital.run()
    text = hospital.header(sop="1.1.1.1.1", sop_class_uid=rules.STRUCTURED_REPORT_FAMILY + "11", modality="SR")
    assert hospital.receive(text) is Receipt.OWN_REPORT
    assert not [job for job in hospital.jobs(JobState.WAITING) if job.kind is JobKind.LABEL]
    assert hospital.study().state is StudyState.REPORTED


def test_a_secondary_capture_of_another_maker_is_still_a_radiograph(hospital: Hospital) -> None:
    film = hospital.header(sop_class_uid=rules.SECONDARY_CAPTURE)
    assert hospital.receive(film) is Receipt.STORED
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
