"""Retention on fakes: what is deleted, what never is, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from pipeline.domain import (
    ConflictResolution,
    Header,
    InstanceState,
    JobKind,
    LabelState,
    ReaderStatement,
    Receipt,
    Request,
    StoredFile,
    StudyState,
)
from pipeline.errors import OutOfResources
from pipeline.fetch import FileFetch
from pipeline.labels import import_readings
from pipeline.ports.backfill import BackfillObject, BackfillUnit, DateRange, FindStored, StoreObject
from pipeline.ports.services import IncomingFile
from pipeline.receive import MAX_DELAY_SECONDS, InstanceReceiver, ReceivePolicy
from pipeline.retention import DeletedFiles, FileRetention, RetentionPolicy
from tests.builders.hospital_in_memory import SENDER, Hospital

DAY = 86400.0
UIDS = ("1.1", "1.2", "1.3")


class PixelDigest:
    """ports.services.InstanceComparison: digests only."""

    def compare(self, stored: StoredFile, incoming: IncomingFile) -> None:
        return None

    def digest(self, file: StoredFile | IncomingFile) -> str:
        assert isinstance(file, StoredFile)
        return file.sha256[::-1]


@pytest.fixture
def hospital() -> Hospital:
    """Three reported studies of one film each, a day apart."""
    hospital = Hospital()
    for uid in UIDS:
        hospital.receive(hospital.header(study=uid, sop=f"{uid}.1", patient_id=uid))
        hospital.run()
        hospital.catalog.tick(DAY)
    return hospital


def retain(hospital: Hospital, *, missing: int = 1, days: float = 0) -> DeletedFiles:
    """Run retention with so many bytes missing."""
    policy = RetentionPolicy(min_free_bytes=hospital.images.free + missing, min_days=days)
    return FileRetention(catalog=hospital.catalog, images=hospital.images, policy=policy, comparison=PixelDigest()).run()


def deleted_studies(hospital: Hospital) -> list[str]:
    instances = hospital.catalog.tables.instances.values()
    deleted = [one for one in instances if one.state is InstanceState.DELETED]
    assert all(not hospital.images.exists(one.file) for one in deleted)
    assert all(hospital.images.exists(one.file) for one in instances if one.state is InstanceState.STORED)
    return [one.header.study_instance_uid for one in deleted]


def test_the_oldest_reported_studies_are_deleted_until_there_is_space(hospital: Hospital) -> None:
    assert retain(hospital, missing=0).files == 0
    deleted = retain(hospital, missing=6)
    assert (deleted.studies, deleted.files, deleted.bytes) == (2, 2, 10)
    assert deleted_studies(hospital) == ["1.1", "1.2"]
    assert hospital.study("1.1").state is StudyState.REPORTED
    assert len(hospital.images.files) == 1 + 3  # the reports stay
    assert hospital.catalog.tables.instances["1.1.1"].pixels_sha256


def test_a_study_keeps_its_files_for_the_days_after_its_report(hospital: Hospital) -> None:
    retain(hospital, missing=1000, days=1.5)
    assert deleted_studies(hospital) == ["1.1", "1.2"]


def test_a_study_whose_images_have_no_pixels_ends_the_search_for_space_too(hospital: Hospital) -> None:
    uid, instance = next(iter(hospital.catalog.tables.instances.items()))
    hospital.catalog.tables.instances[uid] = replace(instance, header=replace(instance.header, has_pixels=False))
    retain(hospital, missing=1000)
    assert deleted_studies(hospital) == ["1.2", "1.3"]


def label(hospital: Hospital) -> None:
    statement = ReaderStatement(study_instance_uid="1.1", findings={"Mass": LabelState.PRESENT}, reader="a", source="csv")
    import_readings([statement], catalog=hospital.catalog)


def ask_for(hospital: Hospital) -> None:
    request = Request(
        study_instance_uid="1.1",
        selection_reason="random",
        selection_probability=0.5,
        version=1,
        requested_at=hospital.catalog.now,
    )
    with hospital.catalog.begin() as tx:
        tx.requests.append([request])


def quarantine(hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")
        (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60)
        tx.jobs.quarantine(job, error="why")


def conflict(hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.revisions.add_conflict(hospital.header(sop="1.1.1"), hospital.images.write(b"other"), SENDER)


def make_unscored(hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.SETTLED)


@pytest.mark.parametrize("need", [label, ask_for, quarantine, conflict, make_unscored])
def test_a_study_that_somebody_needs_keeps_its_files(need: Callable[[Hospital], None], hospital: Hospital) -> None:
    need(hospital)
    retain(hospital, missing=1000)
    assert deleted_studies(hospital) == ["1.2", "1.3"]


def test_a_resolved_conflict_no_longer_keeps_the_files(hospital: Hospital) -> None:
    conflict(hospital)
    with hospital.catalog.begin() as tx:
        tx.revisions.resolve_conflict(1, ConflictResolution.STORED)
    retain(hospital, missing=1000)
    assert deleted_studies(hospital) == list(UIDS)


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_between_two_steps_leaves_nothing_half_deleted(
    before: bool, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the file is removed, or between the removal and the commit."""

    class Killed(BaseException):
        pass

    remove = hospital.images.remove

    def die(file: StoredFile) -> None:
        if not before:
            remove(file)
        raise Killed

    monkeypatch.setattr(hospital.images, "remove", die)
    with pytest.raises(Killed):
        retain(hospital, missing=6)
    assert hospital.catalog.tables.instances["1.1.1"].state is InstanceState.DELETING
    monkeypatch.undo()
    retain(hospital, missing=0)  # no more is deleted than what was begun
    assert deleted_studies(hospital) == ["1.1"]


