"""Wake-ups between processes: a wait ends at once, and one that is lost costs nothing but a poll."""

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


def test_a_wait_ends_when_there_is_work_of_its_kind_and_not_for_others(tmp_path: Path) -> None:
    wakes = WakeupSockets(str(tmp_path))
    (heard,) = wakes.listen(["score"])
    with closing(heard), StopSignal(wake_sockets=[heard]) as stop:
        wakes.wake(["report"])
        begun = time.monotonic()
        stop.wait(0.1)
        assert time.monotonic() - begun >= 0.09
        timer = threading.Timer(0.05, wakes.wake, (["score"],))
        timer.start()
        stop.wait(30)
        assert time.monotonic() - begun < 10
        timer.join()


def test_what_came_before_the_wait_ends_it_once_however_often_it_came(tmp_path: Path) -> None:
    wakes = WakeupSockets(str(tmp_path))
    (heard,) = wakes.listen(["score"])
    with closing(heard), StopSignal(wake_sockets=[heard]) as stop:
        for _ in range(1000):  # more than a socket keeps
            wakes.wake(["score"])
        begun = time.monotonic()
        stop.wait(30)
        assert time.monotonic() - begun < 10
        begun = time.monotonic()
        stop.wait(0.05)
        assert time.monotonic() - begun >= 0.04


def test_every_process_of_a_kind_is_woken_and_too_many_are_left_to_poll(tmp_path: Path) -> None:
    wakes = WakeupSockets(str(tmp_path))
    heard = [wakes.listen(["score"])[0] for _ in range(MAX_WOKEN_PROCESSES)]
    assert wakes.listen(["score"]) == []
    wakes.wake(["score"])
    assert [found.recv(16) for found in heard] == [b"!"] * MAX_WOKEN_PROCESSES
    for found in heard:
        found.close()
    wakes.wake(["score"])  # nobody is there


def test_only_a_commit_wakes_and_says_what_for(tmp_path: Path) -> None:
    url, told = f"sqlite:///{tmp_path / 'catalog.db'}", list[set[str]]()
    schema.upgrade(url)
    catalog = SqlCatalog(url, wake=lambda kinds: told.append(set(kinds)))
    with catalog.begin() as tx:
        tx.now()
    with pytest.raises(ZeroDivisionError), catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
        _ = 1 / 0
    assert told == []
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
        assert told == []
        tx.studies.mark_released(["1.2"])
    assert told == [{"score", SETTLE}]
    catalog.dispose()
