"""Fakes of ports.Jobs and ports.Circuits."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pipeline import priorities
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import LeaseLost
from pipeline.ports.jobs import MAX_LEASES, SubjectFilter
from tests.builders.fakes.rows import CatalogTables, JobRow


class FakeJobs:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def put(
        self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = priorities.ARRIVED
    ) -> int | None:
        waiting = self._find_waiting(kind, subject)
        if waiting is not None:
            waiting.job = replace(waiting.job, payload=dict(payload or {}), priority=min(waiting.job.priority, priority))
            return None
        number = max(self._t.jobs, default=0) + 1
        self._t.jobs[number] = JobRow(
            Job(id=number, kind=kind, subject=subject, due_at=self._now(), payload=dict(payload or {}), priority=priority)
        )
        return number

    def put_all(
        self,
        kind: JobKind,
        payloads: Mapping[str, Mapping[str, Any]],
        *,
        priority: int = priorities.ARRIVED,
        due: Mapping[str, datetime] | None = None,
    ) -> None:
        for subject, payload in payloads.items():
            number = self.put(kind, subject, payload, priority=priority)
            if number is not None and due is not None:
                self._t.jobs[number].job = replace(self._t.jobs[number].job, due_at=due[subject])

    def _find_waiting(self, kind: JobKind, subject: str) -> JobRow | None:
        rows = (r for r in self._t.jobs.values() if r.job.state is JobState.WAITING)
        return next((r for r in rows if (r.job.kind, r.job.subject) == (kind, subject)), None)

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
        now = self._now()
        running = {(r.job.kind, r.job.subject) for r in self._t.jobs.values() if r.job.state is JobState.RUNNING}
        candidates = [r for r in self._t.jobs.values() if r.job.kind in kinds and (subjects is None or r.job.subject in subjects)]
        expired = [r for r in candidates if r.job.state is JobState.RUNNING and r.lease_until is not None]
        longest = now + MAX_LEASES * timedelta(seconds=lease_seconds)
        expired = [r for r in expired if r.lease_until is not None and not now < r.lease_until <= longest]
        due = [
            r
            for r in candidates
            if r.job.state is JobState.WAITING and r.job.due_at <= now and (r.job.kind, r.job.subject) not in running
        ]
        for rows in (expired, due):
            rows.sort(key=lambda r: (r.job.priority, r.job.due_at, r.job.id))
        latest = [r for r in due if r.job.priority == priorities.ARRIVED]
        latest = sorted(latest, key=lambda r: (r.job.due_at, r.job.id), reverse=True)[:newest]
        claimed = (expired + latest + [r for r in due if r not in latest])[:limit]
        for row in claimed:
            row.job = replace(row.job, state=JobState.RUNNING, attempts=row.job.attempts + 1, lease_token=secrets.token_hex(8))
            row.lease_until = now + timedelta(seconds=lease_seconds)
        return [row.job for row in claimed]

    def count_leased(self, kind: JobKind, subjects: Collection[str]) -> int:
        rows = (row.job for row in self._t.jobs.values())
        return sum(job.kind is kind and job.subject in subjects and job.state is JobState.RUNNING for job in rows)

    def _find_held(self, job: Job) -> JobRow | None:
        row = self._t.jobs.get(job.id)
        return row if row and row.job.state is JobState.RUNNING and row.job.lease_token == job.lease_token else None

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        row = self._find_held(job)
        if row is None:
            raise LeaseLost(f"job {job.id} is no longer ours")
        row.lease_until = self._now() + timedelta(seconds=lease_seconds)

    def finish(self, *finished: Job) -> None:
        for job in finished:
            row = self._find_held(job)
            if row is None:
                raise LeaseLost(f"job {job.id} is no longer ours")
            row.job, row.lease_until, row.finished_at = replace(row.job, state=JobState.DONE), None, self._now()

    def put_notes(self, job: Job, notes: Mapping[str, Any]) -> None:
        row = self._find_held(job)
        if row is None:
            raise LeaseLost(f"job {job.id} is no longer ours")
        row.job = replace(row.job, payload={**job.payload, **notes})

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        row = self._find_held(job)
        if row is None:
            return
        if self._find_waiting(job.kind, job.subject):
            row.job, row.lease_until, row.finished_at = replace(row.job, state=JobState.DONE), None, self._now()
            return
        tries = job.attempts if counts else job.attempts - 1
        due = self._now() + timedelta(seconds=delay_seconds)
        row.job = replace(row.job, state=JobState.WAITING, attempts=tries, lease_token="", error=error, due_at=due)
        row.lease_until = None

    def quarantine(self, job: Job, *, error: str) -> None:
        row = self._find_held(job)
        if row is not None:
            row.job, row.lease_until = replace(row.job, state=JobState.QUARANTINED, error=error), None

    def is_open(self, kind: JobKind, subject: str) -> bool:
        rows = (row.job for row in self._t.jobs.values())
        return any((job.kind, job.subject) == (kind, subject) and job.state is not JobState.DONE for job in rows)

    def has_urgent(self, kind: JobKind, *, before: int) -> bool:
        urgent = [r for r in self._t.jobs.values() if r.job.kind is kind and r.job.priority < before]
        due = any(r.job.state is JobState.WAITING and r.job.due_at <= self._now() for r in urgent)
        return due or any(r.lease_until is not None and r.lease_until > self._now() for r in urgent)

    def count_by_state(self) -> dict[tuple[JobKind, JobState], int]:
        return dict(Counter((r.job.kind, r.job.state) for r in self._t.jobs.values()))

    def count_waiting(self, kind: JobKind, *, at_most: int) -> int:
        return min(at_most, self.count_by_state().get((kind, JobState.WAITING), 0))

    def purge_done(self, *, older_than_days: float, limit: int = 10_000) -> int:
        before = self._now() - timedelta(days=older_than_days)
        old = [n for n, r in self._t.jobs.items() if r.finished_at is not None and r.finished_at < before][:limit]
        for number in old:
            del self._t.jobs[number]
        return len(old)

    def follow_clock(self, *, max_delay_seconds: float) -> int:
        latest = self._now() + timedelta(seconds=max_delay_seconds + 1)
        rows = [r for r in self._t.jobs.values() if r.job.state is JobState.WAITING and r.job.due_at > latest]
        for row in rows:
            row.job = replace(row.job, due_at=self._now())
        return len(rows)

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        rows = [r for r in self._t.jobs.values() if r.job.state is JobState.QUARANTINED and (ids is None or r.job.id in ids)]
        for row in reversed(rows):
            if self._find_waiting(row.job.kind, row.job.subject) is None:
                self.put(row.job.kind, row.job.subject, row.job.payload, priority=row.job.priority)
            row.job, row.finished_at = replace(row.job, state=JobState.DONE), self._now()
        return len(rows)


class FakeCircuits:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def admit(self, destination: str, *, probe_seconds: float) -> bool:
        failures, open_until = self._t.circuits.get(destination, (0, None))
        if open_until is None:
            return True
        if open_until > self._now():
            return False
        self._t.circuits[destination] = (failures, self._now() + timedelta(seconds=probe_seconds))
        return True

    def record_failure(self, destination: str, *, threshold: int, open_seconds: float) -> None:
        failures = self._t.circuits.get(destination, (0, None))[0] + 1
        until = self._now() + timedelta(seconds=open_seconds) if failures >= threshold else None
        self._t.circuits[destination] = (failures, until)

    def follow_clock(self, *, max_open_seconds: float) -> int:
        latest = self._now() + timedelta(seconds=max_open_seconds + 1)
        ahead = {name: failures for name, (failures, until) in self._t.circuits.items() if until is not None and until > latest}
        self._t.circuits |= {name: (failures, self._now()) for name, failures in ahead.items()}
        return len(ahead)

    def record_success(self, destination: str) -> None:
        self._t.circuits.pop(destination, None)
