"""The same instance again, changed: revisions and conflicts, on fakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.conflicts import resolve_conflict
from pipeline.domain import (
    FINDINGS,
    ConflictResolution,
    Header,
    InstanceDifference,
    InstanceState,
    LabelState,
    ReaderStatement,
    Receipt,
    StoredFile,
    StudyState,
)
from pipeline.errors import DifferentInstance, PermanentError
from pipeline.labels import import_readings
from pipeline.ports.services import IncomingFile
from pipeline.receive import MAX_CONFLICTS, InstanceReceiver, ReceivePolicy
from tests.builders.hospital_in_memory import SENDER, Hospital

UID = "1.1.1"


class FakeComparison:
    """ports.services.InstanceComparison: the difference that it was given."""

    def __init__(self) -> None:
        self.difference: InstanceDifference | None = InstanceDifference("another value of PatientID")
        self.digests: dict[str, str] = {}
        self.asked = 0

    def compare(self, stored: StoredFile, incoming: IncomingFile) -> InstanceDifference | None:
        assert stored != incoming.file
        self.asked += 1
        return self.difference

    def digest(self, file: StoredFile | IncomingFile) -> str:
        stored = file if isinstance(file, StoredFile) else file.file
        return self.digests.get(stored.sha256, "")


class Reception:
    """A hospital that compares what it receives."""

    def __init__(self, *, keep_conflicts: bool = False) -> None:
        self.hospital, self.comparison = Hospital(), FakeComparison()
        self.receiver = InstanceReceiver(
            catalog=self.hospital.catalog,
            images=self.hospital.images,
            policy=ReceivePolicy(min_free_bytes=0, keep_conflicts=keep_conflicts),
            comparison=self.comparison,
        )

    def receive(self, content: bytes, header: Header | None = None) -> Receipt:
        incoming = self.receiver.open_incoming()
        incoming.write(content)
        try:
            return self.receiver.receive(header or self.hospital.header(), incoming, SENDER)
        finally:
            incoming.discard()

    @property
    def files(self) -> list[bytes]:
        return list(self.hospital.images.files.values())

    @property
    def events(self) -> list[str]:
        return [event.detail for event in self.hospital.catalog.tables.audit if event.action == "receive"]


def test_the_stored_instance_in_another_encoding_is_success_recorded_and_not_kept() -> None:
    reception = Reception()
    reception.comparison.difference = InstanceDifference("transfer syntax 1.2 instead of 1.3", is_encoding_only=True)
    assert [reception.receive(b"first"), reception.receive(b"first")] == [Receipt.STORED, Receipt.DUPLICATE]
    assert reception.comparison.asked == 0  # an identical file is not compared
    assert reception.receive(b"second") is Receipt.SAME_INSTANCE
    assert reception.files == [b"first"]
    assert "transfer syntax 1.2 instead of 1.3" in reception.events[0]


def test_a_corrected_patient_is_accepted_and_study_and_split_of_learning_follow() -> None:
    reception = Reception()
    hospital = reception.hospital
    reception.receive(b"first", hospital.header(accession_number="A1"))
    hospital.run()
    import_readings(
        [ReaderStatement(study_instance_uid="1.1", findings={"Mass": LabelState.PRESENT}, reader="alice", source="csv")],
        catalog=hospital.catalog,
    )
    before = hospital.study()
    predictions = dict(hospital.catalog.tables.predictions)
    corrected = hospital.header(patient_id="P2", accession_number="A2")
    assert reception.receive(b"second", corrected) is Receipt.REVISED
    study = hospital.study()
    assert (before.patient_key, study.patient_key) == ("P1\\", "P2\\")
    assert (study.accession_number, study.state, study.revision, study.instances) == ("A2", before.state, before.revision, 1)
    assert hospital.catalog.tables.predictions == predictions
    assert [label.finding for label in hospital.catalog.tables.labels] == ["Mass"]
    assert sorted(reception.files)[:1] == [b"SR 1.1.1.1 1"]
    assert {b"first", b"second"} <= set(reception.files)  # the old file until retention
    assert reception.events == ["revision 1 of the instance: another value of PatientID; the study belongs to another patient now"]
    with hospital.catalog.read() as tx:
        assert tx.studies.patient_keys(["1.1"]) == {"1.1": "P2\\"}
    assert reception.receive(b"second", corrected) is Receipt.DUPLICATE


def test_a_correction_that_is_taken_back_is_followed_too_and_keeps_two_files() -> None:
    reception = Reception()
    headers = [reception.hospital.header(patient_id=patient) for patient in ("P1", "P2")]
    assert reception.receive(b"0", headers[0]) is Receipt.STORED
    for round_ in range(1, 5):
        assert reception.receive(str(round_ % 2).encode(), headers[round_ % 2]) is Receipt.REVISED
    assert reception.hospital.study().patient_key == "P1\\"
    assert [len(files) for files in reception.hospital.catalog.tables.former_files.values()] == [1]
    assert sorted(reception.files) == [b"0", b"1"]


def test_an_unrelated_change_does_not_move_the_study_to_the_patient_of_one_odd_instance() -> None:
    reception = Reception()
    odd = reception.hospital.header(sop="1.1.2", patient_id="ODD")
    reception.receive(b"first")
    reception.receive(b"odd", odd)
    assert reception.receive(b"odd, other station", odd) is Receipt.REVISED
    assert reception.hospital.study().patient_key == "P1\\"


def test_an_instance_moved_to_another_study_leaves_the_former_one_ignored() -> None:
    reception = Reception()
    hospital = reception.hospital
    reception.receive(b"first")
    hospital.run()
    assert reception.receive(b"second", hospital.header(study="1.2")) is Receipt.REVISED
    assert (hospital.study().state, hospital.study().instances) == (StudyState.IGNORED, 0)
    hospital.run()
    assert hospital.study("1.2").state is StudyState.REPORTED


def test_a_study_that_an_image_has_left_is_scored_by_what_remains() -> None:
    reception = Reception()
    hospital = reception.hospital
    reception.receive(b"first")
    reception.receive(b"other", hospital.header(sop="1.1.2"))
    hospital.run()
    reception.receive(b"moved", hospital.header(study="1.2"))
    hospital.run()
    assert [hospital.study(uid).state for uid in ("1.1", "1.2")] == [StudyState.REPORTED] * 2
    assert (hospital.study("1.1").revision, hospital.study("1.2").revision) == (2, 1)


def test_a_deleted_file_is_known_again_by_its_pixels() -> None:
    reception = Reception()
    hospital, comparison = reception.hospital, reception.comparison
    reception.receive(b"first")
    instance = hospital.catalog.tables.instances[UID]
    hospital.catalog.tables.instances[UID] = replace(instance, state=InstanceState.DELETED, pixels_sha256="d")
    hospital.images.files.clear()
    with pytest.raises(DifferentInstance):
        reception.receive(b"other pixels")
    comparison.digests[hospital.images.file_of(b"other header").sha256] = "d"
    assert reception.receive(b"other header") is Receipt.REVISED
    assert hospital.catalog.tables.instances[UID].state is InstanceState.STORED
    hospital.catalog.tables.instances[UID] = replace(hospital.catalog.tables.instances[UID], state=InstanceState.DELETED)
    hospital.images.files.clear()
    assert reception.receive(b"other header") is Receipt.DUPLICATE
    assert reception.files == [b"other header"]
    assert hospital.catalog.tables.instances[UID].state is InstanceState.STORED


def test_other_pixels_are_refused_unless_conflicts_are_kept() -> None:
    reception = Reception()
    reception.receive(b"first")
    reception.comparison.difference = None
    with pytest.raises(DifferentInstance, match="already stored"):
        reception.receive(b"other")
    assert reception.files == [b"first"]


def test_a_conflict_is_kept_once_and_the_flood_of_one_instance_is_bounded() -> None:
    reception = Reception(keep_conflicts=True)
    reception.receive(b"first")
    reception.comparison.difference = None
    assert [reception.receive(b"other"), reception.receive(b"other")] == [Receipt.CONFLICT] * 2
    assert len(reception.hospital.catalog.tables.conflicts) == 1
    for number in range(1, MAX_CONFLICTS):
        reception.receive(str(number).encode())
    with pytest.raises(DifferentInstance):
        reception.receive(b"one more")


def test_a_person_keeps_the_stored_or_the_received_instance() -> None:
    reception = Reception(keep_conflicts=True)
    hospital = reception.hospital
    reception.receive(b"first")
    hospital.run()
    reception.comparison.difference = None
    for content in (b"second", b"third"):
        reception.receive(content, hospital.header(patient_id="P2"))
    catalog, images = hospital.catalog, hospital.images
    resolve_conflict(1, ConflictResolution.STORED, catalog=catalog, images=images, source="cli")
    assert b"second" not in reception.files
    assert hospital.study().state is StudyState.REPORTED
    with pytest.raises(PermanentError, match="no open conflict 1"):
        resolve_conflict(1, ConflictResolution.STORED, catalog=catalog, images=images, source="cli")
    resolve_conflict(2, ConflictResolution.RECEIVED, catalog=catalog, images=images, source="cli")
    assert (hospital.study().state, hospital.study().patient_key) == (StudyState.ARRIVING, "P2\\")
    asked = len(hospital.pixels.asked)
    hospital.run()
    assert len(hospital.pixels.asked) == asked + 1  # scored anew
    assert (hospital.study().state, hospital.study().revision) == (StudyState.REPORTED, 2)
    assert len(hospital.writer.written[-1].predictions) == len(FINDINGS)
