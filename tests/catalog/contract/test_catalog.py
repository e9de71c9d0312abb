"""The contract of ports.Catalog: the fake, SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline import decisions, priorities
from pipeline.domain import (
    AuditEvent,
    JobKind,
    JobState,
    Report,
    ReportState,
    Sender,
    StudyState,
    VersionState,
    VisibleKind,
    VisibleObject,
)
from pipeline.errors import LeaseLost, OutOfResources
from pipeline.ports.services import Catalog
from tests.builders.catalog_rows import FILE, SENDER, add_instance, chest_header
from tests.builders.fakes.versions import a_version


def test_an_instance_is_read_back_unchanged(catalog: Catalog) -> None:
    header = chest_header(series_number=4, instance_number=2, accession_number="A7", study_date="20260101", modality="DX")
    add_instance(catalog, header)
    with catalog.read() as tx:
        found = tx.studies.find_instance("1.1.1")
        assert found is not None
        assert (found.header, found.file, found.file.xxh3) == (header, FILE, FILE.xxh3)
        study = tx.studies.find("1.1")
        assert study is not None
        assert (study.state, study.instances, study.accession_number, study.study_date) == (
            StudyState.ARRIVING,
            1,
            "A7",
            "20260101",
        )
        assert study.patient_key == header.patient_key
        assert tx.studies.find("9") is None
        assert tx.studies.find_instance("9") is None


def test_times_are_current_and_utc(sql_catalog: SqlCatalog) -> None:
    add_instance(sql_catalog, chest_header())
    with sql_catalog.read() as tx:
        found = tx.studies.find_instance("1.1.1")
    assert found is not None
    assert abs(found.received_at - datetime.now(UTC)) < timedelta(seconds=10)


def test_an_exception_rolls_the_transaction_back(catalog: Catalog) -> None:
    with pytest.raises(RuntimeError), catalog.begin() as tx:
        tx.studies.add_instance(chest_header(), FILE, SENDER, opens_study=True)
        tx.jobs.put(JobKind.SCORE, "1.1")
        raise RuntimeError
    with catalog.begin() as tx:
        assert tx.studies.find("1.1") is None
        assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5) == []


def test_a_read_transaction_cannot_write(sql_catalog: SqlCatalog) -> None:
    with pytest.raises(OutOfResources, match=r"read-?only"), sql_catalog.read() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")
    with sql_catalog.begin() as tx:  # on the same connection of the pool
        assert tx.jobs.put(JobKind.SCORE, "1.1") is not None


def test_hostile_text_is_sanitised_and_stored(sql_catalog: SqlCatalog) -> None:
    nasty = "\0" + "\ud800" + "x" * 10_000
    with sql_catalog.begin() as tx:
        tx.studies.add_instance(chest_header(), FILE, Sender(nasty, nasty, nasty), opens_study=True)
        tx.studies.put_state("1.1", StudyState.IGNORED, reason=nasty)
        tx.audit(AuditEvent("store", "refused", nasty, nasty, nasty))
        tx.jobs.put(JobKind.SEND, "1.1")
        (job,) = tx.jobs.claim([JobKind.SEND], worker=nasty, lease_seconds=5)
        tx.jobs.retry(job, error=nasty, delay_seconds=0)
        (job,) = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)
        assert 100 < len(job.error) <= 4000


def test_one_association_may_release_a_whole_archive(sql_catalog: SqlCatalog) -> None:
    add_instance(sql_catalog, chest_header())
    with sql_catalog.begin() as tx:
        tx.studies.mark_released([*(f"9.{number}" for number in range(40_000)), "1.1"])
        assert tx.studies.stable_studies(seconds=60, released=True, limit=9) == ["1.1"]


def test_how_long_the_oldest_job_has_been_due(sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        assert tx.jobs.oldest_due_seconds(before=500) == {}
        tx.jobs.put(JobKind.SEND, "a")
    time.sleep(0.2)
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SEND, "b")
        tx.jobs.put(JobKind.SCORE, "c")
        (later,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        tx.jobs.retry(later, error="x", delay_seconds=60)
        tx.jobs.put_all(JobKind.REPORT, {"d": {}}, due={"d": datetime(2026, 1, 1, tzinfo=UTC)})  # an age counts from its creation
    with sql_catalog.read() as tx:
        ages = tx.jobs.oldest_due_seconds(before=500)
    assert list(ages) == [JobKind.REPORT, JobKind.SEND]
    assert 0 <= ages[JobKind.REPORT] < 0.2 <= ages[JobKind.SEND] < 10


def test_a_sop_instance_uid_is_unique(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    with pytest.raises(Exception, match=r"(?i)unique|exists"):
        add_instance(catalog, chest_header())


def test_an_error_holds_no_patient_data(sql_catalog: SqlCatalog) -> None:
    add_instance(sql_catalog, chest_header(patient_id="SECRET-7"))
    with pytest.raises(Exception, match="instances") as error:
        add_instance(sql_catalog, chest_header(patient_id="SECRET-7", series_instance_uid="1.1.8"))
    assert "SECRET-7" not in str(error.value)


def test_instances_are_returned_in_order(catalog: Catalog) -> None:
    for sop, number in (("1.1.3", 2), ("1.1.2", 1), ("1.1.1", 3)):
        add_instance(catalog, chest_header(sop=sop, instance_number=number, series_number=1))
    with catalog.read() as tx:
        assert [i.header.instance_number for i in tx.studies.instances("1.1")] == [1, 2, 3]


def test_only_an_instance_that_opens_its_study_reopens_it(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    with catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.IGNORED, reason="lateral view (1)")
    add_instance(catalog, chest_header(sop="1.1.2"), opens=False)
    with catalog.read() as tx:
        study = tx.studies.find("1.1")
        assert study is not None
        assert (study.state, study.instances) == (StudyState.IGNORED, 2)
    add_instance(catalog, chest_header(sop="1.1.3"))
    with catalog.read() as tx:
        study = tx.studies.find("1.1")
        assert study is not None
        assert (study.state, study.reason) == (StudyState.ARRIVING, "")


def test_stable_and_released_studies(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    add_instance(catalog, chest_header())
    with catalog.begin() as tx:
        assert tx.studies.stable_studies(seconds=0.2, released=True, limit=9) == []
        assert tx.studies.arriving_studies(limit=9) == [("1.1", 1)]
        tx.studies.mark_released(["1.1"])
    with catalog.read() as tx:
        assert tx.studies.stable_studies(seconds=60, released=True, limit=9) == ["1.1"]
        assert tx.studies.stable_studies(seconds=60, released=False, limit=9) == []
    add_instance(catalog, chest_header(sop="1.1.2"))  # a new instance clears the released mark
    with catalog.read() as tx:
        assert tx.studies.stable_studies(seconds=60, released=True, limit=9) == []
    pass_time(0.25)
    with catalog.read() as tx:
        assert tx.studies.stable_studies(seconds=0.2, released=False, limit=9) == ["1.1"]


def test_revisions_count_up(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    with catalog.begin() as tx:
        assert [tx.studies.next_revisions(["1.1"]) for _ in range(2)] == [{"1.1": 1}, {"1.1": 2}]


def test_scores_and_predictions(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    scores = np.linspace(0, 1, 14, dtype=np.float32)
    predictions = decisions.predict_study(scores, a_version())
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
        tx.scores.add_image_scores(1, {"1.1.1": scores})
        tx.scores.add_image_scores(1, {"1.1.1": scores})
        tx.scores.add_image_scores(1, {})
        for revision in (1, 2):
            tx.scores.put_predictions(1, {"1.1": predictions}, {"1.1": revision})
    with catalog.read() as tx:
        assert tx.scores.image_scores("1.1", 1)["1.1.1"] == pytest.approx(scores)
        assert tx.scores.image_scores("1.1", 2) == {}
        assert tx.scores.predictions("1.1", 1) == predictions
        assert tx.scores.predictions("1.1", 2) == []


def test_one_version_serves(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        assert (tx.versions.serving(), tx.versions.next_number()) == (None, 1)
        tx.versions.add(a_version(card={"architecture": "tiny"}, notice="UNTRAINED"))
        tx.versions.add(a_version(2, VersionState.CANDIDATE))
    with pytest.raises(Exception, match=r"(?i)unique|serves"), catalog.begin() as tx:
        tx.versions.add(a_version(3))
    with catalog.begin() as tx:
        assert tx.versions.serving() == a_version(card={"architecture": "tiny"}, notice="UNTRAINED")
        tx.versions.serve(2)
    with catalog.read() as tx:
        assert [(v.number, v.state) for v in tx.versions.all()] == [(1, VersionState.RETIRED), (2, VersionState.SERVING)]
        assert tx.versions.next_number() == 3
        assert tx.versions.find(9) is None


def test_a_report_is_pending_once_then_built_then_sent(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    first = Report(
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        study_instance_uid="1.1",
        version=1,
        revision=1,
        state=ReportState.PENDING,
        sop_class_uid="1.2",
    )
    second = replace(first, sop_instance_uid="2.25.3", revision=2, predecessor="2.25.1")
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        assert tx.reports.latest("1.1") is None
        assert tx.reports.ensure_pending(first) == first
        assert tx.reports.ensure_pending(replace(first, predecessor="other")) == first
        other_root = replace(first, sop_instance_uid="1.2.3.4")
        assert tx.reports.ensure_pending(other_root) == first  # a revision is reported once, also under another UID root
        assert tx.reports.ensure_pending(second) == second
        assert tx.reports.latest("1.1") == second
        tx.reports.mark_built("2.25.1", FILE)
        tx.reports.mark_sent("2.25.1", "0x0000")
        tx.reports.mark_refused("2.25.3", "0xA900")
    with catalog.read() as tx:
        assert tx.reports.find("2.25.1") == replace(first, state=ReportState.SENT, file=FILE, status="0x0000")
        refused = tx.reports.find("2.25.3")
        assert refused is not None
        assert (refused.state, refused.status, refused.predecessor) == (ReportState.REFUSED, "0xA900", "2.25.1")


def test_a_visible_object_is_pending_once_then_built_then_sent(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    sr = Report(
        sop_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        study_instance_uid="1.1",
        version=1,
        revision=1,
        state=ReportState.PENDING,
    )
    text = VisibleObject(
        sop_instance_uid="2.25.3",
        series_instance_uid="2.25.4",
        report="2.25.1",
        kind=VisibleKind.TEXT,
        state=ReportState.PENDING,
        sop_class_uid="1.2",
        predecessor="2.25.9",
    )
    card = replace(text, sop_instance_uid="2.25.5", kind=VisibleKind.CARD, predecessor=None)
    with catalog.begin() as tx:
        tx.versions.add(a_version())
        tx.reports.ensure_pending(sr)
        assert tx.reports.visible_objects("2.25.1") == []
        assert tx.reports.ensure_visible(text) == text
        assert tx.reports.ensure_visible(replace(text, predecessor="other")) == text
        assert tx.reports.ensure_visible(replace(text, sop_instance_uid="1.2.3.4")) == text  # under another UID root
        assert tx.reports.ensure_visible(card) == card
        tx.reports.mark_built("2.25.3", FILE)
        tx.reports.mark_sent("2.25.3", "0x0000")
        tx.reports.mark_refused("2.25.5", "0xA900")
    with catalog.read() as tx:
        sent = replace(text, state=ReportState.SENT, file=FILE, status="0x0000")
        refused = replace(card, state=ReportState.REFUSED, status="0xA900")
        assert tx.reports.visible_objects("2.25.1") == [sent, refused]
        assert (tx.reports.find_visible("2.25.3"), tx.reports.find_visible("2.25.1")) == (sent, None)
        assert tx.reports.find("2.25.1") == sr


def test_one_job_waits_for_each_subject_and_takes_the_newest_payload(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        assert tx.jobs.put(JobKind.REPORT, "1.1", {"revision": 1}) is not None
        assert tx.jobs.put(JobKind.REPORT, "1.1", {"revision": 2}) is None
        assert tx.jobs.put(JobKind.SCORE, "1.1") is not None
    with catalog.begin() as tx:
        (job,) = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=5, limit=9)
        assert (job.payload, job.attempts, job.state) == ({"revision": 2}, 1, JobState.RUNNING)


def test_jobs_are_claimed_by_priority_then_age(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        for subject, priority in (("a", 100), ("b", 100), ("c", 1)):
            tx.jobs.put(JobKind.SCORE, subject, priority=priority)
    with catalog.begin() as tx:
        assert [j.subject for j in tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, limit=2)] == ["c", "a"]
        assert [j.subject for j in tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, limit=2)] == ["b"]


def test_the_newest_jobs_may_be_claimed_before_the_oldest(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    for subject in "abcdefg":
        with catalog.begin() as tx:
            tx.jobs.put(JobKind.SCORE, subject)
            tx.jobs.put(JobKind.SCORE, f"archive {subject}", priority=900)
        pass_time(0.002)
    with catalog.begin() as tx:
        claimed = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, limit=4, newest=2)
        assert [(job.subject, job.priority) for job in claimed] == [(subject, priorities.ARRIVED) for subject in "gfab"]
        claimed = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, limit=1, newest=1)
        assert [job.subject for job in claimed] == ["e"]
        claimed = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, limit=4, newest=4)
        assert [job.subject for job in claimed] == ["d", "c", "archive a", "archive b"]  # rescoring jobs keep their order


def test_jobs_with_a_due_time_keep_the_place_of_the_jobs_before_them(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    for subject in "abcd":
        with catalog.begin() as tx:
            tx.jobs.put(JobKind.SCORE, subject)
        pass_time(0.002)
    for subject in "dabc":  # the last is scored first
        with catalog.begin() as tx:
            (scored,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5, subjects=[subject])
            tx.jobs.put_all(JobKind.REPORT, {subject: {}}, due={subject: scored.due_at})
            tx.jobs.finish(scored)
        pass_time(0.002)
    with catalog.begin() as tx:
        claimed = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=5, limit=4, newest=2)
        assert [job.subject for job in claimed] == list("dcab")


def test_a_subject_with_a_running_job_is_not_claimed(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "a")
        (held,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30)
        tx.jobs.put(JobKind.SCORE, "a")
        assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30) == []
        tx.jobs.finish(held)
        assert len(tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30)) == 1


def test_a_job_with_an_expired_lease_is_claimed_before_waiting_ones(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "a")
        (expired,) = tx.jobs.claim([JobKind.SCORE], worker="dead", lease_seconds=0.1)
        tx.jobs.put(JobKind.SCORE, "a")
    pass_time(0.2)
    with catalog.begin() as tx:
        (again,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30, limit=9)
        assert again.id == expired.id
        assert tx.jobs.claim([JobKind.SCORE], worker="other", lease_seconds=30, limit=9) == []
        tx.jobs.finish(again)
        (waiting,) = tx.jobs.claim([JobKind.SCORE], worker="other", lease_seconds=30, limit=9)
        assert waiting.id != expired.id


def test_a_more_urgent_job_raises_the_priority_of_the_waiting_one(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "old study", priority=500)
        tx.jobs.put(JobKind.SCORE, "other", priority=100)
        tx.jobs.put(JobKind.SCORE, "old study", priority=1)
        tx.jobs.put(JobKind.SCORE, "old study", priority=900)
        assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)[0].subject == "old study"


def test_an_expired_lease_passes_to_another_worker_and_the_first_is_fenced(
    catalog: Catalog, pass_time: Callable[[float], None]
) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "a")
        (first,) = tx.jobs.claim([JobKind.SCORE], worker="dead", lease_seconds=0.2)
        tx.jobs.extend(first, lease_seconds=0.2)
        assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5) == []
    pass_time(0.3)
    with catalog.begin() as tx:
        (second,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        assert (second.id, second.attempts) == (first.id, 2)
        assert second.lease_token != first.lease_token
    with pytest.raises(LeaseLost), catalog.begin() as tx:
        tx.jobs.finish(first)
    with pytest.raises(LeaseLost), catalog.begin() as tx:
        tx.jobs.extend(first, lease_seconds=5)
    with catalog.begin() as tx:
        tx.jobs.retry(first, error="late", delay_seconds=0)
        tx.jobs.quarantine(first, error="late")
        tx.jobs.finish(second)
        assert tx.jobs.count_by_state() == {(JobKind.SCORE, JobState.DONE): 1}


def test_a_retry_is_delayed_and_may_not_count_as_an_attempt(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SEND, "a")
        (job,) = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)
        tx.jobs.retry(job, error="archive unreachable", delay_seconds=0.2, counts=False)
        assert tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5) == []
    pass_time(0.3)
    with catalog.begin() as tx:
        (again,) = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)
        assert (again.attempts, again.error) == (1, "archive unreachable")
        tx.jobs.retry(again, error="busy", delay_seconds=0)
    with catalog.begin() as tx:
        assert tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)[0].attempts == 2


def test_a_retry_yields_to_a_newer_waiting_job(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "a")
        (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        tx.jobs.put(JobKind.SCORE, "a")
        tx.jobs.retry(job, error="x", delay_seconds=0)
        assert tx.jobs.count_by_state() == {(JobKind.SCORE, JobState.DONE): 1, (JobKind.SCORE, JobState.WAITING): 1}


def test_a_quarantined_job_is_requeued(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SEND, "a")
        (job,) = tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)
        tx.jobs.quarantine(job, error="refused")
        assert tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5) == []
        assert tx.jobs.requeue([job.id + 1]) == 0
        assert tx.jobs.requeue([job.id]) == 1
    with catalog.begin() as tx:
        assert tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)[0].attempts == 1


def test_of_two_quarantined_jobs_the_newer_is_requeued_and_no_waiting_job_is_overwritten(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        for revision in (1, 2):
            tx.jobs.put(JobKind.REPORT, "a", {"revision": revision})
            tx.jobs.quarantine(tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=5)[0], error="x")
        assert tx.jobs.requeue() == 2
        (job,) = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=5, limit=9)
        assert (job.payload, job.attempts) == ({"revision": 2}, 1)
        tx.jobs.quarantine(job, error="x")
        tx.jobs.put(JobKind.REPORT, "a", {"revision": 3})
        assert tx.jobs.requeue() == 1
        (job,) = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=5, limit=9)
        assert job.payload == {"revision": 3}


def test_done_jobs_are_purged_after_their_time(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SEND, "a")
        tx.jobs.finish(tx.jobs.claim([JobKind.SEND], worker="w", lease_seconds=5)[0])
        assert tx.jobs.purge_done(older_than_days=1) == 0
    pass_time(0.1)
    with catalog.begin() as tx:
        assert tx.jobs.purge_done(older_than_days=0) == 1


def test_a_circuit_opens_lets_one_probe_through_and_closes(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.circuits.record_failure("PACS", threshold=2, open_seconds=0.2)
        assert tx.circuits.admit("PACS", probe_seconds=30)
        tx.circuits.record_failure("PACS", threshold=2, open_seconds=0.2)
        assert not tx.circuits.admit("PACS", probe_seconds=30)
        assert tx.circuits.admit("OTHER", probe_seconds=30)
    pass_time(0.3)
    with catalog.begin() as tx:
        assert tx.circuits.admit("PACS", probe_seconds=30)
        assert not tx.circuits.admit("PACS", probe_seconds=30)
        tx.circuits.record_success("PACS")
        assert tx.circuits.admit("PACS", probe_seconds=30)
        tx.audit(AuditEvent("send", "done", "PACS", "answers again"))


def test_the_newest_complete_studies_are_returned_first(catalog: Catalog) -> None:
    for number in (1, 2, 3):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    with catalog.begin() as tx:
        tx.studies.put_state("1.1", StudyState.REPORTED)
        tx.studies.put_state("1.2", StudyState.SETTLED)
    with catalog.read() as tx:
        assert tx.studies.newest_complete(limit=5) == ["1.2", "1.1"]
        assert tx.studies.newest_complete(limit=1) == ["1.2"]
        assert tx.studies.newest_complete(limit=0) == []


def test_the_files_of_the_newest_instances_are_returned_first(catalog: Catalog) -> None:
    with catalog.read() as tx:
        assert tx.studies.newest_files(limit=5) == []
    for number in (1, 2, 3):
        add_instance(catalog, chest_header(study="1.1", sop=f"1.1.{number}"))
    with catalog.read() as tx:
        known = [instance.file for uid in ("1.1.3", "1.1.2") if (instance := tx.studies.find_instance(uid)) is not None]
        assert tx.studies.newest_files(limit=2) == known


def test_the_previously_serving_version_is_known(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.versions.add(a_version(1))
        assert tx.versions.previously_serving() is None
    for number in (2, 3):
        time.sleep(0.005)
        with catalog.begin() as tx:
            tx.versions.add(a_version(number, VersionState.CANDIDATE))
            tx.versions.serve(number)
    with catalog.begin() as tx:
        assert (before := tx.versions.previously_serving()) is not None
        assert before.number == 2
        tx.versions.put_state(2, VersionState.REJECTED, reason="odd")
    with catalog.read() as tx:
        assert (before := tx.versions.previously_serving()) is not None
        assert before.number == 1
        found = tx.versions.find(2)
        assert found is not None
        assert (found.state, found.reason) == (VersionState.REJECTED, "odd")


def test_studies_unscored_by_a_version_are_returned_newest_first(catalog: Catalog) -> None:
    for number in range(1, 8):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    predictions = decisions.predict_study(np.zeros(14, dtype=np.float32), a_version())
    with catalog.begin() as tx:
        for version in (a_version(1), a_version(2, VersionState.CANDIDATE)):
            tx.versions.add(version)
        for number in range(1, 8):
            tx.studies.put_state(f"1.{number}", StudyState.REPORTED)
            tx.scores.put_predictions(1, {f"1.{number}": predictions}, {f"1.{number}": 1})
        tx.studies.put_state("1.1", StudyState.SCORED)
        tx.scores.put_predictions(2, {"1.2": predictions}, {"1.2": 2})
        tx.jobs.put(JobKind.SCORE, "1.3")
        for subject, conclude in (("1.4", tx.jobs.quarantine), ("1.5", None)):
            tx.jobs.put(JobKind.SCORE, subject, priority=1)
            (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60)
            if conclude:
                conclude(job, error="no image")
            else:
                tx.jobs.finish(job)
        tx.jobs.put(JobKind.REPORT, "1.6")
    with catalog.read() as tx:
        assert tx.studies.unscored(1, limit=9) == []
        assert tx.studies.unscored(2, limit=9) == ["1.7", "1.6", "1.5"]
        assert tx.studies.unscored(2, limit=1) == ["1.7"]
        opened = [tx.jobs.is_open(JobKind.SCORE, f"1.{number}") for number in (3, 4, 5, 6)]
        assert opened == [True, True, False, False]
        assert tx.jobs.is_open(JobKind.REPORT, "1.6")
