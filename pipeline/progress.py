"""progress: how far a long job is, kept with the job, for views and people."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pipeline.domain import Job
from pipeline.errors import OutOfResources
from pipeline.ports.services import Catalog, StageCallback

log = logging.getLogger("radclipd.progress")

NOTE_INTERVAL_SECONDS = 5.0
"""Between two notes of one stage."""
LOG_INTERVAL_SECONDS = 60.0
"""Between two lines of the log about one stage."""


class JobProgress:
    """ports.Watch that notes in the job's payload what is under way: `stage`, `done`, `total`, and `seconds` spent on it.

    `lease` tells the notes of this try from those that a try before it has left.

    LeaseLost where another worker holds the job: what is under way here would come to nothing.
    """

    def __init__(self, job: Job, *, catalog: Catalog, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._catalog, self._clock = job, catalog, clock
        self._stage = ""
        self._began = self._heard = clock()
        self._noted = self._logged = float("-inf")

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write it down where a stage begins, and every few seconds."""
        before, self._heard = self._heard, self._clock()
        if stage != self._stage:
            self._stage, self._began, self._noted, self._logged = stage, before, float("-inf"), float("-inf")
        if self._heard - self._noted >= NOTE_INTERVAL_SECONDS:
            self._noted = self._heard
            spent = round(self._heard - self._began, 3)
            self._write_notes({"lease": self._job.lease_token, "stage": stage, "done": done, "total": total, "seconds": spent})
        if self._heard - self._logged >= LOG_INTERVAL_SECONDS:
            self._logged = self._heard
            log.info("under way", extra={"kind": self._job.kind.value, "stage": stage, "done": done, "total": total})

    def _write_notes(self, notes: dict[str, object]) -> None:
        try:
            with self._catalog.begin() as tx:
                tx.jobs.put_notes(self._job, notes)
        except OutOfResources as error:
            log.warning("progress not noted", extra={"job": self._job.id, "error": str(error)})


def chain_callbacks(first: StageCallback, second: StageCallback) -> StageCallback:
    """Tell both, in this order."""

    def watch(what: str, done: int, total: int) -> None:
        first(what, done, total)
        second(what, done, total)

    return watch
