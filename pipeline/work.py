"""work: claim jobs -> run their step -> the step finishes the jobs, or they are retried or quarantined here.

A step finishes its own job inside the transaction that holds its result, so a job is done exactly when its result is committed.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.backoff import backoff_seconds
from pipeline.domain import AuditEvent, Job, JobKind
from pipeline.errors import (
    ArchiveUnreachable,
    BatchOverrun,
    CatalogFault,
    FatalError,
    JobOverrun,
    LeaseLost,
    OutOfResources,
    PermanentError,
    RadclipdError,
    ReportingStopped,
    StopRequested,
    traceback_locations,
)
from pipeline.ports.services import Catalog, Transaction

log = logging.getLogger("radclipd.work")

ERROR_KIND_KEY = "fault"
"""Payload key of a quarantined job: the kind of its error in one word, for counting."""
NO_ANSWER_KIND = "NoAnswer"
"""Kind of error of a job whose worker ended, try after try, before the step returned."""
STOPPED_SECONDS = 20.0
"""Between two looks of a report job at a stop: reporting goes on this soon after it is resumed."""
NO_FAULT_OF_THE_JOB = (ArchiveUnreachable, OutOfResources, ReportingStopped, StopRequested)
"""Errors that do not count as an attempt."""
JOBS_PER_PURGE = 5_000
"""Jobs deleted in one transaction: other writers wait some tenths of a second at most."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """A job and the error of its step; None where the step has finished the job."""

    job: Job
    error: Exception | None


BatchStep = Callable[[Sequence[Job]], Iterable[JobOutcome]]
"""Runs a batch of jobs of one kind. An exception from the step itself is the error of every job without an outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPolicy:
    """`[work]` of the configuration; times in seconds."""

    lease_seconds: float = 120.0
    max_attempts: int = 8
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 3600.0
    max_seconds: Mapping[JobKind, float] = field(default_factory=dict)  # longest time without an outcome; no entry: no bound


class OverrunGuard(Protocol):
    """Ends this worker, and then calls `end_overrun`, where the watched jobs have no outcome in time, whatever the step does."""

    def watch(self, jobs: Sequence[Job], seconds: float) -> None:
        """Watch these jobs, in place of those watched before, for `seconds` from now. No jobs: watch nothing."""


@dataclass(slots=True)
class ClaimSizer:
    """The number of jobs to claim at once: small enough that arrivals do not wait long, large enough that batches are full.

    A claim should take about `target_seconds`; its size, up to `max_jobs`, follows from the seconds per job of recent batches. The
    first claim takes `min_jobs`.
    """

    target_seconds: float
    min_jobs: int
    max_jobs: int
    _seconds_per_job: float | None = field(default=None, init=False)
    _claims_made: int = field(default=0, init=False)

    @property
    def limit(self) -> int:
        """The number of jobs to claim: 1 where a single job takes longer than `target_seconds`."""
        if self._seconds_per_job is None:
            return self.min_jobs
        return max(1, min(self.max_jobs, int(self.target_seconds / self._seconds_per_job)))

    def newest_limit(self, limit: int) -> int:
        """Return how many of the next `limit` jobs are the newest ones: half; of an odd number, alternately one less and one more.

        So a new job does not wait for a backlog, and an old job waits at most twice as long as in a plain queue.
        """
        self._claims_made += 1
        return (limit + self._claims_made % 2) // 2

    def record_batch(self, jobs: int, seconds: float) -> None:
        """Record the duration of a batch. Each batch halves the weight of those before, so a slow model load is soon forgotten."""
        each = max(seconds / jobs, 1e-6)
        self._seconds_per_job = each if self._seconds_per_job is None else (self._seconds_per_job + each) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """The work of one worker: the kind of its jobs, the step, the claim size, and the condition under which it claims at all."""

    kind: JobKind
    step: BatchStep
    claim_sizer: ClaimSizer = field(default_factory=lambda: ClaimSizer(target_seconds=0.0, min_jobs=1, max_jobs=1))
    admit: Callable[[], bool] = lambda: True  # False: claim nothing now, for instance while a circuit is open
    idle_task: Callable[[], bool] = lambda: False  # a little work while no job is due; True: more may follow at once
    prepare: Callable[[], object] = lambda: None  # slow preparation, such as loading a model, ahead of the first job
    subjects: Collection[str] | None = None  # claim only jobs of these subjects; None: of any
    prefer_newest: bool = False  # half of each claim is the newest jobs, see ClaimSizer.newest_limit


