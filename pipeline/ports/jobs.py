"""What the steps need of the queue and of the breakers, as Protocols: parts of `ports.Transaction`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from pipeline.domain import ARRIVAL_PRIORITY, Job, JobKind, JobState

SubjectFilter = Collection[str] | None
"""None: of any."""


class Jobs(Protocol):
    """The queue."""

    def put(
        self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = ARRIVAL_PRIORITY
    ) -> int | None:
        """Enqueue; lower priority numbers run first. Where one of this kind and subject waits already, it takes the new
        payload and None is returned."""

    def put_all(
        self,
        kind: JobKind,
        payloads: Mapping[str, Mapping[str, Any]],
        *,
        priority: int = ARRIVAL_PRIORITY,
        due: Mapping[str, datetime] | None = None,
    ) -> None:
        """Enqueue a job for each subject with its payload, as `put` does; `due`: since when each is, in place of now."""

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
        """Lease up to `limit` due jobs, or jobs whose lease ran out, under a fresh random token. Counts the try.

        The most urgent first, of equally urgent ones those that have waited longest; but before them up to `newest` of those of
        priority ARRIVED that came last. `of`: only those of these subjects, a few hundred at most.
        """

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        """Heartbeat. LeaseLost when the token is no longer ours."""

    def finish(self, *finished: Job) -> None:
        """Mark done, inside the transaction that holds the jobs' results. LeaseLost when a token is no longer ours."""

    def put_notes(self, job: Job, notes: Mapping[str, Any]) -> None:
        """Keep notes beside what the job's payload held when it was claimed, in place of earlier ones. LeaseLost as `extend`."""

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        """Give the job back, due after the delay; `counts=False` takes the try back. A lost lease is not an error here."""

    def quarantine(self, job: Job, *, error: str) -> None:
        """Set the job aside for a person. A lost lease is not an error here."""

    def is_open(self, kind: JobKind, subject: str) -> bool:
        """Say whether a job of this kind and subject waits, runs or is in quarantine."""

    def count_leased(self, kind: JobKind, subjects: Collection[str]) -> int:
        """Return how many jobs of this kind and of these subjects are leased, whether their worker lives or not."""

    def has_urgent(self, kind: JobKind, *, before: int) -> bool:
        """Say whether a job of this kind, with a priority number below `before`, is due or in the hands of a worker that lives."""

    def count_by_state(self) -> dict[tuple[JobKind, JobState], int]:
        """Return how many jobs there are of each kind and state."""

    def count_waiting(self, kind: JobKind, *, at_most: int) -> int:
        """Return how many jobs of this kind wait, counted up to `at_most`."""

    def purge_done(self, *, older_than_days: float, limit: int = 10_000) -> int:
        """Delete jobs that were done longer ago, the oldest first and at most `limit`; return how many."""

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        """Put quarantined jobs (all, or these) back to waiting with their tries cleared; return how many."""


class Circuits(Protocol):
    """One breaker per destination, shared by all workers through the catalog."""

    def admit(self, destination: str, *, probe_seconds: float) -> bool:
        """True where the circuit is closed; where its rest is over, True for one caller and shut for others for probe_seconds."""

    def record_failure(self, destination: str, *, threshold: int, open_seconds: float) -> None:
        """Count a failure to reach it; from `threshold` in a row on, the circuit opens for rest_seconds."""

    def record_success(self, destination: str) -> None:
        """Close the circuit."""
