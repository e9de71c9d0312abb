"""The scheduler: APScheduler in one process, its entries in memory. It only calls functions; they decide and enqueue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from adapters.config.crontab import next_time, next_time_from

CALL_THREADS = 6
"""Calls that run concurrently: a slow one, such as a query to an archive, delays no other."""
CLOCK_TOLERANCE = timedelta(seconds=1)

log = structlog.get_logger("radclipd.scheduler")


class CrontabTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """APScheduler's trigger by a crontab line in UTC. Its own CronTrigger counts week days from Monday and joins days by "and"."""

    def __init__(self, line: str) -> None:
        self._line = line

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        if previous_fire_time is None:
            return next_time_from(self._line, now.astimezone(UTC))
        return next_time(self._line, min(previous_fire_time, now).astimezone(UTC))


class Scheduler:
    """Calls functions at intervals or by crontab. One call of a function at a time; a missed call is not repeated."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(CALL_THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._scheduler.add_listener(_log_error, EVENT_JOB_ERROR)
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)  # its warnings are of calls under way
        self._triggers: dict[str, Callable[[], BaseTrigger]] = {}

    def add_interval(self, seconds: float, name: str, call: Callable[[], Any]) -> None:
        """Call every `seconds`, for the first time after `seconds`."""
        self._add_call(call, name, lambda: IntervalTrigger(seconds=seconds, timezone="UTC"))

    def run_now(self, name: str) -> None:
        """Make a call at once, before it is due."""
        self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def add_cron(self, cron: str, name: str, call: Callable[[], Any]) -> None:
        """Call by a crontab line, UTC. A call that falls into a stop of the process is not repeated."""
        self._add_call(call, name, lambda: CrontabTrigger(cron))

    def _add_call(self, call: Callable[[], Any], name: str, make_trigger: Callable[[], BaseTrigger]) -> None:
        self._triggers[name] = make_trigger
        self._scheduler.add_job(call, make_trigger(), id=name, name=name)

    def follow_clock(self) -> None:
        """Plan anew each call that is due later than its interval or crontab allows: the clock was ahead and has been set right."""
        for name, make_trigger in self._triggers.items():
            job, trigger, now = self._scheduler.get_job(name), make_trigger(), datetime.now(UTC)
            latest = trigger.get_next_fire_time(None, now)
            if job is None or job.next_run_time is None or latest is None or job.next_run_time <= latest + CLOCK_TOLERANCE:
                continue
            log.warning("the clock was set back: call planned anew", call=name)
            self._scheduler.reschedule_job(name, trigger=trigger)

    def start(self) -> None:
        """Start the calls, on threads of the scheduler."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for the calls under way, then stop."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


def _log_error(event: JobExecutionEvent) -> None:
    """A failed call is repeated when it is due next. Only the error's type is logged: its text may quote a data set."""
    log.error("scheduled call failed", call=event.job_id, error=type(event.exception).__name__)
