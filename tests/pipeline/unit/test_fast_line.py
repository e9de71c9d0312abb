from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from pipeline import priorities, report, rules
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
from pipeline.ports.images import DecoderTransform, DeviceTransfer, ModelInput, copy_to_host
from tests.builders.fakes.versions import a_version
from tests.builders.hospital_in_memory import SENDER, Hospital

FILE = StoredFile("aa/bb/f.dcm", "f" * 64, 10)


def test_a_film_becomes_a_report_in_the_archive() -> None:
    hospital = Hospital()
    assert hospital.receive(hospital.film()) is Receipt.STORED
    assert hospital.settle() == []  # not quiet yet
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert hospital.archive.kept == [b"SR 1.1.1.1 1"]
    assert [p.finding for p in hospital.writer.written[0].predictions] == list(FINDINGS)
    assert {job.kind for job in hospital.jobs(JobState.DONE)} == {JobKind.SCORE, JobKind.REPORT, JobKind.SEND}


def test_the_same_file_again_is_success_and_writes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    rows = hospital.catalog.committed
    assert hospital.receive(hospital.film()) is Receipt.DUPLICATE
    assert hospital.catalog.committed == rows


def test_a_duplicate_gives_back_a_file_that_the_disk_lost() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.images.files.clear()
    assert hospital.receive(hospital.film()) is Receipt.DUPLICATE
    assert len(hospital.images.files) == 1


def test_another_file_under_a_known_uid_is_refused_and_the_first_stays() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film(), b"first")
    with pytest.raises(DifferentInstance, match="already stored"):
        hospital.receive(hospital.film(), b"second")
    assert list(hospital.images.files.values()) == [b"first"]


def test_below_the_disk_guard_nothing_is_taken() -> None:
    hospital = Hospital()
    hospital.images.free = 1001
    with pytest.raises(OutOfResources, match=r"storage\.min_free"):
        hospital.receive(hospital.film(), b"xx")
    assert not hospital.images.files
    assert hospital.catalog.committed == 1  # the version only


def test_no_success_when_the_commit_fails() -> None:
    hospital = Hospital()
    hospital.catalog.fail_next_commit = OutOfResources("catalog is locked")
    with pytest.raises(OutOfResources):
        hospital.receive(hospital.film())
    assert hospital.receive(hospital.film()) is Receipt.STORED


def test_a_late_film_is_scored_alone_and_its_report_names_the_one_before() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.run()
    hospital.pixels.asked.clear()
    assert hospital.receive(hospital.film(sop="1.1.2")) is Receipt.LATE
    assert hospital.study().state is StudyState.ARRIVING
    hospital.run()
    assert hospital.pixels.asked == ["1.1.2"]
    second = hospital.writer.written[-1]
    assert second.report.predecessor == "1.1.1.1"
    assert second.predecessor is not None
    assert second.predecessor.state is ReportState.SENT
    assert len(second.evidence) == 2
    assert hospital.study().state is StudyState.REPORTED


def test_a_late_object_with_nothing_to_score_changes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.run()
    hospital.receive(hospital.film(sop="1.1.2", view_position="LL"))
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert len(hospital.archive.kept) == 1


def test_our_own_report_coming_back_is_kept_and_reopens_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.run()
    own = hospital.film(sop="1.1.1.1", sop_class_uid=rules.STRUCTURED_REPORT_FAMILY + "34", modality="SR")
    assert hospital.receive(own) is Receipt.OWN_REPORT
    elsewhere = replace(own, sop_instance_uid="9.9", manufacturer_model_name="radclipd")
    assert hospital.receive(elsewhere) is Receipt.OWN_REPORT
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert len(hospital.archive.kept) == 1


def test_a_presentation_state_does_not_reopen_a_reported_study() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.run()
    state = hospital.film(sop="1.1.3", sop_class_uid=rules.PRESENTATION_STATE_FAMILY + "1", modality="PR")
    assert hospital.receive(state) is Receipt.STORED
    assert hospital.study().state is StudyState.REPORTED


def test_a_study_of_laterals_is_ignored_until_a_frontal_comes() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film(view_position="LL"))
    hospital.run()
    assert (hospital.study().state, hospital.study().reason) == (StudyState.IGNORED, "lateral view (1)")
    hospital.receive(hospital.film(sop="1.1.2"))
    hospital.run()
    assert (hospital.study().state, hospital.study().reason) == (StudyState.REPORTED, "")


