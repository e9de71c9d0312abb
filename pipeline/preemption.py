"""yielding: learning, and backfills, pause between two steps while a study that has arrived waits for its scores."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import backfill
from pipeline.domain import JobKind
from pipeline.errors import Interrupted, OutOfResources
from pipeline.ports.outside import Catalog

log = logging.getLogger("radclipd.yielding")


@dataclass(frozen=True, slots=True, kw_only=True)
class YieldPolicy:
    """Times in seconds. Under arrivals without end, or where nobody scores them, learning gets in the end half of the time."""

    look: float = 1.0  # between two looks at the queue
    longest: float = 60.0  # of one pause
    turn: float = 5.0  # of learning after a pause that was as long as that; doubled after each such pause in a row, up to `longest`


class Yielding:
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
        rest: Callable[[float], object] = time.sleep,
        over: Callable[[], bool] = lambda: False,
        meanwhile: Callable[[], int] | None = None,
        policy: YieldPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        who: str = "learning",
    ) -> None:
        self._who = who
        self._catalog, self._rest, self._over, self._clock = catalog, rest, over, clock
        self._meanwhile = meanwhile or (lambda: 0)
        self._policy = policy or YieldPolicy()
        self._next_look, self._turn = float("-inf"), self._policy.turn

    def __call__(self, what: str, done: int, total: int) -> None:
        """Interrupted where it is time to stop, also in the middle of a pause."""
        self._stop_where_told(what, done, total)
        began = self._clock()
        if began < self._next_look:
            return
        scored = self._score()
        while pressing := self._pressing():
            if self._clock() - began >= self._policy.longest:
                paused = {"who": self._who, "paused_seconds": self._policy.longest}
                log.warning("score jobs still wait, other work takes a turn", extra=paused)
                break
            if not scored:
                self._rest(self._policy.look)
            self._stop_where_told(what, done, total)
            scored = self._score()
        self._next_look = self._clock() + (self._turn if pressing else self._policy.look)
        self._turn = min(2 * self._turn, self._policy.longest) if pressing else self._policy.turn

    def _stop_where_told(self, what: str, done: int, total: int) -> None:
        if self._over():
            raise Interrupted(f"told to stop while at {what}, {done} of {total}")

    def _score(self) -> int:
        try:
            return self._meanwhile()
        except OutOfResources as error:
            return self._away(error)

    def _pressing(self) -> bool:
        try:
            with self._catalog.read() as tx:
                return tx.jobs.pressing(JobKind.SCORE, before=backfill.PRIORITY)
        except OutOfResources as error:
            return bool(self._away(error))

    def _away(self, error: OutOfResources) -> int:
        """A catalog that is away for a moment is no reason to throw a round of learning away."""
        log.warning("cannot look at the queue", extra={"who": self._who, "error": str(error)})
        return 0
