"""The queue. Leases by the database's clock, fenced by a random token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from adapters.catalog.clock import in_seconds, now
from adapters.catalog.tables import jobs
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import LeaseLost

DAY = 86400.0
WAITING, RUNNING, DONE, QUARANTINED = (state.value for state in JobState)
NOT_HELD: dict[str, Any] = {"lease_until": None, "lease_token": "", "worker": ""}


class SqlJobs:
    """ports.Jobs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = 100) -> int | None:
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        values = {"kind": kind.value, "subject": subject, "payload": dict(payload or {}), "priority": priority}
        fresh = (
            dialect.insert(jobs)
            .values(**values)
            .on_conflict_do_nothing(index_elements=["kind", "subject"], index_where=text("state = 'waiting'"))
            .returning(jobs.c.id)
        )
        made = self._connection.scalar(fresh)
        if made is None:
            same = and_(jobs.c.kind == kind.value, jobs.c.subject == subject, jobs.c.state == WAITING)
            self._connection.execute(update(jobs).where(same).values(payload=values["payload"]))
        return None if made is None else int(made)

    def claim(self, kinds: Sequence[JobKind], *, worker: str, lease_seconds: float, limit: int = 1) -> list[Job]:
        other = jobs.alias()
        held = select(other.c.id).where(
            other.c.kind == jobs.c.kind,
            other.c.subject == jobs.c.subject,
            other.c.state == RUNNING,
            other.c.lease_until > now(),
            other.c.id != jobs.c.id,
        )
        due = (
            select(jobs.c.id)
            .where(jobs.c.kind.in_([kind.value for kind in kinds]), _is_due(), ~held.exists())
            .order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        ids = list(self._connection.scalars(due))
        return [job for id_ in ids if (job := self._lease(id_, worker, lease_seconds))]

    def _lease(self, job_id: int, worker: str, lease_seconds: float) -> Job | None:
        statement = (
            update(jobs)
            .where(jobs.c.id == job_id, _is_due())
            .values(
                state=RUNNING,
                attempts=jobs.c.attempts + 1,
                worker=worker[:128],
                lease_token=secrets.token_hex(16),
                lease_until=in_seconds(lease_seconds),
            )
            .returning(jobs)
        )
        row = self._connection.execute(statement).mappings().one_or_none()
        return _job(row) if row else None

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        self._put(job, lease_until=in_seconds(lease_seconds))

    def finish(self, job: Job) -> None:
        self._put(job, state=DONE, finished_at=now(), error="", **NOT_HELD)

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        attempts = job.attempts if counts else job.attempts - 1
        waiting = select(jobs.c.id).where(jobs.c.kind == job.kind.value, jobs.c.subject == job.subject, jobs.c.state == WAITING)
        if self._connection.scalar(waiting) is not None:
            self._change(job, state=DONE, finished_at=now(), error=f"left to a newer job; {error}", **NOT_HELD)
            return
        self._change(job, state=WAITING, attempts=attempts, run_at=in_seconds(delay_seconds), error=error, **NOT_HELD)

    def quarantine(self, job: Job, *, error: str) -> None:
        self._change(job, state=QUARANTINED, finished_at=now(), error=error, **NOT_HELD)

    def counts(self) -> dict[tuple[JobKind, JobState], int]:
        query = select(jobs.c.kind, jobs.c.state, func.count()).group_by(jobs.c.kind, jobs.c.state)
        return {(JobKind(kind), JobState(state)): n for kind, state, n in self._connection.execute(query)}

    def purge_done(self, *, older_than_days: float) -> int:
        old = and_(jobs.c.state == DONE, jobs.c.finished_at < in_seconds(-older_than_days * DAY))
        return self._connection.execute(delete(jobs).where(old)).rowcount

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        """One at a time: of several quarantined jobs of one subject the first waits again, the others are done with it."""
        chosen = select(jobs).where(jobs.c.state == QUARANTINED).order_by(jobs.c.id)
        if ids is not None:
            chosen = chosen.where(jobs.c.id.in_(ids))
        rows = [_job(row) for row in self._connection.execute(chosen).mappings().all()]
        for job in rows:
            again = self.put(job.kind, job.subject, job.payload)
            note = f"put back as job {again}" if again is not None else "a job of this subject waits already"
            self._connection.execute(update(jobs).where(jobs.c.id == job.id).values(state=DONE, error=f"{note}; {job.error}"))
        return len(rows)

    def _change(self, job: Job, **values: Any) -> bool:
        """Change a job that is still ours; say whether it was."""
        ours = and_(jobs.c.id == job.id, jobs.c.state == RUNNING, jobs.c.lease_token == job.lease_token)
        return self._connection.execute(update(jobs).where(ours).values(**values)).rowcount == 1

    def _put(self, job: Job, **values: Any) -> None:
        if not self._change(job, **values):
            raise LeaseLost(f"job {job.id} ({job.kind}) is no longer ours", hint="its lease ran out; see work.lease_seconds")


def _is_due() -> ColumnElement[bool]:
    return or_(and_(jobs.c.state == WAITING, jobs.c.run_at <= now()), and_(jobs.c.state == RUNNING, jobs.c.lease_until <= now()))


def _job(row: RowMapping) -> Job:
    return Job(
        id=row["id"],
        kind=JobKind(row["kind"]),
        subject=row["subject"],
        payload=row["payload"],
        state=JobState(row["state"]),
        attempts=row["attempts"],
        lease_token=row["lease_token"],
        error=row["error"],
    )