def test_settles_at_once_when_the_association_was_released_and_configuration_says_so() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    with hospital.catalog.begin() as tx:
        tx.studies.mark_released(["1.1"])
    assert hospital.settle() == []
    assert [s.state for s in hospital.settle(on_release=True)] == [StudyState.SETTLED]


def test_settles_when_the_archives_own_count_is_reached() -> None:
    hospital = Hospital()
    hospital.archive.counts["1.1"] = 2
    hospital.receive(hospital.film())
    assert hospital.settle(ask=True) == []
    hospital.receive(hospital.film(sop="1.1.2"))
    assert [s.state for s in hospital.settle(ask=True)] == [StudyState.SETTLED]


def test_one_unreadable_film_does_not_stop_the_others() -> None:
    hospital = Hospital()
    for study in ("1.1", "2.1"):
        hospital.receive(hospital.film(study=study, sop=f"{study}.1"))
    hospital.pixels.broken = {"1.1.1"}
    hospital.run()
    assert hospital.study("2.1").state is StudyState.REPORTED
    assert hospital.study("1.1").state is StudyState.SETTLED
    (job,) = hospital.jobs(JobState.QUARANTINED)
    assert job.subject == "1.1"
    assert "no image can be made" in job.error


@pytest.mark.parametrize(("broken", "commits"), [(set(), 2), ({"1.1.1"}, 5)])
def test_the_scores_of_a_batch_are_committed_together_and_where_one_fails_each_by_itself(broken: set[str], commits: int) -> None:
    """The claim is a commit of its own; so are, where one of four fails, three scores, and what becomes of the fourth."""
    hospital = Hospital()
    for study in range(1, 5):
        hospital.receive(hospital.film(study=f"{study}.1", sop=f"{study}.1.1"))
    hospital.pixels.broken = broken
    hospital.catalog.tick(61)
    hospital.settle()
    before = hospital.catalog.committed
    assert hospital.work_once(JobKind.SCORE) == 4
    assert hospital.catalog.committed - before == commits
    assert len(hospital.catalog.tables.predictions) == 4 - len(broken)


def scored(hospital: Hospital) -> set[str]:
    return {study for study, _ in hospital.catalog.tables.predictions}


def arrive(hospital: Hospital, *studies: str) -> None:
    for study in studies:
        hospital.receive(hospital.film(study=study, sop=f"{study}.1"))
    hospital.catalog.tick(61)
    hospital.settle()


def test_what_has_just_come_waits_for_no_backlog_and_who_waits_longest_is_not_passed_over() -> None:
    hospital = Hospital()
    crowd = [f"1.{number}" for number in range(1, 101)]
    arrive(hospital, *crowd)
    for turn in range(1, 7):
        arrive(hospital, *(f"2.{turn}.{number}" for number in range(1, 9)))  # as many as are scored, and so it goes on
        assert hospital.work_once(JobKind.SCORE) == 8
        assert {f"2.{turn}.{number}" for number in range(5, 9)} <= scored(hospital)
        assert {uid for uid in crowd if uid in scored(hospital)} == set(crowd[: 4 * turn])


def test_a_report_waits_for_none_of_a_backlog_that_was_scored_after_its_study() -> None:
    hospital = Hospital()
    arrive(hospital, *(f"1.{number}" for number in range(1, 41)))
    arrive(hospital, "2.1")
    for _ in range(5):  # scoring is faster than reporting
        assert hospital.work_once(JobKind.SCORE) == 8
    assert sum(hospital.work_once(JobKind.REPORT) for _ in range(2)) == 2
    assert "2.1" in {written.study.study_instance_uid for written in hospital.writer.written}


def test_what_arrives_is_committed_before_the_archive_is_looked_at() -> None:
    hospital = Hospital()
    with hospital.catalog.begin() as tx:
        for study, priority in (("1.1", priorities.RESCORE), ("1.2", priorities.ARRIVED), ("1.3", priorities.RESCORE)):
            tx.studies.add_instance(hospital.film(study, f"{study}.1"), FILE, SENDER, opens_study=True)
            tx.jobs.put(JobKind.SCORE, study, priority=priority)
    done: list[str] = []
    read = hospital.pixels.read_ahead

    def listening(
        instances: Sequence[StoredInstance], transform: DecoderTransform, to_device: DeviceTransfer = copy_to_host
    ) -> Iterator[ModelInput | PixelsUnreadable]:
        for number, image in enumerate(read(instances, transform, to_device)):
            done.append(f"film {number}: {sorted(scored(hospital))}")
            yield image

    hospital.pixels.read_ahead = listening  # type: ignore[method-assign]  # listens and passes on
    assert hospital.work_once(JobKind.SCORE) == 3
    assert done == ["film 0: []", "film 1: ['1.2']", "film 2: ['1.2']"]


