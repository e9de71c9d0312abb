"""Learning beside scoring: pauses are bounded, arrivals go first, and progress is kept with the job."""

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

POLICY = PreemptionPolicy(poll_seconds=1.0, max_pause_seconds=60.0, work_seconds=5.0)


class Bench:
    """A queue of score jobs, and a clock that advances only by work and by sleep."""

    def __init__(self) -> None:
        self.catalog, self.seconds, self.sleeps, self.stop_requested = FakeCatalog(), 0.0, 0, False
        self.on_sleep: Callable[[], object] = lambda: None
        self.preemption = Preemption(
            catalog=self.catalog,
            sleep=self.sleep,
            should_stop=lambda: self.stop_requested,
            policy=POLICY,
            clock=lambda: self.seconds,
        )

    def sleep(self, seconds: float) -> None:
        assert self.sleeps < 1000, "it sleeps for ever"
        self.sleeps += 1
        self.spend(seconds)
        self.on_sleep()

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
        """Run one step of learning; return the seconds of the pause after it."""
        self.spend(seconds)
        before = self.seconds
        self.preemption("unfreezing", 1, 100)
        return self.seconds - before


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_learning_pauses_until_arrivals_are_scored(bench: Bench) -> None:
    assert bench.step() == 0
    bench.put("1.1")
    bench.spend(POLICY.poll_seconds)
    bench.on_sleep = lambda: bench.score_all() if bench.sleeps == 7 else None
    assert bench.step() == 7
    assert bench.step() == 0


def test_learning_waits_for_a_running_job_until_its_lease_expires(bench: Bench) -> None:
    bench.put("1.1")
    bench.claim(lease_seconds=10)
    assert 9 <= bench.step() <= 11


@pytest.mark.parametrize("priority", [priorities.BACKFILL, priorities.RESCORE, priorities.RESCORE + 1])
def test_score_jobs_of_the_archive_do_not_pause_learning(bench: Bench, priority: int) -> None:
    bench.put("1.1", priority)
    assert bench.step() == 0
    bench.put("1.1")  # a late image: an arrival
    bench.spend(POLICY.poll_seconds)
    bench.on_sleep = bench.score_all
    assert bench.step() == 1


def test_a_job_waiting_for_its_back_off_does_not_pause_learning(bench: Bench) -> None:
    bench.put("1.1")
    (job,) = bench.claim()
    with bench.catalog.begin() as tx:
        tx.jobs.retry(job, error="busy", delay_seconds=30)
    assert bench.step() == 0
    bench.spend(31)
    bench.on_sleep = bench.score_all
    assert bench.step() == 1


def test_learning_gets_turns_under_endless_arrivals(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put("1.1")  # no worker claims it
    steps, began = 0, bench.seconds
    with caplog.at_level(logging.WARNING):
        while bench.seconds - began < 10 * (POLICY.max_pause_seconds + POLICY.work_seconds):
            bench.step()
            steps += 1
    learnt = steps * 0.125
    assert 5 + 10 + 20 + 40 + 60 <= learnt <= bench.sleeps * POLICY.poll_seconds  # more with each turn, never more than half
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
    ) == POLICY.work_seconds / 0.125 - 1  # a short turn again


def test_the_queue_is_polled_at_most_once_per_interval(bench: Bench) -> None:
    polls = 0
    read = bench.catalog.read

    def counting_read() -> object:
        nonlocal polls
        polls += 1
        return read()

    bench.catalog.read = counting_read  # type: ignore[method-assign,assignment]  # counts and delegates
    for _ in range(1000):
        bench.step(0.01)
    assert 9 <= polls <= 11


def test_a_stop_request_ends_learning_even_during_a_pause(bench: Bench) -> None:
    bench.put("1.1")

    def stop() -> None:
        bench.stop_requested = bench.sleeps == 3

    bench.on_sleep = stop
    with pytest.raises(StopRequested, match="unfreezing, 1 of 100"):
        bench.step()
    assert bench.sleeps == 3
    with pytest.raises(StopRequested):
        bench.step()


def test_an_unreachable_catalog_does_not_stop_learning(bench: Bench) -> None:
    def raise_unreachable() -> object:
        raise OutOfResources("the catalog is unreachable")

    bench.catalog.read = raise_unreachable  # type: ignore[method-assign,assignment]
    assert bench.step() == 0


def test_a_process_that_learns_and_scores_runs_score_batches_between_two_steps() -> None:
    """All arrivals are scored at once, the archive one batch per poll."""
    hospital = Hospital()
    for number in range(1, 9):
        hospital.receive(hospital.header(f"1.{number}", f"1.{number}.1", patient_id=f"P{number}"))
    hospital.run()
    waiting: list[int] = []

    def score_batch() -> int:
        return hospital.work_once(JobKind.SCORE)

    def fail_on_sleep(_: float) -> None:
        raise AssertionError("no other process scores here")

    seconds = iter(range(1000))
    preemption = Preemption(
        catalog=hospital.catalog, sleep=fail_on_sleep, score_batch=score_batch, clock=lambda: float(next(seconds))
    )
    with hospital.catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
        for number in range(20):  # of the archive
            tx.jobs.put(JobKind.SCORE, f"1.{number % 8 + 1}", priority=priorities.RESCORE)

    def receive_and_settle(number: int) -> None:
        hospital.receive(hospital.header(f"2.{number}", f"2.{number}.1"))
        hospital.catalog.tick(61)
        hospital.settle()

    for number in range(3):
        for more in range(20):
            receive_and_settle(20 * number + more)
        preemption("unfreezing", number, 3)
        with hospital.catalog.read() as tx:
            assert not tx.jobs.has_urgent(JobKind.SCORE, before=priorities.BACKFILL)
            waiting.append(tx.jobs.count_by_state().get((JobKind.SCORE, JobState.WAITING), 0))
    assert waiting[-1] == 0
    assert all(len(hospital.catalog.tables.predictions[f"2.{number}", 1]) == 14 for number in range(60))


def claim_learn_job(catalog: FakeCatalog) -> Job:
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.LEARN, learn.ALL_LABELS)
        (job,) = tx.jobs.claim([JobKind.LEARN], worker="w", lease_seconds=60)
    return job


def test_progress_is_noted_at_intervals() -> None:
    catalog, seconds = FakeCatalog(), 0.0
    job = claim_learn_job(catalog)
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


def test_progress_raises_lease_lost_where_another_worker_holds_the_job() -> None:
    catalog = FakeCatalog()
    job = claim_learn_job(catalog)
    progress = JobProgress(job, catalog=catalog)
    progress("unfreezing", 1, 100)
    catalog.tick(61)
    with catalog.begin() as tx:
        assert tx.jobs.claim([JobKind.LEARN], worker="other", lease_seconds=60)
    with pytest.raises(LeaseLost):
        progress("comparing", 1, 100)


def test_a_failed_progress_note_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    catalog = FakeCatalog()
    progress = JobProgress(claim_learn_job(catalog), catalog=catalog)
    catalog.fail_next_commit = OutOfResources("the catalog is unreachable")
    with caplog.at_level(logging.WARNING):
        progress("unfreezing", 1, 100)
    assert "progress not noted" in caplog.text
