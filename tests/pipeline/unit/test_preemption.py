"""Learning beside scoring: pauses are bounded, arrivals go first, and how far it is stands with the job."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from pipeline import learn, priorities
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import LeaseLost, OutOfResources, StopRequested
from pipeline.preemption import Preemption, PreemptionPolicy
from pipeline.progress import JobProgress
from tests.builders.fakes.catalog import FakeCatalog
from tests.builders.hospital_in_memory import Hospital

POLICY = PreemptionPolicy(poll_seconds=1.0, max_pause_seconds=60.0, turn_seconds=5.0)


class Bench:
    """A queue of score jobs, and a clock that goes on only where somebody works or rests."""

    def __init__(self) -> None:
        self.catalog, self.seconds, self.rests, self.told = FakeCatalog(), 0.0, 0, False
        self.on_rest: Callable[[], object] = lambda: None
        self.yielding = Preemption(
            catalog=self.catalog, sleep=self.rest, should_stop=lambda: self.told, policy=POLICY, clock=lambda: self.seconds
        )

    def rest(self, seconds: float) -> None:
        assert self.rests < 1000, "it rests for ever"
        self.rests += 1
        self.spend(seconds)
        self.on_rest()

    def spend(self, seconds: float) -> None:
        self.seconds += seconds
        self.catalog.tick(seconds)

    def put(self, subject: str, priority: int = 100) -> None:
        with self.catalog.begin() as tx:
            tx.jobs.put(JobKind.SCORE, subject, priority=priority)

    def claim(self, lease_seconds: float = 120) -> list[Job]:
        with self.catalog.begin() as tx:
            return tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=lease_seconds, limit=9)

    def score_all(self) -> None:
        for job in self.claim():
            with self.catalog.begin() as tx:
                tx.jobs.finish(job)

    def step(self, seconds: float = 0.125) -> float:
        """One step of learning; return how long it paused after it."""
        self.spend(seconds)
        before = self.seconds
        self.yielding("unfreezing", 1, 100)
        return self.seconds - before


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_learning_rests_until_what_has_arrived_is_scored(bench: Bench) -> None:
    assert bench.step() == 0
    bench.put("1.1")
    bench.spend(POLICY.poll_seconds)
    bench.on_rest = lambda: bench.score_all() if bench.rests == 7 else None
    assert bench.step() == 7
    assert bench.step() == 0


def test_a_job_in_the_hands_of_a_worker_is_waited_for_until_its_lease_is_over(bench: Bench) -> None:
    bench.put("1.1")
    bench.claim(lease_seconds=10)
    assert 9 <= bench.step() <= 11


@pytest.mark.parametrize("priority", [priorities.BACKFILL, priorities.RESCORE, priorities.RESCORE + 1])
def test_the_archive_is_behind_learning(bench: Bench, priority: int) -> None:
    bench.put("1.1", priority)
    assert bench.step() == 0
    bench.put("1.1")  # a late film: it has arrived
    bench.spend(POLICY.poll_seconds)
    bench.on_rest = bench.score_all
    assert bench.step() == 1


def test_a_job_that_rests_after_a_failure_holds_nobody_up(bench: Bench) -> None:
    bench.put("1.1")
    (job,) = bench.claim()
    with bench.catalog.begin() as tx:
        tx.jobs.retry(job, error="busy", delay_seconds=30)
    assert bench.step() == 0
    bench.spend(31)
    bench.on_rest = bench.score_all
    assert bench.step() == 1


def test_under_arrivals_without_end_learning_has_its_turns(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put("1.1")  # nobody takes it
    steps, began = 0, bench.seconds
    with caplog.at_level(logging.WARNING):
        while bench.seconds - began < 10 * (POLICY.max_pause_seconds + POLICY.turn_seconds):
            bench.step()
            steps += 1
    learnt = steps * 0.125
    assert 5 + 10 + 20 + 40 + 60 <= learnt <= bench.rests * POLICY.poll_seconds  # more with each turn, never more than half
    turns = [record for record in caplog.records if "still wait" in record.message]
    assert 5 <= len(turns) <= 10
    bench.score_all()
    bench.spend(POLICY.max_pause_seconds)
    assert bench.step() == 0
    bench.put("1.2")
    bench.spend(POLICY.poll_seconds)
    assert bench.step() == POLICY.max_pause_seconds
    assert [bench.step() for _ in range(100)].index(
        POLICY.max_pause_seconds
    ) == POLICY.turn_seconds / 0.125 - 1  # a short turn again


def test_it_looks_no_more_often_than_it_may(bench: Bench) -> None:
    looks = 0
    read = bench.catalog.read

    def counted() -> object:
        nonlocal looks
        looks += 1
        return read()

    bench.catalog.read = counted  # type: ignore[method-assign,assignment]  # counts and passes on
    for _ in range(1000):
        bench.step(0.01)
    assert 9 <= looks <= 11


def test_it_leaves_when_told_to_also_in_the_middle_of_a_pause(bench: Bench) -> None:
    bench.put("1.1")

    def stop() -> None:
        bench.told = bench.rests == 3

    bench.on_rest = stop
    with pytest.raises(StopRequested, match="unfreezing, 1 of 100"):
        bench.step()
    assert bench.rests == 3
    with pytest.raises(StopRequested):
        bench.step()


def test_a_catalog_that_is_away_stops_no_learning(bench: Bench) -> None:
    def away() -> object:
        raise OutOfResources("the catalog is away")

    bench.catalog.read = away  # type: ignore[method-assign,assignment]
    assert bench.step() == 0


def test_one_process_that_does_both_scores_between_two_steps() -> None:
    """Arrivals all at once, the archive a batch at a time."""
    hospital = Hospital()
    for number in range(1, 9):
        hospital.receive(hospital.film(f"1.{number}", f"1.{number}.1", patient_id=f"P{number}"))
    hospital.run()
    left: list[int] = []

    def meanwhile() -> int:
        return hospital.work_once(JobKind.SCORE)

    def at_rest(_: float) -> None:
        raise AssertionError("nobody else scores here")

    seconds = iter(range(1000))
    yielding = Preemption(catalog=hospital.catalog, sleep=at_rest, score_batch=meanwhile, clock=lambda: float(next(seconds)))
    with hospital.catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
        for number in range(20):  # of the archive
            tx.jobs.put(JobKind.SCORE, f"1.{number % 8 + 1}", priority=priorities.RESCORE)

    def arrive(number: int) -> None:
        hospital.receive(hospital.film(f"2.{number}", f"2.{number}.1"))
        hospital.catalog.tick(61)
        hospital.settle()

    for number in range(3):
        for more in range(20):
            arrive(20 * number + more)
        yielding("unfreezing", number, 3)
        with hospital.catalog.read() as tx:
            assert not tx.jobs.has_urgent(JobKind.SCORE, before=priorities.BACKFILL)
            left.append(tx.jobs.count_by_state().get((JobKind.SCORE, JobState.WAITING), 0))
    assert left[-1] == 0
    assert all(len(hospital.catalog.tables.predictions[f"2.{number}", 1]) == 14 for number in range(60))


def learning(catalog: FakeCatalog) -> Job:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
        (job,) = tx.jobs.claim([JobKind.LEARN], worker="w", lease_seconds=60)
    return job


def test_how_far_a_job_is_is_noted_now_and_then() -> None:
    catalog, seconds = FakeCatalog(), 0.0
    job = learning(catalog)
    progress, token = JobProgress(job, catalog=catalog, clock=lambda: seconds), job.lease_token
    noted = catalog.committed
    for step in range(1, 101):
        seconds += 0.5
        progress("unfreezing", step, 100)
    assert catalog.committed - noted == 10
    (row,) = catalog.tables.jobs.values()
    assert row.job.payload == {"lease": token, "stage": "unfreezing", "done": 91, "total": 100, "seconds": 45.5}
    seconds += 2
    progress("comparing", 1, 3)
    assert row.job.id in catalog.tables.jobs
    assert catalog.tables.jobs[row.job.id].job.payload == {
        "lease": token,
        "stage": "comparing",
        "done": 1,
        "total": 3,
        "seconds": 2.0,
    }


def test_a_job_that_another_worker_holds_is_left() -> None:
    catalog = FakeCatalog()
    job = learning(catalog)
    progress = JobProgress(job, catalog=catalog)
    progress("unfreezing", 1, 100)
    catalog.tick(61)
    with catalog.begin() as tx:
        assert tx.jobs.claim([JobKind.LEARN], worker="other", lease_seconds=60)
    with pytest.raises(LeaseLost):
        progress("comparing", 1, 100)


def test_a_note_that_cannot_be_written_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    catalog = FakeCatalog()
    progress = JobProgress(learning(catalog), catalog=catalog)
    catalog.fail_next_commit = OutOfResources("the catalog is away")
    with caplog.at_level(logging.WARNING):
        progress("unfreezing", 1, 100)
    assert "progress not noted" in caplog.text
