"""Group commit: what waits while one transaction commits shares the next. Nobody hears of a step before its commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pipeline.ports.services import Catalog, Transaction

T = TypeVar("T")
MAX_STEPS = 64
"""Steps in one transaction: a writer lock must not be held for long."""
RETRY_WINDOW_SECONDS = 5.0
"""After a transaction that failed, so long is there for trying its steps one by one; a deadlock is told within about a second."""


class GroupCommit:
    """Runs steps of many threads in few transactions. Each step must be idempotent: where one fails, the others are run again."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._waiting: deque[_PendingStep[Any]] = deque()
        self._turn = threading.Lock()

    def run(self, step: Callable[[Transaction], T], *, lock_order: str = "") -> T:
        """Return what `step` returned, once it is committed; raise what it raised, or what the commit did.

        Steps of one transaction go by `order`: name what they lock, and several processes lock it in the same order.
        """
        call = _PendingStep(step, lock_order)
        self._waiting.append(call)
        while not call.done:
            with self._turn:  # one thread commits for all who wait; when the next has its turn, it may be done
                if not call.done:
                    taken = [self._waiting.popleft() for _ in range(min(MAX_STEPS, len(self._waiting)))]
                    self._commit_steps(sorted(taken, key=lambda one: one.order))
        return call.outcome()

    def _commit_steps(self, calls: list[_PendingStep[Any]]) -> None:
        """Run steps in one transaction, and each in its own where one fails, so that its fault is nobody else's.

        A catalog that takes its time to say that it is away is away for all of them: nobody waits for it again and again.
        """
        begun = time.monotonic()
        try:
            with self._catalog.begin() as tx:
                results = [call.step(tx) for call in calls]
        except BaseException as error:
            for call in calls:
                if len(calls) > 1 and time.monotonic() - begun < RETRY_WINDOW_SECONDS:
                    self._commit_steps([call])
                else:
                    call.fail(error)
        else:
            for call, result in zip(calls, results, strict=True):
                call.succeed(result)


class _PendingStep(Generic[T]):
    def __init__(self, step: Callable[[Transaction], T], lock_order: str) -> None:
        self.step, self.order = step, lock_order
        self.done = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def succeed(self, result: T) -> None:
        self._result.append(result)
        self.done = True

    def fail(self, error: BaseException) -> None:
        self._error, self.done = error, True

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]
