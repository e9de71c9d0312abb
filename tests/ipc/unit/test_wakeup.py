"""Wake-ups between processes: a wait ends at once, and a lost wake-up costs one poll."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from adapters.catalog import schema
from adapters.catalog.catalog import SETTLE, SqlCatalog
from adapters.ipc.wakeup import MAX_WOKEN_PROCESSES, WakeupSockets
from adapters.service.signals import StopSignal
from pipeline.domain import JobKind


def test_a_wait_ends_for_work_of_its_own_kind_only(tmp_path: Path) -> None:
    wakeups = WakeupSockets(str(tmp_path))
    (bound,) = wakeups.listen(["score"])
    with closing(bound), StopSignal(wake_sockets=[bound]) as stop:
        wakeups.wake(["report"])
        begun = time.monotonic()
        stop.wait(0.1)
        assert time.monotonic() - begun >= 0.09
        timer = threading.Timer(0.05, wakeups.wake, (["score"],))
        timer.start()
        stop.wait(30)
        assert time.monotonic() - begun < 10
        timer.join()


def test_wakeups_before_a_wait_end_it_once(tmp_path: Path) -> None:
    wakeups = WakeupSockets(str(tmp_path))
    (bound,) = wakeups.listen(["score"])
    with closing(bound), StopSignal(wake_sockets=[bound]) as stop:
        for _ in range(1000):  # more than a socket keeps
            wakeups.wake(["score"])
        begun = time.monotonic()
        stop.wait(30)
        assert time.monotonic() - begun < 10
        begun = time.monotonic()
        stop.wait(0.05)
        assert time.monotonic() - begun >= 0.04


def test_processes_beyond_the_limit_are_not_woken(tmp_path: Path) -> None:
    wakeups = WakeupSockets(str(tmp_path))
    bound = [wakeups.listen(["score"])[0] for _ in range(MAX_WOKEN_PROCESSES)]
    assert wakeups.listen(["score"]) == []
    wakeups.wake(["score"])
    assert [each.recv(16) for each in bound] == [b"!"] * MAX_WOKEN_PROCESSES
    for each in bound:
        each.close()
    wakeups.wake(["score"])  # no process listens


def test_a_commit_wakes_the_workers_of_its_jobs_and_a_rollback_wakes_none(tmp_path: Path) -> None:
    url, woken_kinds = f"sqlite:///{tmp_path / 'catalog.db'}", list[set[str]]()
    schema.upgrade(url)
    catalog = SqlCatalog(url, wake=lambda kinds: woken_kinds.append(set(kinds)))
    with catalog.begin() as tx:
        tx.now()
    with pytest.raises(ZeroDivisionError), catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
        _ = 1 / 0
    assert woken_kinds == []
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
        assert woken_kinds == []
        tx.studies.mark_released(["1.2"])
    assert woken_kinds == [{"score", SETTLE}]
    catalog.dispose()