def test_a_report_is_as_urgent_as_the_scores_that_it_tells() -> None:
    hospital = Hospital()
    hospital.backfill_reports = "all"
    with hospital.catalog.begin() as tx:
        tx.studies.add_instance(hospital.film(), FILE, SENDER, opens_study=True)
        tx.jobs.put(JobKind.SCORE, "1.1", priority=priorities.RESCORE)
    for kind in (JobKind.SCORE, JobKind.REPORT, JobKind.SEND):
        (waiting,) = hospital.jobs(JobState.WAITING)
        assert (waiting.kind, waiting.priority) == (kind, priorities.RESCORE)
        assert hospital.work_once(kind) == 1


def test_a_readable_film_is_reported_though_its_neighbour_is_not() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.receive(hospital.film(sop="1.1.2"))
    hospital.pixels.broken = {"1.1.2"}
    hospital.run()
    assert hospital.study().state is StudyState.REPORTED
    assert [len(c.evidence) for c in hospital.writer.written] == [1]
    assert "1.1.2" in hospital.catalog.tables.audit[-1].detail


def test_without_a_version_the_worker_stops_and_the_job_waits() -> None:
    hospital = Hospital(serving=False)
    hospital.receive(hospital.film())
    hospital.catalog.tick(61)
    hospital.settle()
    with pytest.raises(NoWeights):
        hospital.work_once(JobKind.SCORE)
    (job,) = hospital.jobs(JobState.WAITING)
    assert job.attempts == 0


def test_a_refused_report_is_quarantined_and_no_later_one_names_it() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.archive.errors = [RefusedByArchive("0xA900 data set does not match SOP class")]
    hospital.run()
    assert [job.kind for job in hospital.jobs(JobState.QUARANTINED)] == [JobKind.SEND]
    assert hospital.catalog.tables.reports["1.1.1.1"].state is ReportState.REFUSED
    hospital.receive(hospital.film(sop="1.1.2"))
    hospital.run()
    assert hospital.writer.written[-1].report.predecessor is None


def test_a_busy_archive_costs_tries_and_then_a_person_is_asked() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
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


def test_a_dead_archive_burns_no_tries_and_is_left_alone() -> None:
    hospital = Hospital()
    hospital.archive.reachable = False
    for n in range(20):
        hospital.receive(hospital.film(study=f"{n}.1", sop=f"{n}.1.1"))
    hospital.run()
    waiting = hospital.jobs(JobState.WAITING)
    assert len(waiting) == 20
    assert {job.attempts for job in waiting} == {0}
    assert sum(bool(job.error) for job in waiting) == hospital.circuit.threshold
    hospital.archive.reachable = True
    for _ in range(3):
        hospital.run()
    assert len(hospital.archive.kept) == 20


def test_a_job_that_takes_down_its_worker_ends_in_quarantine() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.catalog.tick(61)
    hospital.settle()
    for _ in range(hospital.work.max_attempts):
        with hospital.catalog.begin() as tx:
            assert len(tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=10)) == 1
        hospital.catalog.tick(11)
    assert hospital.work_once(JobKind.SCORE) == 0
    assert "may have died" in hospital.jobs(JobState.QUARANTINED)[0].error


def test_an_overtaken_report_job_writes_nothing() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
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
    hospital.receive(hospital.film())
    hospital.run()
    with hospital.catalog.begin() as tx:
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.versions.serve(2)
    hospital.pixels.asked.clear()
    hospital.receive(hospital.film(sop="1.1.2"))
    hospital.run()
    assert sorted(hospital.pixels.asked) == ["1.1.1", "1.1.2"]
    assert hospital.writer.written[-1].version.number == 2


def test_resend_puts_the_newest_report_on_its_way_again() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.run()
    assert report.resend(["1.1", "unknown"], catalog=hospital.catalog) == ["1.1.1.1"]
    hospital.run()
    assert hospital.archive.kept == [b"SR 1.1.1.1 1"] * 2


def test_a_foreign_exception_keeps_its_words_out_of_the_catalog() -> None:
    hospital = Hospital()
    hospital.receive(hospital.film())
    hospital.archive.errors = [ValueError("Doe^John 1970-01-01")]
    hospital.run()
    (job,) = hospital.jobs(JobState.WAITING)
    assert job.error == "unexpected ValueError; the log has the place"
