"""preemption: learning and backfills pause between two steps while an arrived study waits for its scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import priorities
from pipeline.domain import JobKind
from pipeline.errors import OutOfResources, StopRequested
from pipeline.ports.services import Catalog

log = logging.getLogger("radclipd.preemption")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionPolicy:
    """Times of a preemption. Under endless arrivals, or without a score worker, the paused work ends up with half of the time."""

    poll_seconds: float = 1.0  # between two queries of the queue
    max_pause_seconds: float = 60.0  # longest single pause
    work_seconds: float = 5.0  # of work after a longest pause; doubles with each such pause in a row, up to max_pause_seconds


class Preemption:
    """`ports.services.StageCallback` that stops long work when the process must stop, and pauses it while arrivals wait for scores.

    Score jobs with priority BACKFILL or RESCORE pause nothing. Neither does a job that waits for its back-off, nor one whose worker
    is dead. `activity` names the paused work in the log.

    `sleep(seconds)` waits, and may return early. `score_batch`, for a process that scores too, runs one batch of score jobs and
    returns its size; it is called at every poll, so that the archive's jobs progress during a long round of learning as well.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        sleep: Callable[[float], object] = time.sleep,
        should_stop: Callable[[], bool] = lambda: False,
        score_batch: Callable[[], int] | None = None,
        policy: PreemptionPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        activity: str = "learning",
    ) -> None:
        self._activity = activity
        self._catalog, self._sleep, self._should_stop, self._clock = catalog, sleep, should_stop, clock
        self._score_batch = score_batch or (lambda: 0)
        self._policy = policy or PreemptionPolicy()
        self._next_poll, self._work_seconds = float("-inf"), self._policy.work_seconds

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Return at once, or after a pause. StopRequested where the process must stop, also during a pause."""
        self._raise_if_stopped(stage, done, total)
        started_at = self._clock()
        if started_at < self._next_poll:
            return
        scored = self._run_score_batch()
        while urgent := self._has_urgent_jobs():
            if self._clock() - started_at >= self._policy.max_pause_seconds:
                log.warning(
                    "score jobs still wait, other work takes a turn",
                    extra={"who": self._activity, "paused_seconds": self._policy.max_pause_seconds},
                )
                break
            if not scored:
                self._sleep(self._policy.poll_seconds)
            self._raise_if_stopped(stage, done, total)
            scored = self._run_score_batch()
        self._next_poll = self._clock() + (self._work_seconds if urgent else self._policy.poll_seconds)
        self._work_seconds = min(2 * self._work_seconds, self._policy.max_pause_seconds) if urgent else self._policy.work_seconds

    def _raise_if_stopped(self, stage: str, done: int, total: int) -> None:
        if self._should_stop():
            raise StopRequested(f"stop requested while at {stage}, {done} of {total}")

    def _run_score_batch(self) -> int:
        try:
            return self._score_batch()
        except OutOfResources as error:
            return self._log_unreachable(error)

    def _has_urgent_jobs(self) -> bool:
        try:
            with self._catalog.read() as tx:
                return tx.jobs.has_urgent(JobKind.SCORE, before=priorities.BACKFILL)
        except OutOfResources as error:
            return bool(self._log_unreachable(error))

    def _log_unreachable(self, error: OutOfResources) -> int:
        """Log that the catalog is unreachable; return 0 jobs. A short outage must not cost a round of learning."""
        log.warning("cannot query the queue", extra={"who": self._activity, "error": str(error)})
        return 0
