"""Documents with labels, on fakes: from their arrival to the labels in the catalog."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import labels, rules
from pipeline.consensus import labels_in_force
from pipeline.domain import (
    Document,
    Header,
    JobKind,
    JobState,
    Label,
    LabelState,
    ReaderStatement,
    Receipt,
    Report,
    ReportState,
    StudyState,
)
from pipeline.errors import TransientError
from tests.builders.hospital_in_memory import Hospital

YES, NO, MAYBE = LabelState
SR = rules.STRUCTURED_REPORT_FAMILY + "34"


class ReportingHospital(Hospital):
    """A hospital whose readers write reports."""

    def report(self, uid: str, findings: dict[str, LabelState] | None = None, *, study: str = "1.1", **changes: Any) -> Header:
        """Make a report with this UID that states these findings (None: none, with a reason)."""
        replaces = changes.pop("replaces", ())
        values: dict[str, Any] = {"reader": "alice", "source": "sr", "stated_at": self.catalog.now, "study_instance_uid": study}
        reading = ReaderStatement(findings=findings or {}, **(values | changes))
        document = Document(readings=(reading,), replaces=replaces) if findings else Document(reason="a device")
        self.documents.said[uid.encode()] = document
        return self.header(study=study, sop=uid, sop_class_uid=SR, modality="SR", has_pixels=False)

    def receive_report(self, uid: str, findings: dict[str, LabelState] | None = None, **changes: Any) -> Receipt:
        return self.receive(self.report(uid, findings, **changes))

    def read_reports(self) -> None:
        while self.work_once(JobKind.LABEL):
            pass

    @property
    def labels(self) -> list[Label]:
        return list(self.catalog.tables.labels)

    @property
    def states(self) -> dict[tuple[str, str], LabelState | None]:
        return {(label.reader, label.finding): label.state for label in labels_in_force(self.labels)}

    @property
    def label_events(self) -> list[tuple[str, str, str]]:
        return [(event.outcome, event.subject, event.detail) for event in self.catalog.tables.audit if event.action == "label"]


@pytest.fixture
def hospital() -> ReportingHospital:
    made = ReportingHospital()
    made.receive(made.header())
    made.catalog.tick(86400)
    return made


def test_a_worker_reads_labels_from_a_report_after_the_sender_got_success(hospital: ReportingHospital) -> None:
    assert hospital.receive_report("2.25.1", {"Mass": YES, "Edema": NO}) is Receipt.STORED
    assert hospital.labels == []  # the sender got Success, and the report is not parsed yet
    hospital.read_reports()
    assert hospital.states == {("alice", "Mass"): YES, ("alice", "Edema"): NO}
    assert {label.document for label in hospital.labels} == {"2.25.1"}
    assert hospital.label_events == [("done", "2.25.1", "2 labels added, 0 of earlier versions revoked")]
    assert hospital.study().state is StudyState.ARRIVING  # a report does not change the images to score


def test_reading_the_same_report_again_adds_no_label(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    hospital.read_reports()
    assert hospital.receive_report("2.25.1", {"Mass": YES}) is Receipt.DUPLICATE
    assert labels.enqueue_documents(catalog=hospital.catalog) == 1
    hospital.read_reports()
    assert len(hospital.labels) == 1
    labels.withdraw([1], reader="alice", source="cli", catalog=hospital.catalog)
    labels.enqueue_documents(catalog=hospital.catalog)
    hospital.read_reports()
    assert hospital.states == {}  # a withdrawn label is not added again


def test_a_report_without_labels_is_audited_once_with_the_reason(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1")
    hospital.read_reports()
    hospital.read_reports()
    assert hospital.label_events == [("refused", "2.25.1", "a device")]
    assert hospital.labels == []


def test_own_reports_are_not_queued_for_labels(hospital: ReportingHospital) -> None:
    own = hospital.header(sop="2.25.5", sop_class_uid=SR, manufacturer_model_name=rules.OWN_MODEL_NAME)
    hospital.documents.said[b"2.25.5"] = Document(readings=(ReaderStatement(findings={"Mass": YES}, reader="r", source="sr"),))
    assert hospital.receive(own) is Receipt.OWN_REPORT
    rewritten = hospital.header(sop="2.25.6", sop_class_uid=SR, manufacturer_model_name="Some PACS")
    with hospital.catalog.begin() as tx:
        tx.reports.ensure_pending(
            Report(
                sop_instance_uid="2.25.6",
                series_instance_uid="2.25.7",
                study_instance_uid="1.1",
                version=1,
                revision=1,
                state=ReportState.SENT,
            )
        )
    assert hospital.receive(rewritten) is Receipt.OWN_REPORT
    assert labels.enqueue_documents(catalog=hospital.catalog) == 2
    hospital.read_reports()
    assert (hospital.labels, hospital.label_events) == ([], [])


def test_no_document_is_queued_where_reading_documents_is_off(hospital: ReportingHospital) -> None:
    hospital.reads_documents = False
    hospital.receive_report("2.25.1", {"Mass": YES})
    assert [job.kind for job in hospital.jobs(JobState.WAITING)] == []


@pytest.mark.parametrize("later_first", [False, True])
def test_a_later_document_version_replaces_the_earlier_one_in_either_order_of_arrival(
    hospital: ReportingHospital, later_first: bool
) -> None:
    versions: list[dict[str, Any]] = [
        {"uid": "2.25.1", "findings": {"Mass": YES, "Edema": YES}},
        {"uid": "2.25.2", "findings": {"Mass": NO}, "replaces": ("2.25.1",), "reader": "bob"},
    ]
    for version in reversed(versions) if later_first else versions:
        hospital.receive_report(**version)
        hospital.read_reports()
    assert hospital.states == {("bob", "Mass"): NO}
    if later_first:
        assert hospital.label_events[-1] == ("refused", "2.25.1", "document 2.25.2 is a later version of it")
    else:
        assert hospital.label_events[-1] == ("done", "2.25.2", "1 labels added, 2 of earlier versions revoked")


def test_a_later_document_version_wins_despite_an_earlier_date(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    hospital.receive_report("2.25.2", {"Mass": NO}, replaces=("2.25.1",), stated_at=hospital.catalog.now - timedelta(days=9))
    hospital.read_reports()
    assert hospital.states == {("alice", "Mass"): NO}


def test_a_report_by_a_device_does_not_replace_its_predecessors_labels(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    hospital.receive(hospital.report("2.25.2"))
    hospital.documents.said[b"2.25.2"] = Document(reason="a device", replaces=("2.25.1",))
    hospital.read_reports()
    assert hospital.states == {("alice", "Mass"): YES}


def test_a_statement_from_a_clock_that_runs_ahead_can_be_superseded(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES}, stated_at=hospital.catalog.now + timedelta(days=4000))
    hospital.read_reports()
    assert hospital.labels[0].stated_at == hospital.catalog.now
    hospital.catalog.tick(60)
    hospital.receive_report("2.25.2", {"Mass": NO})
    hospital.read_reports()
    assert hospital.states == {("alice", "Mass"): NO}


def test_a_reading_of_an_unknown_study_is_left_out(hospital: ReportingHospital) -> None:
    readings = tuple(
        ReaderStatement(study_instance_uid=uid, findings={"Mass": YES}, reader="r", source="sr") for uid in ("1.1", "9.9")
    )
    hospital.receive(hospital.report("2.25.1"))
    hospital.documents.said[b"2.25.1"] = Document(readings=readings)
    hospital.read_reports()
    assert [label.study_instance_uid for label in hospital.labels] == ["1.1"]
    hospital.receive(hospital.report("2.25.2"))
    hospital.documents.said[b"2.25.2"] = Document(readings=readings[1:])
    hospital.read_reports()
    assert hospital.label_events[-1] == ("refused", "2.25.2", "speaks of no study in the catalog")


def test_a_document_that_arrives_during_the_reading_of_another_causes_a_retry(
    hospital: ReportingHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    read = hospital.images.read

    def receive_then_read(file: Any) -> bytes:
        if "2.25.2" not in hospital.catalog.tables.instances:
            hospital.receive_report("2.25.2", {"Mass": NO}, replaces=("2.25.1",))
        return read(file)

    monkeypatch.setattr(hospital.images, "read", receive_then_read)
    with hospital.catalog.begin() as tx:
        (job,) = tx.jobs.claim([JobKind.LABEL], worker="w", lease_seconds=60)
    with pytest.raises(TransientError, match="came in between"):
        hospital._read_document(job)
    assert hospital.labels == []
    hospital._read_document(job)
    assert hospital.label_events == [("refused", "2.25.1", "document 2.25.2 is a later version of it")]


def test_a_lost_file_fails_only_the_job_of_its_own_document(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    hospital.receive_report("2.25.2", {"Mass": NO}, reader="bob")
    hospital.images.files = {key: content for key, content in hospital.images.files.items() if content != b"2.25.1"}
    hospital.read_reports()
    assert hospital.states == {("bob", "Mass"): NO}
    assert [job.subject for job in hospital.jobs(JobState.QUARANTINED)] == ["2.25.1"]


def test_a_failed_commit_stores_no_label_and_is_retried(hospital: ReportingHospital) -> None:
    hospital.receive_report("2.25.1", {"Mass": YES})
    with hospital.catalog.begin() as tx:
        (job,) = tx.jobs.claim([JobKind.LABEL], worker="w", lease_seconds=60)
    hospital.catalog.fail_next_commit = RuntimeError("power cut")
    with pytest.raises(RuntimeError):
        hospital._read_document(job)
    assert (hospital.labels, hospital.label_events) == ([], [])
    hospital.catalog.tick(61)  # the lease expires
    hospital.read_reports()
    assert (len(hospital.labels), len(hospital.label_events)) == (1, 1)
