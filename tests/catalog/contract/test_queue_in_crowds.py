"""Many workers at one queue: each job is claimed once, none is lost."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import text

import adapters.catalog as catalog_package
from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.jobs import _select_due
from pipeline.domain import Job, JobKind

JOBS, WORKERS = 60, 4


def _claim_all(url: str, claimed: list[str]) -> None:
    catalog = SqlCatalog(url, busy_timeout_seconds=20)
    while True:
        with catalog.begin() as tx:
            jobs = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=60, limit=3)
            for job in jobs:
                tx.jobs.finish(job)
        if not jobs:
            break
        claimed.extend(job.subject for job in jobs)
    catalog.dispose()


def _claim_in_a_process(url: str, results: multiprocessing.Queue[list[str]]) -> None:
    claimed: list[str] = []
    _claim_all(url, claimed)
    results.put(claimed)


def _fill(url: str) -> None:
    catalog = SqlCatalog(url)
    with catalog.begin() as tx:
        for number in range(JOBS):
            tx.jobs.put(JobKind.SCORE, f"1.{number}")
    catalog.dispose()


def test_each_job_is_claimed_by_one_of_many_threads(catalog_url: str) -> None:
    _fill(catalog_url)
    claimed: list[str] = []
    threads = [threading.Thread(target=_claim_all, args=(catalog_url, claimed)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(claimed) == Counter(f"1.{number}" for number in range(JOBS))


def test_each_job_is_claimed_by_one_of_many_processes(catalog_url: str) -> None:
    _fill(catalog_url)
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    workers = [context.Process(target=_claim_in_a_process, args=(catalog_url, results)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    claimed = [subject for _ in workers for subject in results.get(timeout=60)]
    for worker in workers:
        worker.join(60)
    assert Counter(claimed) == Counter(f"1.{number}" for number in range(JOBS))


def test_concurrent_writers_wait_and_do_not_fail(catalog_url: str) -> None:
    """Transactions that read first and then write: SQLite refuses them without BEGIN IMMEDIATE."""
    catalog = SqlCatalog(catalog_url, busy_timeout_seconds=20)
    failures: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(15):
                with catalog.begin() as tx:
                    tx.jobs.count_by_state()
                    tx.circuits.record_failure("PACS", threshold=10_000, open_seconds=1)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    catalog.dispose()
    assert failures == []


def _claim_and_hang(url: str, commits: bool, held: Connection) -> None:
    catalog = SqlCatalog(url, busy_timeout_seconds=20)
    with catalog.begin() as tx:
        (job,) = tx.jobs.claim([JobKind.SCORE], worker="doomed", lease_seconds=1.0)
        if not commits:
            held.send(job.id)
            time.sleep(60)
    held.send(job.id)
    time.sleep(60)


@pytest.mark.parametrize("commits", [False, True], ids=["before its commit", "after its commit"])
def test_the_job_of_a_killed_worker_is_claimed_by_another(catalog_url: str, commits: bool) -> None:
    catalog = SqlCatalog(catalog_url, busy_timeout_seconds=20)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.1")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    doomed = context.Process(target=_claim_and_hang, args=(catalog_url, commits, theirs))
    doomed.start()
    held = ours.recv()
    doomed.kill()
    doomed.join(10)
    if commits:
        with catalog.begin() as tx:
            assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5) == []  # the lease still runs
    deadline = time.monotonic() + 10
    claimed: list[Job] = []
    while not claimed and time.monotonic() < deadline:
        with catalog.begin() as tx:
            claimed = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=5)
        time.sleep(0.05)
    assert [(job.id, job.attempts) for job in claimed] == [(held, 2 if commits else 1)]
    catalog.dispose()


def test_only_the_databases_clock_is_used() -> None:
    """The clocks of workers on other hosts may be wrong."""
    for path in Path(catalog_package.__file__ or "").parent.glob("*.py"):
        assert not re.search(r"datetime\.now|utcnow|\btime\.(time|monotonic)|^import time", path.read_text(), re.MULTILINE), path


def test_the_next_job_of_a_long_queue_is_found_by_an_index(catalog_url: str) -> None:
    """Sorting the whole queue for each claim would slow the rescoring of an archive to a crawl."""
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000)"
    engine = open_engine(database_url(catalog_url), busy_timeout_seconds=10)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(text(f"INSERT INTO jobs (kind, subject, payload) {many} SELECT 'score', '1.' || x, '{{}}' FROM n"))
        connection.execute(text("ANALYZE"))
        claim = str(_select_due([JobKind.SCORE]).limit(1).compile(engine, compile_kwargs={"literal_binds": True}))
    engine.dispose()
    explain = "EXPLAIN QUERY PLAN" if catalog_url.startswith("sqlite") else "EXPLAIN"
    plan = str(query.run(catalog_url, f"{explain} {claim}")[1])
    assert "ix_jobs_due" in plan
    assert not re.search("TEMP B-TREE|Sort", plan)
