"""Group commit: waiting steps share a transaction, return after its commit, and do not fail for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from pipeline import group_commit
from pipeline.domain import AuditEvent
from pipeline.errors import DifferentInstance, OutOfResources
from pipeline.group_commit import MAX_STEPS, GroupCommit
from pipeline.ports.services import Transaction
from tests.builders.fakes.catalog import FakeCatalog

Step = Callable[[Transaction], str]


class SlowCatalog(FakeCatalog):
    """A catalog whose commits wait for `gate`, and which is unreachable after `unreachable_after` transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.begun = threading.Event(), threading.Event()
        self.transactions, self.unreachable_after = 0, 1 << 30

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        self.transactions += 1
        if self.transactions > self.unreachable_after:
            raise OutOfResources("catalog is unreachable")
        with super().begin() as tx:
            yield tx
            self.begun.set()
            self.gate.wait(10)


def write_event(subject: str) -> Step:
    def step(tx: Transaction) -> str:
        tx.audit(AuditEvent("test", "done", subject, "", ""))
        return subject

    return step


def raise_error(tx: Transaction) -> str:
    tx.audit(AuditEvent("test", "half done", "", "", ""))
    raise DifferentInstance("other content")


def run_concurrently(catalog: SlowCatalog, steps: list[Step]) -> list[Future[str]]:
    """Start the first step, and the others while it commits; no step returns before the gate opens."""
    group, waiting = GroupCommit(catalog), threading.Semaphore(0)
    pool = ThreadPoolExecutor(len(steps))

    def run(step: Step) -> str:
        waiting.release()
        return group.run(step)

    futures = [pool.submit(run, steps[0])]
    assert catalog.begun.wait(5)
    futures += [pool.submit(run, step) for step in steps[1:]]
    for _ in steps:
        assert waiting.acquire(timeout=5)
    while len(group._waiting) < len(steps) - 1:
        pass
    assert not any(future.done() for future in futures)
    catalog.gate.set()
    pool.shutdown()
    return futures


def written_subjects(catalog: FakeCatalog) -> list[str]:
    return sorted(event.subject for event in catalog.tables.audit)


def test_steps_that_wait_during_a_commit_share_the_next_transaction() -> None:
    catalog, subjects = SlowCatalog(), [f"{number:03}" for number in range(MAX_STEPS)]
    futures = run_concurrently(catalog, [write_event(subject) for subject in subjects])
    assert [future.result() for future in futures] == subjects
    assert written_subjects(catalog) == subjects
    assert catalog.committed == 2


def test_more_steps_than_one_transaction_holds_are_all_committed() -> None:
    catalog, subjects = SlowCatalog(), [f"{number:03}" for number in range(MAX_STEPS + 20)]
    futures = run_concurrently(catalog, [write_event(subject) for subject in subjects])
    assert [future.result() for future in futures] == subjects
    assert catalog.committed == 3


def test_a_failing_step_fails_no_other_step_and_writes_nothing() -> None:
    catalog = SlowCatalog()
    first, second, third, fourth = run_concurrently(catalog, [write_event("a"), write_event("b"), raise_error, write_event("c")])
    assert (first.result(), second.result(), fourth.result()) == ("a", "b", "c")
    with pytest.raises(DifferentInstance):
        third.result()
    assert written_subjects(catalog) == ["a", "b", "c"]


def test_a_failed_commit_raises_in_the_calling_thread() -> None:
    catalog = FakeCatalog()
    catalog.fail_next_commit = OutOfResources("locked")
    group = GroupCommit(catalog)
    with pytest.raises(OutOfResources):
        group.run(write_event("a"))
    assert written_subjects(catalog) == []
    assert group.run(write_event("a")) == "a"


def test_one_attempt_fails_all_waiting_steps_while_the_catalog_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "RETRY_WINDOW_SECONDS", 0)
    catalog = SlowCatalog()
    catalog.unreachable_after = 1
    first, *waiting = run_concurrently(catalog, [write_event(subject) for subject in "abcd"])
    assert first.result() == "a"
    assert all(isinstance(future.exception(), OutOfResources) for future in waiting)
    assert catalog.transactions == 2
    assert written_subjects(catalog) == ["a"]
