"""A job that runs longer than its bound is ended and quarantined, whatever its step does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.service.overrun_guard import ForkedOverrunGuard
from pipeline.domain import Job, JobKind, JobState
from tests.builders.sql import rows

LIMIT_SECONDS = 60.0


def run_worker(tmp_path: Path, loop: str, subjects: Sequence[str]) -> tuple[int, list[tuple[object, ...]]]:
    """Run the worker to its end; return its exit status and the jobs."""
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    schema.upgrade(url)
    catalog = SqlCatalog.open(url, busy_timeout_seconds=5, wake=lambda _kinds: None)
    with catalog.begin() as tx:
        for subject in subjects:
            tx.jobs.put(JobKind.LABEL, subject, {"kept": 1})
    worker = subprocess.Popen([sys.executable, "-m", "tests.builders.overrunning_worker", url, loop])
    try:
        status = worker.wait(LIMIT_SECONDS)
    finally:
        worker.kill()
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        with catalog.read() as tx:
            if not any(state is JobState.RUNNING for _, state in tx.jobs.count_by_state()):
                break
        time.sleep(0.05)
    catalog.dispose()
    return status, rows(url, "SELECT subject, state, attempts, payload, error FROM jobs ORDER BY id")


@pytest.mark.parametrize("loop", ["python", "c", "transaction"])
def test_a_job_that_loops_for_ever_is_ended_and_quarantined(tmp_path: Path, loop: str) -> None:
    status, ((subject, state, attempts, payload, error),) = run_worker(tmp_path, loop, ["stuck"])
    assert (status, subject, state, attempts) == (-signal.SIGKILL, "stuck", "quarantined", 1)
    assert '"kept": 1' in str(payload)
    assert "JobOverrun" in str(payload)
    assert str(error).startswith("without an outcome for 1 s")
    assert "work.max_label_seconds" in str(error)


def test_only_the_unfinished_jobs_of_a_batch_go_back(tmp_path: Path) -> None:
    status, found = run_worker(tmp_path, "batch", ["quick", "stuck", "innocent"])
    assert status == -signal.SIGKILL
    assert [(subject, state, attempts) for subject, state, attempts, _, _ in found] == [
        ("quick", "done", 1),
        ("stuck", "waiting", 1),
        ("innocent", "waiting", 1),
    ]


def test_a_guard_leaves_a_worker_alone_that_ends_its_jobs_in_time() -> None:
    calls: list[Sequence[Job]] = []
    job = Job(id=1, kind=JobKind.LABEL, subject="s", due_at=datetime.now(UTC))
    with ForkedOverrunGuard(lambda jobs, _seconds: calls.append(jobs)) as guard:
        for _ in range(5):
            guard.watch([job], 0.5)
            time.sleep(0.2)
        guard.watch([], 0.5)
        time.sleep(0.8)
    assert calls == []


def test_a_worker_whose_guard_has_died_stops() -> None:
    received: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with ForkedOverrunGuard(lambda _jobs, _seconds: None) as guard:
            os.kill(guard.process_id, signal.SIGKILL)
            time.sleep(0.3)
            guard.watch([], 1.0)
            guard.watch([], 1.0)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)
