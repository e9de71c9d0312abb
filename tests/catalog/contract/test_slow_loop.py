"""The contract of the slow loop with every catalog (fake, SQLite, PostgreSQL), its views and its status lines."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.cli import activity
from pipeline import decisions, learn
from pipeline.domain import Job, JobKind, Report, ReportState, StudyState, VersionState
from pipeline.errors import LeaseLost
from pipeline.learn import LearnOutcome, LearnResult
from pipeline.ports.services import Catalog, Transaction
from tests.builders.catalog_rows import FILE, add_instance, chest_header
from tests.builders.fakes.versions import a_version

PREDICTIONS = decisions.predict_study(np.zeros(14, dtype=np.float32), a_version())


def claim(tx: Transaction, kind: JobKind, lease_seconds: float = 60) -> Job:
    (job,) = tx.jobs.claim([kind], worker="w", lease_seconds=lease_seconds)
    return job


def has_urgent(catalog: Catalog, kind: JobKind = JobKind.SCORE, before: int = 900) -> bool:
    with catalog.read() as tx:
        return tx.jobs.has_urgent(kind, before=before)


def test_a_job_is_urgent_while_it_is_due_or_its_lease_is_valid(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    assert not has_urgent(catalog)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1", priority=900)
    assert not has_urgent(catalog)
    assert has_urgent(catalog, before=901)
    assert not has_urgent(catalog, JobKind.REPORT, before=901)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")  # raises the priority
    assert has_urgent(catalog)
    with catalog.begin() as tx:
        job = claim(tx, JobKind.SCORE, lease_seconds=0.2)
    assert has_urgent(catalog)
    pass_time(0.3)
    assert not has_urgent(catalog)  # the lease has expired
    with catalog.begin() as tx:
        again = claim(tx, JobKind.SCORE)
        assert again.id == job.id
        tx.jobs.retry(again, error="busy", delay_seconds=0.3)
    assert not has_urgent(catalog)
    pass_time(0.4)
    assert has_urgent(catalog)
    with catalog.begin() as tx:
        tx.jobs.finish(claim(tx, JobKind.SCORE))
    assert not has_urgent(catalog)


def test_notes_are_merged_into_the_payload_until_the_next_notes(catalog: Catalog, pass_time: Callable[[float], None]) -> None:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, "labels", {"asked": 1})
        job = claim(tx, JobKind.LEARN, lease_seconds=0.2)
    for notes in ({"stage": "a", "done": 1}, {"stage": "b"}):
        with catalog.begin() as tx:
            tx.jobs.put_notes(job, notes)
    pass_time(0.3)
    with catalog.begin() as tx:
        again = claim(tx, JobKind.LEARN)
        assert again.payload == {"asked": 1, "stage": "b"}
    with pytest.raises(LeaseLost), catalog.begin() as tx:
        tx.jobs.put_notes(job, {"stage": "c"})


def report(tx: Transaction, study: str, *, revision: int, refused: bool) -> None:
    uid = f"{study}.9.{revision}"
    opened = Report(
        sop_instance_uid=uid,
        series_instance_uid=f"{uid}.1",
        study_instance_uid=study,
        version=1,
        revision=revision,
        state=ReportState.PENDING,
    )
    tx.reports.ensure_pending(opened)
    tx.reports.mark_built(uid, FILE)
    if refused:
        tx.reports.mark_refused(uid, "0xA900")
    else:
        tx.reports.mark_sent(uid, "0x0000")


def test_a_study_whose_report_was_refused_is_scored_again_like_any_other(catalog: Catalog) -> None:
    """1.1: refused. 1.2: sent. 1.3: refused, then sent. 1.4: refused, with an active report job. 1.5: no report."""
    with catalog.begin() as tx:
        for version in (a_version(1), a_version(2, VersionState.CANDIDATE)):
            tx.versions.add(version)
    for number in range(1, 6):
        add_instance(catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    with catalog.begin() as tx:
        for number, states in enumerate(([True], [False], [True, False], [True], []), 1):
            uid = f"1.{number}"
            tx.scores.put_predictions(1, {uid: PREDICTIONS}, {uid: 1})
            for revision, refused in enumerate(states, 1):
                report(tx, uid, revision=revision, refused=refused)
            tx.studies.put_state(uid, StudyState.SCORED)
        tx.jobs.put(JobKind.REPORT, "1.4")
        tx.versions.serve(2)
    with catalog.read() as tx:
        assert tx.studies.unscored(2, limit=9) == ["1.1"]
    with catalog.begin() as tx:
        job = claim(tx, JobKind.REPORT)
    with catalog.read() as tx:
        assert tx.studies.unscored(2, limit=9) == ["1.1"]
    with catalog.begin() as tx:
        tx.jobs.quarantine(job, error="no SR can be built of it")
    with catalog.read() as tx:
        assert tx.studies.unscored(2, limit=9) == ["1.4", "1.1"]


def status_lines(url: str) -> list[str]:
    with query.open_session(url) as ask:
        return list(activity.activity_lines(ask))


def test_v_learning_shows_the_progress_and_the_result_of_a_round(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    assert status_lines(catalog_url) == []
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
    assert status_lines(catalog_url) == ["learning (job 1) waits"]
    with sql_catalog.begin() as tx:
        job = claim(tx, JobKind.LEARN)
    assert status_lines(catalog_url) == ["learning (job 1) begins"]
    for done, left in ((0, ""), (30, ", about 4 min left"), (299, ", less than a minute left")):
        with sql_catalog.begin() as tx:
            tx.jobs.put_notes(job, {"lease": job.lease_token, "stage": "unfreezing", "done": done, "total": 300, "seconds": 26.5})
        assert status_lines(catalog_url) == [f"learning (job 1): unfreezing, {done} of 300{left}"]
    with sql_catalog.begin() as tx:
        tx.jobs.retry(job, error="interrupted", delay_seconds=0, counts=False)
    assert status_lines(catalog_url) == ["learning (job 1) waits: interrupted"]
    with sql_catalog.begin() as tx:
        job = claim(tx, JobKind.LEARN)
    assert status_lines(catalog_url) == ["learning (job 1) begins"]  # the progress of an earlier attempt is not shown
    with sql_catalog.begin() as tx:
        learn._finish_job(tx, job, LearnOutcome(LearnResult.REJECTED, "no better", a_version(7)))
    (line,) = status_lines(catalog_url)
    assert line.startswith("last round of learning, 20")
    assert line.endswith(": rejected: no better")
    columns, (row,) = query.run(catalog_url, "SELECT * FROM v_learning")
    found = dict(zip(columns, row, strict=True))
    assert (found["state"], found["result"], found["version"], found["done"], found["seconds_left"]) == (
        "done",
        "rejected",
        7,
        None,
        None,
    )


def put(tx: Transaction, study: str, version: int) -> None:
    tx.scores.put_predictions(version, {study: PREDICTIONS}, tx.studies.next_revisions([study]))


def test_v_rescoring_shows_the_progress_of_rescoring_the_archive(sql_catalog: SqlCatalog, catalog_url: str) -> None:
    for number in range(1, 5):
        add_instance(sql_catalog, chest_header(study=f"1.{number}", sop=f"1.{number}.1"))
    with sql_catalog.begin() as tx:
        for version in (a_version(1), a_version(2, VersionState.CANDIDATE)):
            tx.versions.add(version)
        for number in range(1, 5):
            put(tx, f"1.{number}", 1)
            tx.studies.put_state(f"1.{number}", StudyState.REPORTED)
        report(tx, "1.4", revision=1, refused=True)
        tx.studies.put_state("1.4", StudyState.SCORED)
    assert status_lines(catalog_url) == []
    with sql_catalog.begin() as tx:
        put(tx, "1.1", 2)  # scored before it serves
    time.sleep(0.005)
    with sql_catalog.begin() as tx:
        tx.versions.serve(2)
    assert status_lines(catalog_url) == ["version 2 scores the archive again: 1 of 4 studies"]
    time.sleep(0.005)
    with sql_catalog.begin() as tx:
        put(tx, "1.2", 2)
    assert status_lines(catalog_url) == ["version 2 scores the archive again: 2 of 4 studies, less than a minute left"]
    with sql_catalog.begin() as tx:
        for number in (3, 4):
            put(tx, f"1.{number}", 2)
    assert status_lines(catalog_url) == []


@pytest.mark.parametrize(
    ("since", "scored_since", "scored", "said"),
    [
        ("08:00:00", 10, 85, "85 of 100 studies, about 90 min left"),
        ("05:00:00", 15, 85, "85 of 100 studies, about 4 h left"),
        ("08:59:00", 60, 99, "99 of 100 studies, less than a minute left"),
    ],
)
def test_the_time_left_is_extrapolated_from_the_progress_so_far(since: str, scored_since: int, scored: int, said: str) -> None:
    row = {"version": 2, "studies": 100, "scored": scored, "scored_since": scored_since}
    times = {"served_at": f"2026-01-01 {since}.000+00:00", "last_scored_at": "2026-01-01 09:00:00.000+00:00"}
    assert activity.describe_rescoring(row | times).endswith(said)
