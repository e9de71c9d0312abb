"""yielding: learning, and backfills, pause between two steps while a study that has arrived waits for its scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import backfill
from pipeline.domain import JobKind
from pipeline.errors import OutOfResources, StopRequested
from pipeline.ports.services import Catalog

log = logging.getLogger("radclipd.yielding")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionPolicy:
    """Times in seconds. Under arrivals without end, or where nobody scores them, learning gets in the end half of the time."""

    poll_seconds: float = 1.0  # between two looks at the queue
    max_pause_seconds: float = 60.0  # of one pause
    turn_seconds: float = (
        5.0  # of learning after a pause that was as long as that; doubled after each such pause in a row, up to `longest`
    )


class Preemption:
    """ports.Watch that stops learning where the process was told to, and lets the scoring of arrivals go first.

    A study of the archive, one that a backfill brought or one that is scored again, is behind learning, as it is behind arrivals.
    A job that rests after a failure, or that a dead worker holds, is waited for by nobody. A backfill yields in the same way.

    `rest(seconds)` waits, and may wake early. `meanwhile`, where this process scores too, takes one batch of score jobs and
    returns how many it held; it is called at every look, so that the archive has its share of a long round of learning as well.
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
        self._who = activity
        self._catalog, self._rest, self._over, self._clock = catalog, sleep, should_stop, clock
        self._meanwhile = score_batch or (lambda: 0)
        self._policy = policy or PreemptionPolicy()
        self._next_look, self._turn = float("-inf"), self._policy.turn_seconds

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Interrupted where it is time to stop, also in the middle of a pause."""
        self._raise_if_stopped(stage, done, total)
        began = self._clock()
        if began < self._next_look:
            return
        scored = self._run_score_batch()
        while pressing := self._has_urgent_jobs():
            if self._clock() - began >= self._policy.max_pause_seconds:
                paused = {"who": self._who, "paused_seconds": self._policy.max_pause_seconds}
                log.warning("score jobs still wait, other work takes a turn", extra=paused)
                break
            if not scored:
                self._rest(self._policy.poll_seconds)
            self._raise_if_stopped(stage, done, total)
            scored = self._run_score_batch()
        self._next_look = self._clock() + (self._turn if pressing else self._policy.poll_seconds)
        self._turn = min(2 * self._turn, self._policy.max_pause_seconds) if pressing else self._policy.turn_seconds

    def _raise_if_stopped(self, stage: str, done: int, total: int) -> None:
        if self._over():
            raise StopRequested(f"told to stop while at {stage}, {done} of {total}")

    def _run_score_batch(self) -> int:
        try:
            return self._meanwhile()
        except OutOfResources as error:
            return self._log_unreachable(error)

    def _has_urgent_jobs(self) -> bool:
        try:
            with self._catalog.read() as tx:
                return tx.jobs.has_urgent(JobKind.SCORE, before=backfill.BACKFILL_PRIORITY)
        except OutOfResources as error:
            return bool(self._log_unreachable(error))

    def _log_unreachable(self, error: OutOfResources) -> int:
        """A catalog that is away for a moment is no reason to throw a round of learning away."""
        log.warning("cannot look at the queue", extra={"who": self._who, "error": str(error)})
        return 0
