"""Calls at intervals and by crontab, also where the clock was ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from adapters.service.scheduler import Scheduler


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.stop()


def due_at(scheduler: Scheduler, name: str) -> datetime:
    found: datetime = scheduler._scheduler.get_job(name).next_run_time
    return found


def test_a_call_that_was_planned_while_the_clock_was_ahead_is_planned_anew(scheduler: Scheduler) -> None:
    called = threading.Event()
    scheduler.add_interval(0.2, "settle", called.set)
    scheduler.add_cron("30 2 * * *", "learn", lambda: None)
    scheduler.start()
    ahead = datetime.now(UTC) + timedelta(days=400)
    for name in ("settle", "learn"):
        scheduler._scheduler.modify_job(name, next_run_time=ahead)
    called.clear()
    assert not called.wait(0.5)
    scheduler.follow_clock()
    assert called.wait(5)
    assert due_at(scheduler, "learn") <= datetime.now(UTC) + timedelta(days=1)


def test_calls_on_time_are_left_alone(scheduler: Scheduler) -> None:
    scheduler.add_interval(1000, "settle", lambda: None)
    scheduler.add_cron("30 2 * * *", "learn", lambda: None)
    scheduler.start()
    before = [due_at(scheduler, name) for name in ("settle", "learn")]
    scheduler.follow_clock()
    assert [due_at(scheduler, name) for name in ("settle", "learn")] == before


def test_a_slow_call_delays_no_other(scheduler: Scheduler) -> None:
    over, called = threading.Event(), threading.Event()
    scheduler.add_interval(0.05, "ask archive", over.wait)
    scheduler.add_interval(0.1, "settle", called.set)
    scheduler.start()
    try:
        assert called.wait(5)
        called.clear()
        assert called.wait(5)
    finally:
        over.set()