def per_job_step(step: Callable[[Job], None]) -> BatchStep:
    """Make a batch step of a step for one job."""

    def run(jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        for job in jobs:
            try:
                step(job)
            except FatalError:
                raise
            except Exception as error:  # any error is the job's own; the worker goes on
                yield JobOutcome(job, error)
            else:
                yield JobOutcome(job, None)

    return run


def work_once(spec: WorkerSpec, *, catalog: Catalog, worker: str, policy: WorkPolicy, guard: OverrunGuard | None = None) -> int:
    """Claim and run one batch; return the number of jobs claimed, or 1 where the idle task asks for another turn.

    FatalError passes through, after the jobs were released. `guard` ends a batch that overruns `policy.max_seconds`.
    """
    if not spec.admit():
        return 0
    with catalog.begin() as tx:
        lease, limit = policy.lease_seconds, spec.claim_sizer.limit
        newest = spec.claim_sizer.newest_limit(limit) if spec.prefer_newest else 0
        jobs = tx.jobs.claim([spec.kind], worker=worker, lease_seconds=lease, limit=limit, newest=newest, subjects=spec.subjects)
    jobs = [job for job in jobs if not _quarantine_if_exhausted(job, catalog, policy)]
    if not jobs:
        return int(_run_idle_task(spec))
    unfinished, started_at = {job.id: job for job in jobs}, time.monotonic()
    longest = policy.max_seconds.get(spec.kind, math.inf) * len(jobs)
    with _watch_overrun(spec.kind, guard, policy) as watch, _keep_leases(unfinished, catalog, policy, longest):
        try:
            watch(unfinished)
            for outcome in spec.step(jobs):
                unfinished.pop(outcome.job.id, None)
                retry_or_quarantine(outcome, catalog=catalog, policy=policy)
                watch(unfinished)
        except FatalError as error:
            _release_jobs(unfinished.values(), error, catalog)
            raise
        except Exception as error:
            for job in list(unfinished.values()):
                retry_or_quarantine(JobOutcome(job, error), catalog=catalog, policy=policy)
    spec.claim_sizer.record_batch(len(jobs), time.monotonic() - started_at)
    return len(jobs)


def _run_idle_task(spec: WorkerSpec) -> bool:
    """Run the idle task. It belongs to no job, so its error is logged and the worker goes on."""
    try:
        return spec.idle_task()
    except (FatalError, OutOfResources):
        raise
    except Exception as error:
        log.error(
            "idle task failed",
            extra={"kind": spec.kind.value, "error": describe_error(error), "locations": traceback_locations(error)},
        )
        return False


def retry_or_quarantine(outcome: JobOutcome, *, catalog: Catalog, policy: WorkPolicy) -> None:
    """Retry or quarantine a job that its step did not finish."""
    job, error = outcome.job, outcome.error
    if error is None or isinstance(error, LeaseLost):
        return
    message = describe_error(error)
    counts = isinstance(error, CatalogFault) or not isinstance(error, NO_FAULT_OF_THE_JOB)
    final = isinstance(error, PermanentError) or (counts and job.attempts >= policy.max_attempts)
    if not isinstance(error, RadclipdError):
        log.error(
            "step failed", extra={"kind": job.kind.value, "job": job.id, "error": message, "locations": traceback_locations(error)}
        )
    with catalog.begin() as tx:
        if final:
            _quarantine_job(tx, job, message, error_kind(error))
            tx.audit(AuditEvent(job.kind.value, "failed", job.subject, message))
        else:
            delay = STOPPED_SECONDS if isinstance(error, ReportingStopped) else _compute_retry_delay(job, policy)
            tx.jobs.retry(job, error=message, delay_seconds=delay, counts=counts)


def _quarantine_job(tx: Transaction, job: Job, message: str, kind: str) -> None:
    with suppress(LeaseLost):  # then the other worker decides
        tx.jobs.put_notes(job, {ERROR_KIND_KEY: kind})
    tx.jobs.quarantine(job, error=message)


def error_kind(error: Exception) -> str:
    """Return the kind of an error in one word: its class name in `errors`, "unexpected" for a foreign exception."""
    return type(error).__name__ if isinstance(error, RadclipdError) else "unexpected"


def describe_error(error: Exception) -> str:
    """Return the text of an error for the catalog. A foreign exception may quote a data set, so only its type is given."""
    if not isinstance(error, RadclipdError):
        return f"unexpected {type(error).__name__}; the log has the place"
    return f"{error} (hint: {error.hint})" if error.hint else str(error)


def _compute_retry_delay(job: Job, policy: WorkPolicy) -> float:
    return backoff_seconds(
        job.attempts, base_seconds=policy.retry_base_seconds, cap_seconds=policy.retry_cap_seconds, jitter=random.random()
    )


def end_overrun(jobs: Sequence[Job], seconds: float, *, catalog: Catalog, policy: WorkPolicy) -> None:
    """Quarantine a job that overran the bound of its kind. The jobs of a batch are tried again: only one of them is the cause."""
    for job in jobs:
        kind, overrun = job.kind, f"without an outcome for {seconds:.0f} s, so its worker was ended"
        hint = f"work.max_{kind}_seconds is the bound; radclipd jobs retry tries again"
        error = JobOverrun(overrun, hint=hint) if len(jobs) == 1 else BatchOverrun(f"in a batch {overrun}", hint=hint)
        retry_or_quarantine(JobOutcome(job, error), catalog=catalog, policy=policy)


@contextmanager
def _watch_overrun(kind: JobKind, guard: OverrunGuard | None, policy: WorkPolicy) -> Iterator[Callable[[Mapping[int, Job]], None]]:
    """Give the function that watches unfinished jobs from now on; at the end nothing is watched."""
    seconds = policy.max_seconds.get(kind)
    if guard is None or seconds is None:
        yield lambda unfinished: None
        return
    try:
        yield lambda unfinished: guard.watch(list(unfinished.values()), seconds)
    finally:
        guard.watch([], seconds)


def _quarantine_if_exhausted(job: Job, catalog: Catalog, policy: WorkPolicy) -> bool:
    """Quarantine a job that has ended its worker in every try: such a job never comes back with an error, only its tries count."""
    if job.attempts <= policy.max_attempts:
        return False
    with catalog.begin() as tx:
        _quarantine_job(tx, job, f"gave no answer in {job.attempts - 1} tries: the worker may have died of it", NO_ANSWER_KIND)
    return True


def _release_jobs(jobs: Iterable[Job], error: Exception, catalog: Catalog) -> None:
    with catalog.begin() as tx:
        for job in jobs:
            tx.jobs.retry(job, error=describe_error(error), delay_seconds=0.0, counts=False)


@contextmanager
def _keep_leases(unfinished: dict[int, Job], catalog: Catalog, policy: WorkPolicy, longest: float) -> Iterator[None]:
    """Extend the leases of the unfinished jobs on a heartbeat thread, three times per lease, for `longest` seconds at most."""
    stopped, started_at = threading.Event(), time.monotonic()

    def beat() -> None:
        while not stopped.wait(policy.lease_seconds / 3) and time.monotonic() - started_at < longest:
            for job in list(unfinished.values()):
                try:
                    with catalog.begin() as tx:
                        tx.jobs.extend(job, lease_seconds=policy.lease_seconds)
                except LeaseLost:
                    unfinished.pop(job.id, None)
                except RadclipdError as error:
                    log.warning("heartbeat failed", extra={"job": job.id, "error": str(error)})

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def follow_clock(*, catalog: Catalog, policy: WorkPolicy, max_open_seconds: float) -> int:
    """Bring times that lie further ahead than any wait to now: the clock was ahead when they were written, and was set right since.

    Return the number of jobs, studies and circuits that would have waited for that time. `max_open_seconds`: of any circuit.
    """
    with catalog.begin() as tx:
        corrected = tx.jobs.follow_clock(max_delay_seconds=policy.retry_cap_seconds)
        corrected += tx.studies.follow_clock()
        corrected += tx.circuits.follow_clock(max_open_seconds=max_open_seconds)
    if corrected:
        log.warning("the clock was ahead", extra={"corrected": corrected})
    return corrected


def purge_done_jobs(*, catalog: Catalog, keep_days: float) -> int:
    """Delete jobs that were done more than `keep_days` ago; return their number. Quarantined jobs stay until a person decides."""
    purged = 0
    while True:
        with catalog.begin() as tx:
            deleted = tx.jobs.purge_done(older_than_days=keep_days, limit=JOBS_PER_PURGE)
        purged += deleted
        if deleted < JOBS_PER_PURGE:
            return purged
