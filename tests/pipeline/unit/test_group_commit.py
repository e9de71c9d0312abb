"""Group commit: who waits shares a transaction, hears only of what is committed, and pays for nobody else's fault."""

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
    """Commits when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.begun = threading.Event(), threading.Event()
        self.begun_so_far, self.away_after = 0, 1 << 30

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        self.begun_so_far += 1
        if self.begun_so_far > self.away_after:
            raise OutOfResources("catalog is away")
        with super().begin() as tx:
            yield tx
            self.begun.set()
            self.gate.wait(10)


def saying(word: str) -> Step:
    def step(tx: Transaction) -> str:
        tx.audit(AuditEvent("test", "done", word, "", ""))
        return word

    return step


def refusing(tx: Transaction) -> str:
    tx.audit(AuditEvent("test", "half done", "", "", ""))
    raise DifferentInstance("other content")


def all_at_once(catalog: SlowCatalog, steps: list[Step]) -> list[Future[str]]:
    """Start the first, and the others while it commits; none has an answer before the gate opens."""
    line, waiting = GroupCommit(catalog), threading.Semaphore(0)
    pool = ThreadPoolExecutor(len(steps))

    def run(step: Step) -> str:
        waiting.release()
        return line.run(step)

    futures = [pool.submit(run, steps[0])]
    assert catalog.begun.wait(5)
    futures += [pool.submit(run, step) for step in steps[1:]]
    for _ in steps:
        assert waiting.acquire(timeout=5)
    while len(line._waiting) < len(steps) - 1:
        pass
    assert not any(future.done() for future in futures)
    catalog.gate.set()
    pool.shutdown()
    return futures


def told(catalog: FakeCatalog) -> list[str]:
    return sorted(event.subject for event in catalog.tables.audit)


def test_who_waits_while_one_commits_shares_the_next_transaction() -> None:
    catalog, words = SlowCatalog(), [f"{number:03}" for number in range(MAX_STEPS)]
    futures = all_at_once(catalog, [saying(word) for word in words])
    assert [future.result() for future in futures] == words
    assert told(catalog) == words
    assert catalog.committed == 2


def test_more_than_one_transaction_takes_are_all_done() -> None:
    catalog, words = SlowCatalog(), [f"{number:03}" for number in range(MAX_STEPS + 20)]
    futures = all_at_once(catalog, [saying(word) for word in words])
    assert [future.result() for future in futures] == words
    assert catalog.committed == 3


def test_a_fault_is_its_owners_alone_and_leaves_nothing() -> None:
    catalog = SlowCatalog()
    first, second, third, fourth = all_at_once(catalog, [saying("a"), saying("b"), refusing, saying("c")])
    assert (first.result(), second.result(), fourth.result()) == ("a", "b", "c")
    with pytest.raises(DifferentInstance):
        third.result()
    assert told(catalog) == ["a", "b", "c"]


def test_nobody_hears_success_of_a_commit_that_failed() -> None:
    catalog = FakeCatalog()
    catalog.fail_next_commit = OutOfResources("locked")
    line = GroupCommit(catalog)
    with pytest.raises(OutOfResources):
        line.run(saying("a"))
    assert told(catalog) == []
    assert line.run(saying("a")) == "a"


def test_a_catalog_that_takes_long_to_be_away_is_tried_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "RETRY_WINDOW_SECONDS", 0)
    catalog = SlowCatalog()
    catalog.away_after = 1
    first, *others = all_at_once(catalog, [saying(word) for word in "abcd"])
    assert first.result() == "a"
    assert all(isinstance(other.exception(), OutOfResources) for other in others)
    assert catalog.begun_so_far == 2
    assert told(catalog) == ["a"]
