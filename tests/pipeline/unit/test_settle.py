"""Settling with an archive that is asked for its counts: silent, slow, or gone."""

from __future__ import annotations

from pipeline import settle
from pipeline.domain import StudyState
from pipeline.errors import ArchiveUnreachable, RefusedByArchive
from pipeline.ports.services import CircuitPolicy
from tests.builders.fakes.reports import FakeArchive
from tests.builders.hospital_in_memory import Hospital

POLICY = settle.CountPolicy(
    circuit=CircuitPolicy(threshold=2, open_seconds=30), max_age_seconds=5, query_seconds=10, round_seconds=10
)


class SlowArchive(FakeArchive):
    """Takes `seconds` for each answer, on the clock of the catalog, and records its queries."""

    def __init__(self, hospital: Hospital, seconds: float = 0) -> None:
        super().__init__()
        self.hospital, self.seconds, self.queried = hospital, seconds, list[str]()
        self.errors: list[Exception] = []

    def count_instances(self, study_instance_uid: str, *, limit_seconds: float) -> int | None:
        self.queried.append(study_instance_uid)
        self.hospital.catalog.tick(min(self.seconds, limit_seconds))
        if self.seconds > limit_seconds:
            raise ArchiveUnreachable("no answer")
        if self.errors:
            raise self.errors.pop(0)
        return super().count_instances(study_instance_uid, limit_seconds=limit_seconds)


def counting(hospital: Hospital, archive: FakeArchive) -> settle.ArchiveCounts:
    return settle.ArchiveCounts(
        catalog=hospital.catalog, archive=archive, policy=POLICY, clock=lambda: hospital.catalog.now.timestamp()
    )


def receive_studies(hospital: Hospital, number: int) -> list[str]:
    uids = [f"1.{study}" for study in range(1, number + 1)]
    for uid in uids:
        hospital.receive(hospital.header(uid, f"{uid}.1"))
    return uids


def test_quiet_studies_settle_without_a_word_from_the_archive() -> None:
    hospital = Hospital()
    receive_studies(hospital, 3)
    hospital.catalog.tick(61)
    before = hospital.catalog.now
    assert len(hospital.settle()) == 3
    assert hospital.catalog.now == before


def test_a_silent_archive_holds_a_round_no_longer_than_one_query_and_then_opens_its_circuit() -> None:
    hospital = Hospital()
    receive_studies(hospital, 50)
    archive = SlowArchive(hospital, seconds=1000)
    counts = counting(hospital, archive)
    for expected in (1, 2, 2, 2):
        before = hospital.catalog.now
        assert counts.complete_studies() == []
        assert (hospital.catalog.now - before).total_seconds() <= POLICY.query_seconds
        assert len(archive.queried) == expected
    hospital.catalog.tick(31)
    counts.complete_studies()
    assert len(archive.queried) == 3, "half-open: one probe"
    assert set(hospital.catalog.tables.circuits) == {"FAKE C-FIND"}


def test_reports_are_sent_while_the_archive_answers_no_query() -> None:
    hospital = Hospital()
    receive_studies(hospital, 1)
    counts = counting(hospital, SlowArchive(hospital, seconds=1000))
    for _ in range(5):
        counts.complete_studies()
    hospital.run()
    assert len(hospital.archive.kept) == 1


def test_a_slow_archive_is_asked_about_each_study_in_turn_within_the_time_of_a_round() -> None:
    hospital = Hospital()
    uids = receive_studies(hospital, 12)
    archive = SlowArchive(hospital, seconds=4)
    archive.counts = {uids[-1]: 1}
    counts = counting(hospital, archive)
    found: list[str] = []
    for _ in range(4):
        before = hospital.catalog.now
        found += counts.complete_studies()
        assert (hospital.catalog.now - before).total_seconds() <= POLICY.round_seconds + POLICY.query_seconds
    assert sorted(archive.queried) == sorted(uids)
    assert found == [uids[-1]]


def test_a_study_is_queried_at_most_once_per_interval_and_its_count_is_remembered() -> None:
    hospital = Hospital()
    receive_studies(hospital, 1)
    archive = SlowArchive(hospital)
    archive.counts = {"1.1": 2}
    counts = counting(hospital, archive)
    assert [counts.complete_studies() for _ in range(5)] == [[]] * 5
    hospital.receive(hospital.header("1.1", "1.1.2"))
    assert counts.complete_studies() == ["1.1"]
    assert len(archive.queried) == 1
    hospital.catalog.tick(5)
    counts.complete_studies()
    assert len(archive.queried) == 2


def test_an_archive_that_refuses_a_query_was_reached() -> None:
    hospital = Hospital()
    receive_studies(hospital, 3)
    archive = SlowArchive(hospital)
    archive.errors = [RefusedByArchive("0xA900")]
    archive.counts = {"1.3": 1}
    assert counting(hospital, archive).complete_studies() == ["1.3"]
    assert hospital.catalog.tables.circuits == {}


def test_complete_studies_are_settled() -> None:
    hospital = Hospital()
    receive_studies(hospital, 2)
    archive = SlowArchive(hospital)
    archive.counts = {"1.2": 1}
    policy = settle.SettlePolicy(stable_age_seconds=60, settle_on_release=False, chest=hospital.chest)
    settled = settle.settle_complete(catalog=hospital.catalog, counts=counting(hospital, archive), policy=policy)
    assert [(one.study_instance_uid, one.state) for one in settled] == [("1.2", StudyState.SETTLED)]
