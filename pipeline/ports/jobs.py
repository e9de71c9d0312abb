"""Ports of the job queue and of the circuit breakers: parts of `services.Transaction`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from pipeline import priorities
from pipeline.domain import Job, JobKind, JobState

SubjectFilter = Collection[str] | None
"""Subjects of the jobs to claim; None: any subject."""


MAX_LEASES = 3
"""No lease lasts longer than this many times `lease_seconds`, which workers of other hosts may have set higher."""


class Jobs(Protocol):
    """The job queue. At most one job per kind and subject waits."""

    def put(
        self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = priorities.ARRIVED
    ) -> int | None:
        """Enqueue a job; return its id. Where a job of this kind and subject waits already, it gets the new payload and the lower
        priority number, and None is returned."""

    def put_all(
        self,
        kind: JobKind,
        payloads: Mapping[str, Mapping[str, Any]],
        *,
        priority: int = priorities.ARRIVED,
        due: Mapping[str, datetime] | None = None,
    ) -> None:
        """Enqueue a job for each subject -> payload, as `put` does. `due`: subject -> due time; default now."""

    def claim(
        self,
        kinds: Sequence[JobKind],
        *,
        worker: str,
        lease_seconds: float,
        limit: int = 1,
        newest: int = 0,
        subjects: SubjectFilter = None,
    ) -> list[Job]:
        """Claim up to `limit` jobs that are due or whose lease has expired: lease each under a new random token, count the attempt.
        A lease of more than MAX_LEASES times `lease_seconds` has expired, too: the clock was ahead when it was taken.

        Order: lower priority number first, then longest waiting; but before all others up to `newest` jobs of priority ARRIVED that
        were enqueued last. `subjects`: only jobs of these subjects, a few hundred at most.
        """

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        """Heartbeat: extend the lease. LeaseLost where another worker has claimed the job."""

    def finish(self, *finished: Job) -> None:
        """Mark jobs done, in the transaction that holds their results. LeaseLost where another worker has claimed one of them."""

    def put_notes(self, job: Job, notes: Mapping[str, Any]) -> None:
        """Set the job's payload to that of the claim plus these notes, replacing earlier notes. LeaseLost as `extend`."""

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        """Return the job to WAITING, due after the delay. `counts=False`: the attempt is not counted. No error on a lost lease."""

    def quarantine(self, job: Job, *, error: str) -> None:
        """Quarantine the job until a person retries it. No error on a lost lease."""

    def is_open(self, kind: JobKind, subject: str) -> bool:
        """Tell whether a job of this kind and subject waits, runs or is in quarantine."""

    def count_leased(self, kind: JobKind, subjects: Collection[str]) -> int:
        """Return the number of leased jobs of this kind and of these subjects, including those with expired leases."""

    def has_urgent(self, kind: JobKind, *, before: int) -> bool:
        """Tell whether a job of this kind, with a priority number below `before`, is due, or runs under a valid lease."""

    def count_by_state(self) -> dict[tuple[JobKind, JobState], int]:
        """Return the number of jobs by kind and state."""

    def count_waiting(self, kind: JobKind, *, at_most: int) -> int:
        """Return the number of waiting jobs of this kind, counted up to `at_most`."""

    def purge_done(self, *, older_than_days: float, limit: int = 10_000) -> int:
        """Delete up to `limit` jobs that were done more than `older_than_days` ago, oldest first; return their number."""

    def follow_clock(self, *, max_delay_seconds: float) -> int:
        """Make waiting jobs due whose due time is later than any delay, or that were enqueued in the future; return the number."""

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        """Return quarantined jobs (all, or these) to WAITING with no attempts counted; return their number."""


class Circuits(Protocol):
    """Circuit breakers, one per destination, shared by all workers through the catalog."""

    def admit(self, destination: str, *, probe_seconds: float) -> bool:
        """Tell whether the destination may be used. Closed circuit: yes. Open: no. Half-open, after the open time: yes for one
        caller, the probe, and no for the others for `probe_seconds`."""

    def record_failure(self, destination: str, *, threshold: int, open_seconds: float) -> None:
        """Count a failure to reach the destination. `threshold` or more in a row open the circuit for `open_seconds`."""

    def record_success(self, destination: str) -> None:
        """Close the circuit and clear its failures."""

    def follow_clock(self, *, max_open_seconds: float) -> int:
        """End the open time of circuits that would stay open for longer; return their number."""
