"""work: claim jobs -> run their step -> the step finishes them, or they are retried or quarantined here.

A step finishes its own job inside the transaction that holds its result, so a job is done exactly when its result is there.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pipeline import rules
from pipeline.domain import AuditEvent, Job, JobKind
from pipeline.errors import (
    ArchiveUnreachable,
    FatalError,
    LeaseLost,
    OutOfResources,
    PermanentError,
    RadclipdError,
    StopRequested,
    traceback_locations,
)
from pipeline.pace import ClaimSizer
from pipeline.ports.services import Catalog, Transaction

log = logging.getLogger("radclipd.work")

ERROR_KIND_KEY = "fault"
"""Key in the payload of a job that was set aside: the kind of error in one word, for counting."""
NO_ANSWER_KIND = "NoAnswer"
"""Of a job that its worker may have died of, again and again."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """A job and what went wrong with it; None where its step has finished it."""

    job: Job
    error: Exception | None


BatchStep = Callable[[Sequence[Job]], Iterable[JobOutcome]]
"""Runs a batch of jobs of one kind. May raise: then the trouble is that of every job not yet concluded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPolicy:
    """`[work]` of the configuration; times in seconds."""

    lease_seconds: float = 120.0
    max_attempts: int = 8
    retry_base_seconds: float = 2.0
    retry_cap_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """A place at the queue: which kind, how many at once, the step, and whether work is admitted now.

    `spare` is what to do where no job is due, a little at a time; it says whether there may be more of it at once. `prepare` is
    what takes long before the first job and need not wait for it. `subjects`: only of these; None: of any. `fresh`: half of what is
    taken is what came last, so that it waits for no backlog of equally urgent jobs.
    """

    kind: JobKind
    step: BatchStep
    claim_sizer: ClaimSizer = field(default_factory=lambda: ClaimSizer(target_seconds=0.0, min_jobs=1, max_jobs=1))
    admit: Callable[[], bool] = lambda: True
    idle_task: Callable[[], bool] = lambda: False
    prepare: Callable[[], object] = lambda: None
    subjects: Collection[str] | None = None
    prefer_newest: bool = False


def per_job_step(step: Callable[[Job], None]) -> BatchStep:
    """Make a batch step of a step for one job."""

    def run(jobs: Sequence[Job]) -> Iterator[JobOutcome]:
        for job in jobs:
            try:
                step(job)
            except FatalError:
                raise
            except Exception as error:  # whatever it was, it is this job's trouble, not the worker's
                yield JobOutcome(job, error)
            else:
                yield JobOutcome(job, None)

    return run


def work_once(spec: WorkerSpec, *, catalog: Catalog, worker: str, policy: WorkPolicy) -> int:
    """Claim and run one batch; return how many jobs were claimed, 1 for time that was spared well.

    FatalError passes through, the jobs handed back.
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
    left, begun = {job.id: job for job in jobs}, time.monotonic()
    with _keep_leases(left, catalog, policy):
        try:
            for outcome in spec.step(jobs):
                left.pop(outcome.job.id, None)
                retry_or_quarantine(outcome, catalog=catalog, policy=policy)
        except FatalError as error:
            _release_jobs(left.values(), error, catalog)
            raise
        except Exception as error:
            for job in list(left.values()):
                retry_or_quarantine(JobOutcome(job, error), catalog=catalog, policy=policy)
    spec.claim_sizer.record_batch(len(jobs), time.monotonic() - begun)
    return len(jobs)


def _run_idle_task(spec: WorkerSpec) -> bool:
    """What is done in spare time is nobody's job: trouble with it is logged, and the worker goes on."""
    try:
        return spec.idle_task()
    except (FatalError, OutOfResources):
        raise
    except Exception as error:
        log.error(
            "spare time failed",
            extra={"kind": spec.kind.value, "error": describe_error(error), "places": traceback_locations(error)},
        )
        return False


def retry_or_quarantine(outcome: JobOutcome, *, catalog: Catalog, policy: WorkPolicy) -> None:
    """Retry or quarantine a job that its step did not finish."""
    job, error = outcome.job, outcome.error
    if error is None or isinstance(error, LeaseLost):
        return
    words = describe_error(error)
    counts = not isinstance(error, (ArchiveUnreachable, StopRequested))
    final = isinstance(error, PermanentError) or (counts and job.attempts >= policy.max_attempts)
    if not isinstance(error, RadclipdError):
        log.error(
            "step failed", extra={"kind": job.kind.value, "job": job.id, "error": words, "places": traceback_locations(error)}
        )
    with catalog.begin() as tx:
        if final:
            _quarantine_job(tx, job, words, error_kind(error))
            tx.audit(AuditEvent(job.kind.value, "failed", job.subject, words))
        else:
            tx.jobs.retry(job, error=words, delay_seconds=_compute_retry_delay(job, policy), counts=counts)


def _quarantine_job(tx: Transaction, job: Job, message: str, kind: str) -> None:
    with suppress(LeaseLost):  # then it is another worker's to set aside
        tx.jobs.put_notes(job, {ERROR_KIND_KEY: kind})
    tx.jobs.quarantine(job, error=message)


def error_kind(error: Exception) -> str:
    """Return the kind of an error in one word: its name in `errors`, "unexpected" for any other."""
    return type(error).__name__ if isinstance(error, RadclipdError) else "unexpected"


def describe_error(error: Exception) -> str:
    """Return what may be kept of an error. Foreign exceptions may quote a data set, so only their type is told."""
    if not isinstance(error, RadclipdError):
        return f"unexpected {type(error).__name__}; the log has the place"
    return f"{error} (hint: {error.hint})" if error.hint else str(error)


def _compute_retry_delay(job: Job, policy: WorkPolicy) -> float:
    return rules.backoff(
        job.attempts, base_seconds=policy.retry_base_seconds, cap_seconds=policy.retry_cap_seconds, jitter=random.random()
    )


def _quarantine_if_exhausted(job: Job, catalog: Catalog, policy: WorkPolicy) -> bool:
    """A job that has taken down its worker again and again never comes back with an error: its tries tell."""
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
def _keep_leases(held: dict[int, Job], catalog: Catalog, policy: WorkPolicy) -> Iterator[None]:
    """Extend the leases of the jobs still held, three times a lease."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(policy.lease_seconds / 3):
            for job in list(held.values()):
                try:
                    with catalog.begin() as tx:
                        tx.jobs.extend(job, lease_seconds=policy.lease_seconds)
                except LeaseLost:
                    held.pop(job.id, None)
                except RadclipdError as error:
                    log.warning("heartbeat failed", extra={"job": job.id, "error": str(error)})

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
