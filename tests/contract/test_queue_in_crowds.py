"""Many workers at one queue: no job twice, none lost."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter

from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import JobKind

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


def test_threads_share_the_queue(catalog_url: str) -> None:
    _fill(catalog_url)
    claimed: list[str] = []
    threads = [threading.Thread(target=_claim_all, args=(catalog_url, claimed)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(claimed) == Counter(f"1.{number}" for number in range(JOBS))


def test_processes_share_the_queue(catalog_url: str) -> None:
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


def test_writers_wait_for_each_other_instead_of_failing(catalog_url: str) -> None:
    """Read-then-write transactions, which SQLite without BEGIN IMMEDIATE would refuse."""
    catalog = SqlCatalog(catalog_url, busy_timeout_seconds=20)
    failures: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(15):
                with catalog.begin() as tx:
                    tx.jobs.counts()
                    tx.circuits.failed("PACS", threshold=10_000, rest_seconds=1)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    catalog.dispose()
    assert failures == []