def test_an_image_that_is_sent_again_is_stored_again_and_deleted_again(hospital: Hospital) -> None:
    retain(hospital, missing=1000)
    assert hospital.receive(hospital.header(study="1.1", sop="1.1.1", patient_id="1.1")) is Receipt.DUPLICATE
    assert hospital.catalog.tables.instances["1.1.1"].state is InstanceState.STORED
    assert deleted_studies(hospital) == ["1.2", "1.3"]
    retain(hospital, missing=1000)
    assert deleted_studies(hospital) == list(UIDS)


def test_senders_are_slowed_the_more_the_less_space_there_is() -> None:
    hospital, waits = Hospital(), list[float]()
    policy = ReceivePolicy(min_free_bytes=100, slow_free_bytes=200)
    receiver = InstanceReceiver(catalog=hospital.catalog, images=hospital.images, policy=policy, sleep=waits.append)
    for free in (200, 150, 100):
        hospital.images.free = free
        receiver.open_incoming()
    assert waits == [MAX_DELAY_SECONDS / 2, MAX_DELAY_SECONDS]
    hospital.images.free = 99
    with pytest.raises(OutOfResources):
        receiver.open_incoming()


class FakeSource:
    """ports.backfill.BackfillSource: an archive that has these instances."""

    name, supports_dates, sender = "ARCHIVE", False, SENDER

    def __init__(self, instances: dict[str, tuple[Header, bytes]]) -> None:
        self.instances, self.asked = instances, list[str]()

    def list_units(self, days: DateRange | None) -> list[BackfillUnit]:
        return []

    def fetch(self, unit: BackfillUnit, find_stored: FindStored, store_object: StoreObject) -> int:
        self.asked.append(unit.study_instance_uid)
        found = [uid for uid, (header, _) in self.instances.items() if header.study_instance_uid == unit.study_instance_uid]
        stored = find_stored(found)
        for uid in found:
            if uid not in stored:
                store_object(BackfillObject(uid, uid, partial(self.instances.__getitem__, uid)))
        return 0


def test_deleted_files_that_somebody_needs_are_fetched_and_those_that_are_gone_are_not_asked_for_again_at_once(
    hospital: Hospital,
) -> None:
    headers = {f"{uid}.1": hospital.header(study=uid, sop=f"{uid}.1", patient_id=uid) for uid in UIDS}
    source = FakeSource({uid: (header, uid.encode()) for uid, header in headers.items()})
    file_fetch = FileFetch(
        source=source, catalog=hospital.catalog, images=hospital.images, receive_policy=ReceivePolicy(min_free_bytes=0)
    )
    retain(hospital, missing=1000)
    assert file_fetch.fetch_needed() == 0
    label(hospital)
    assert file_fetch.fetch_needed() == 1
    assert deleted_studies(hospital) == ["1.2", "1.3"]
    retain(hospital, missing=1000)
    assert deleted_studies(hospital) == ["1.2", "1.3"]  # now it is labelled
    assert file_fetch.fetch_study("1.2") == 1
    del source.instances["1.3.1"]
    with hospital.catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.3")
        (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60)
        tx.jobs.quarantine(job, error="no pixels")
    source.asked.clear()
    assert [file_fetch.fetch_needed() for _ in range(3)] == [0, 0, 0]
    assert source.asked == ["1.3"]
    (event,) = [event for event in hospital.catalog.tables.audit if (event.action, event.outcome) == ("fetch", "failed")]
    assert event.subject == "1.3"
