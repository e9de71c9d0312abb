"""The fast line on fakes: receive, settle, score, report, send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pipeline import priorities, rules, withholding
from pipeline.domain import (
    FINDINGS,
    JobKind,
    JobState,
    Receipt,
    ReportState,
    StoredFile,
    StoredInstance,
    StudyState,
    VersionState,
)
from pipeline.errors import ArchiveBusy, DifferentInstance, NoWeights, OutOfResources, PixelsUnreadable, RefusedByArchive
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.receive import GUARDED_BYTES, InstanceReceiver, ReceivePolicy
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import SENDER, Hospital

FILE = StoredFile("aa/bb/f.dcm", "f" * 64, 10)


def test_an_image_becomes_a_report_in_the_archive() -> None:
    hospital = Hospital()
    assert hospital.receive(hospital.header()) is Receipt.STORED
    assert hospital.settle() == []  # not stable yet
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert hospital.archive.kept == [b"SR 1.1.1.1 1"]
    assert [p.finding for p in hospital.writer.written[0].predictions] == list(FINDINGS)
    assert {job.kind for job in hospital.jobs(JobState.DONE)} == {JobKind.SCORE, JobKind.REPORT, JobKind.SEND}


def test_an_identical_file_again_is_success_and_writes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    rows = hospital.catalog.committed
    assert hospital.receive(hospital.header()) is Receipt.DUPLICATE
    assert hospital.catalog.committed == rows


def test_a_duplicate_restores_a_file_that_the_disk_has_lost() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.images.files.clear()
    assert hospital.receive(hospital.header()) is Receipt.DUPLICATE
    assert len(hospital.images.files) == 1


def test_another_file_under_a_known_uid_is_refused_and_the_first_stays() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header(), b"first")
    with pytest.raises(DifferentInstance, match="already stored"):
        hospital.receive(hospital.header(), b"second")
    assert list(hospital.images.files.values()) == [b"first"]


def test_no_file_is_accepted_below_the_disk_guard() -> None:
    hospital = Hospital()
    hospital.images.free = 1001
    with pytest.raises(OutOfResources, match=r"storage\.min_free"):
        hospital.receive(hospital.header(), b"xx")
    assert not hospital.images.files
    assert hospital.catalog.committed == 1  # the version only


def test_the_disk_guard_is_looked_at_while_the_bytes_come_for_all_files_together() -> None:
    hospital, piece = Hospital(), bytes(1 << 20)
    guard, count = 100 << 20, 4
    receiver = InstanceReceiver(catalog=hospital.catalog, images=hospital.images, policy=ReceivePolicy(min_free_bytes=guard))
    hospital.images.free = guard + (50 << 20)
    files = [receiver.open_incoming() for _ in range(count)]
    refused = 0
    while refused < count:
        for file in list(files):
            try:
                file.write(piece)
            except OutOfResources as error:
                assert "storage.min_free" in str(error)
                files.remove(file)
                refused += 1
    assert hospital.images.free > guard - count * GUARDED_BYTES
    with pytest.raises(OutOfResources):
        receiver.open_incoming()


def test_receive_raises_where_the_commit_fails() -> None:
    hospital = Hospital()
    hospital.catalog.fail_next_commit = OutOfResources("catalog is locked")
    with pytest.raises(OutOfResources):
        hospital.receive(hospital.header())
    assert hospital.receive(hospital.header()) is Receipt.STORED


def test_a_late_image_is_scored_alone_and_its_report_names_the_predecessor() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    hospital.pixels.asked.clear()
    assert hospital.receive(hospital.header(sop="1.1.2")) is Receipt.LATE
    assert hospital.study().state is StudyState.ARRIVING
    hospital.run()
    assert hospital.pixels.asked == ["1.1.2"]
    second = hospital.writer.written[-1]
    assert second.report.predecessor == "1.1.1.1"
    assert second.predecessor is not None
    assert second.predecessor.state is ReportState.SENT
    assert len(second.evidence) == 2
    assert hospital.study().state is StudyState.REPORTED


def test_a_late_object_without_an_image_to_score_changes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    hospital.receive(hospital.header(sop="1.1.2", view_position="LL"))
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert len(hospital.archive.kept) == 1


def test_an_own_report_coming_back_is_stored_and_reopens_no_study() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    own = hospital.header(sop="1.1.1.1", sop_class_uid=rules.STRUCTURED_REPORT_FAMILY + "34", modality="SR")
    assert hospital.receive(own) is Receipt.OWN_REPORT
    of_another_catalog = replace(own, sop_instance_uid="9.9", manufacturer_model_name="radclipd")
    assert hospital.receive(of_another_catalog) is Receipt.OWN_REPORT
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert len(hospital.archive.kept) == 1


def test_a_presentation_state_does_not_reopen_a_reported_study() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    state = hospital.header(sop="1.1.3", sop_class_uid=rules.PRESENTATION_STATE_FAMILY + "1", modality="PR")
    assert hospital.receive(state) is Receipt.STORED
    assert hospital.study().state is StudyState.REPORTED


def test_a_study_of_lateral_views_is_ignored_until_a_frontal_view_arrives() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header(view_position="LL"))
    hospital.run()
    assert (hospital.study().state, hospital.study().reason) == (StudyState.IGNORED, "lateral view (1)")
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.run()
    assert (hospital.study().state, hospital.study().reason) == (StudyState.REPORTED, "")


def test_a_released_study_settles_at_once_where_configured() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    with hospital.catalog.begin() as tx:
        tx.studies.mark_released(["1.1"])
    assert hospital.settle() == []
    assert [s.state for s in hospital.settle(on_release=True)] == [StudyState.SETTLED]


def test_a_study_settles_when_the_archives_instance_count_is_reached() -> None:
    hospital = Hospital()
    hospital.archive.counts["1.1"] = 2
    hospital.receive(hospital.header())
    assert hospital.settle(ask_archive=True) == []
    hospital.receive(hospital.header(sop="1.1.2"))
    assert [s.state for s in hospital.settle(ask_archive=True)] == [StudyState.SETTLED]


def test_an_unreadable_image_does_not_stop_the_others() -> None:
    hospital = Hospital()
    for study in ("1.1", "2.1"):
        hospital.receive(hospital.header(study=study, sop=f"{study}.1"))
    hospital.pixels.broken = {"1.1.1"}
    hospital.run()
    assert hospital.study("2.1").state is StudyState.REPORTED
    assert hospital.study("1.1").state is StudyState.SETTLED
    (job,) = hospital.jobs(JobState.QUARANTINED)
    assert job.subject == "1.1"
    assert "no image can be made" in job.error


@pytest.mark.parametrize(("broken", "commits"), [(set(), 2), ({"1.1.1"}, 5)])
def test_a_batch_is_committed_in_one_transaction_or_study_by_study_where_one_fails(broken: set[str], commits: int) -> None:
    """Commits: the claim and the batch; where one study of four fails, the claim, three studies, and the failed job."""
    hospital = Hospital()
    for study in range(1, 5):
        hospital.receive(hospital.header(study=f"{study}.1", sop=f"{study}.1.1"))
    hospital.pixels.broken = broken
    hospital.catalog.tick(61)
    hospital.settle()
    before = hospital.catalog.committed
    assert hospital.work_once(JobKind.SCORE) == 4
    assert hospital.catalog.committed - before == commits
    assert len(hospital.catalog.tables.predictions) == 4 - len(broken)


def scored_studies(hospital: Hospital) -> set[str]:
    return {study for study, _ in hospital.catalog.tables.predictions}


def receive_and_settle(hospital: Hospital, *studies: str) -> None:
    for study in studies:
        hospital.receive(hospital.header(study=study, sop=f"{study}.1"))
    hospital.catalog.tick(61)
    hospital.settle()


def test_new_studies_do_not_wait_for_a_backlog_and_the_oldest_is_not_starved() -> None:
    hospital = Hospital()
    backlog = [f"1.{number}" for number in range(1, 101)]
    receive_and_settle(hospital, *backlog)
    for turn in range(1, 7):
        receive_and_settle(hospital, *(f"2.{turn}.{number}" for number in range(1, 9)))  # as many arrive as are scored
        assert hospital.work_once(JobKind.SCORE) == 8
        assert {f"2.{turn}.{number}" for number in range(5, 9)} <= scored_studies(hospital)
        assert {uid for uid in backlog if uid in scored_studies(hospital)} == set(backlog[: 4 * turn])


def test_a_report_does_not_wait_for_reports_of_studies_scored_later() -> None:
    hospital = Hospital()
    receive_and_settle(hospital, *(f"1.{number}" for number in range(1, 41)))
    receive_and_settle(hospital, "2.1")
    for _ in range(5):  # scoring is faster than reporting
        assert hospital.work_once(JobKind.SCORE) == 8
    assert sum(hospital.work_once(JobKind.REPORT) for _ in range(2)) == 2
    assert "2.1" in {written.study.study_instance_uid for written in hospital.writer.written}


def test_arrivals_are_committed_before_the_archive_is_decoded() -> None:
    hospital = Hospital()
    with hospital.catalog.begin() as tx:
        for study, priority in (("1.1", priorities.RESCORE), ("1.2", priorities.ARRIVED), ("1.3", priorities.RESCORE)):
            tx.studies.add_instance(hospital.header(study, f"{study}.1"), FILE, SENDER, opens_study=True)
            tx.jobs.put(JobKind.SCORE, study, priority=priority)
    events: list[str] = []
    read = hospital.pixels.read_ahead

    def recording_read_ahead(
        instances: Sequence[StoredInstance], transform: InputTransform
    ) -> Iterator[ModelInput | PixelsUnreadable]:
        for number, image in enumerate(read(instances, transform)):
            events.append(f"image {number}: {sorted(scored_studies(hospital))}")
            yield image

    hospital.pixels.read_ahead = recording_read_ahead  # type: ignore[method-assign]  # records and delegates
    assert hospital.work_once(JobKind.SCORE) == 3
    assert events == ["image 0: []", "image 1: ['1.2']", "image 2: ['1.2']"]


def test_a_report_job_has_the_priority_of_its_score_job() -> None:
    hospital = Hospital()
    hospital.backfill_reports = "all"
    with hospital.catalog.begin() as tx:
        tx.studies.add_instance(hospital.header(), FILE, SENDER, opens_study=True)
        tx.jobs.put(JobKind.SCORE, "1.1", priority=priorities.RESCORE)
    for kind in (JobKind.SCORE, JobKind.REPORT, JobKind.SEND):
        (waiting,) = hospital.jobs(JobState.WAITING)
        assert (waiting.kind, waiting.priority) == (kind, priorities.RESCORE)
        assert hospital.work_once(kind) == 1


def test_a_readable_image_is_reported_though_another_of_its_study_is_not_readable() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.pixels.broken = {"1.1.2"}
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert [len(c.evidence) for c in hospital.writer.written] == [1]
    assert "1.1.2" in next(
        event.detail for event in hospital.catalog.tables.audit if event.action == "settle" or event.action == "score"
    )


def test_without_a_serving_version_the_worker_stops_and_the_job_waits() -> None:
    hospital = Hospital(serving=False)
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    with pytest.raises(NoWeights):
        hospital.work_once(JobKind.SCORE)
    (job,) = hospital.jobs(JobState.WAITING)
    assert job.attempts == 0


def test_a_refused_report_is_quarantined_and_is_no_predecessor() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.archive.errors = [RefusedByArchive("0xA900 data set does not match SOP class")]
    hospital.run()
    assert [job.kind for job in hospital.jobs(JobState.QUARANTINED)] == [JobKind.SEND]
    assert hospital.catalog.tables.reports["1.1.1.1"].state is ReportState.REFUSED
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.run()
    assert hospital.writer.written[-1].report.predecessor is None


def test_a_busy_archive_counts_attempts_until_quarantine() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.archive.errors = [ArchiveBusy("0xA700")] * 9
    for _ in range(9):
        hospital.run()
    (job,) = hospital.jobs(JobState.QUARANTINED)
    assert job.attempts == hospital.work.max_attempts
    hospital.archive.errors = []
    with hospital.catalog.begin() as tx:
        assert tx.jobs.requeue() == 1
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED


def test_an_unreachable_archive_counts_no_attempts_and_opens_the_circuit() -> None:
    hospital = Hospital()
    hospital.archive.reachable = False
    for n in range(20):
        hospital.receive(hospital.header(study=f"{n}.1", sop=f"{n}.1.1"))
    hospital.run()
    waiting = hospital.jobs(JobState.WAITING)
    assert len(waiting) == 20
    assert {job.attempts for job in waiting} == {0}
    assert sum(bool(job.error) for job in waiting) == hospital.circuit.threshold
    hospital.archive.reachable = True
    for _ in range(3):
        hospital.run()
    assert len(hospital.archive.kept) == 20


def test_a_job_that_ends_its_worker_in_every_attempt_is_quarantined() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    for _ in range(hospital.work.max_attempts):
        with hospital.catalog.begin() as tx:
            assert len(tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=10)) == 1
        hospital.catalog.tick(11)
    assert hospital.work_once(JobKind.SCORE) == 0
    assert "may have died" in hospital.jobs(JobState.QUARANTINED)[0].error


def test_a_report_job_of_an_older_revision_writes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.catalog.tick(61)
    hospital.settle()
    hospital.work_once(JobKind.SCORE)
    with hospital.catalog.begin() as tx:
        tx.studies.next_revisions(["1.1"])
    hospital.work_once(JobKind.REPORT)
    assert not hospital.writer.written
    assert not hospital.catalog.tables.reports


def test_a_promotion_between_two_images_mixes_no_versions() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.versions.serve(2)
    hospital.pixels.asked.clear()
    hospital.receive(hospital.header(sop="1.1.2"))
    hospital.run()
    assert sorted(hospital.pixels.asked) == ["1.1.1", "1.1.2"]
    assert hospital.writer.written[-1].version.number == 2


def test_resend_enqueues_the_newest_report() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.run()
    assert withholding.resend(["1.1", "unknown"], catalog=hospital.catalog) == ["1.1.1.1"]
    hospital.run()
    assert hospital.archive.kept == [b"SR 1.1.1.1 1"] * 2


def test_the_message_of_a_foreign_exception_stays_out_of_the_catalog() -> None:
    hospital = Hospital()
    hospital.receive(hospital.header())
    hospital.archive.errors = [ValueError("Doe^John 1970-01-01")]
    hospital.run()
    (job,) = hospital.jobs(JobState.WAITING)
    assert job.error == "unexpected ValueError; the log has the place"
