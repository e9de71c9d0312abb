"""The clock: APScheduler in one process, jobs in memory. It only calls; what it calls decides and enqueues."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

log = structlog.get_logger("radclipd.clock")


class Scheduler:
    """Calls functions at intervals, one at a time each, never catching up on what was missed."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(2)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._scheduler.add_listener(_log_error, EVENT_JOB_ERROR)

    def add_interval(self, seconds: float, name: str, call: Callable[[], Any]) -> None:
        """Call now and then every `seconds`."""
        self._scheduler.add_job(call, "interval", seconds=seconds, id=name, name=name)

    def run_now(self, name: str) -> None:
        """Make a call at once, before its next turn."""
        self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def add_cron(self, cron: str, name: str, call: Callable[[], Any]) -> None:
        """Call whenever a crontab line of five fields says so, in UTC. What a stopped process has missed is not caught up on."""
        self._scheduler.add_job(call, CronTrigger.from_crontab(cron, timezone="UTC"), id=name, name=name)

    def start(self) -> None:
        """Start calling, in threads of its own."""
        self._scheduler.start()

    def stop(self) -> None:
        """Wait for what runs, then stop."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)


def _log_error(event: JobExecutionEvent) -> None:
    """A call that failed is tried again at its next turn. Only the error's type: its text may quote a data set."""
    log.error("clock call failed", call=event.job_id, error=type(event.exception).__name__)
