"""group_commit: steps of many threads -> few transactions. Steps that wait during one commit share the next transaction.

No step returns before its commit. Source: D. DeWitt et al., "Implementation Techniques for Main Memory Database Systems",
SIGMOD 1984 (group commit).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pipeline.ports.services import Catalog, Transaction

T = TypeVar("T")
MAX_STEPS = 64
"""Largest number of steps in one transaction, so that the writer lock is held only briefly."""
RETRY_WINDOW_SECONDS = 5.0
"""The steps of a transaction that failed within this time are tried one by one. A deadlock is reported within about a second; an
unreachable catalog takes longer, and all steps fail at once."""


class GroupCommit:
    """Runs steps of many threads in few transactions. Steps must be idempotent: where one fails, the others run again."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._waiting: deque[_PendingStep[Any]] = deque()
        self._committing = threading.Lock()

    def run(self, step: Callable[[Transaction], T], *, lock_order: str = "") -> T:
        """Return the result of `step` once it is committed; raise the error of the step or of the commit.

        Steps of one transaction run in order of `lock_order`, the name of the row that they lock: processes that lock several rows
        in the same order cannot deadlock.
        """
        pending = _PendingStep(step, lock_order)
        self._waiting.append(pending)
        while not pending.done:
            with self._committing:  # one thread commits for all; while a thread waits here, its own step may be committed
                if not pending.done:
                    batch = [self._waiting.popleft() for _ in range(min(MAX_STEPS, len(self._waiting)))]
                    self._commit_steps(sorted(batch, key=lambda each: each.lock_order))
        return pending.outcome()

    def _commit_steps(self, steps: list[_PendingStep[Any]]) -> None:
        """Run steps in one transaction; where it fails, each in its own, so that one step's error fails no other step.

        Where the failure took RETRY_WINDOW_SECONDS, the catalog is unreachable, and every step fails without another attempt.
        """
        started_at = time.monotonic()
        try:
            with self._catalog.begin() as tx:
                results = [pending.step(tx) for pending in steps]
        except BaseException as error:
            for pending in steps:
                if len(steps) > 1 and time.monotonic() - started_at < RETRY_WINDOW_SECONDS:
                    self._commit_steps([pending])
                else:
                    pending.fail(error)
        else:
            for pending, result in zip(steps, results, strict=True):
                pending.succeed(result)


class _PendingStep(Generic[T]):
    """A step with its result or its error."""

    def __init__(self, step: Callable[[Transaction], T], lock_order: str) -> None:
        self.step, self.lock_order = step, lock_order
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
