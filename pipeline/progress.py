"""progress: the stage of a long job -> notes in the job's payload, for views, metrics and people."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pipeline.domain import Job
from pipeline.errors import OutOfResources
from pipeline.ports.services import Catalog, StageCallback

log = logging.getLogger("radclipd.progress")

NOTE_INTERVAL_SECONDS = 5.0
"""Time between two notes of one stage."""
LOG_INTERVAL_SECONDS = 60.0
"""Time between two log lines of one stage."""


class JobProgress:
    """`ports.services.StageCallback` that notes `stage`, `done`, `total` and the `seconds` spent on the stage in the job's payload.

    The note `lease` tells the notes of this attempt from those of an earlier one. LeaseLost where another worker holds the job: the
    result of this attempt could not be committed.
    """

    def __init__(self, job: Job, *, catalog: Catalog, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._catalog, self._clock = job, catalog, clock
        self._stage = ""
        self._stage_began_at = self._called_at = clock()
        self._noted_at = self._logged_at = float("-inf")

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Write a note where a stage begins, and at intervals."""
        previous_call, now = self._called_at, self._clock()
        self._called_at = now
        if stage != self._stage:
            self._stage, self._stage_began_at = stage, previous_call
            self._noted_at = self._logged_at = float("-inf")
        if now - self._noted_at >= NOTE_INTERVAL_SECONDS:
            self._noted_at = now
            seconds = round(now - self._stage_began_at, 3)
            self._write_notes({"lease": self._job.lease_token, "stage": stage, "done": done, "total": total, "seconds": seconds})
        if now - self._logged_at >= LOG_INTERVAL_SECONDS:
            self._logged_at = now
            log.info("under way", extra={"kind": self._job.kind.value, "stage": stage, "done": done, "total": total})

    def _write_notes(self, notes: dict[str, object]) -> None:
        try:
            with self._catalog.begin() as tx:
                tx.jobs.put_notes(self._job, notes)
        except OutOfResources as error:
            log.warning("progress not noted", extra={"job": self._job.id, "error": str(error)})


def chain_callbacks(first: StageCallback, second: StageCallback) -> StageCallback:
    """Return a callback that calls both, in this order."""

    def call_both(stage: str, done: int, total: int) -> None:
        first(stage, done, total)
        second(stage, done, total)

    return call_both
