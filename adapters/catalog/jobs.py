"""The queue. Leases end by the database's clock and are fenced by a random token.

At most one job of a kind and subject waits, and at most one runs: unique indexes enforce both. On PostgreSQL the transactions of
workers overlap, so a statement that writes repeats the condition that was read before it.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    RowMapping,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from adapters.catalog.parameters import build_insert, sanitise_text
from adapters.catalog.sql_time import CLOCK_TOLERANCE_SECONDS, DAY_SECONDS, now, seconds_from_now
from adapters.catalog.tables import jobs
from pipeline import priorities
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import LeaseLost
from pipeline.ports.jobs import MAX_LEASES, SubjectFilter

WAITING, RUNNING, DONE, QUARANTINED = (state.value for state in JobState)
OPEN_STATES = (WAITING, RUNNING, QUARANTINED)
NO_LEASE: dict[str, Any] = {"lease_until": None, "lease_token": "", "worker": ""}


class SqlJobs:
    """`ports.jobs.Jobs`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.put_kinds: set[JobKind] = set()

    def put(
        self, kind: JobKind, subject: str, payload: Mapping[str, Any] | None = None, *, priority: int = priorities.ARRIVED
    ) -> int | None:
        self.put_kinds.add(kind)
        same = and_(jobs.c.kind == kind.value, jobs.c.subject == subject, _has_state(WAITING))
        more_urgent = case((jobs.c.priority > priority, priority), else_=jobs.c.priority)
        renewed = update(jobs).where(same).values(payload=dict(payload or {}), priority=more_urgent)
        while True:  # the waiting job may be claimed between the two statements: then the insert succeeds
            made = self._insert_job(kind, subject, payload or {}, priority)
            if made is not None or self._connection.execute(renewed).rowcount:
                return made

    def put_all(
        self,
        kind: JobKind,
        payloads: Mapping[str, Mapping[str, Any]],
        *,
        priority: int = priorities.ARRIVED,
        due: Mapping[str, datetime] | None = None,
    ) -> None:
        if not payloads:
            return
        self.put_kinds.add(kind)
        fresh = _insert_unless_waiting(self._connection.dialect.name)
        values: list[dict[str, Any]] = [
            {"kind": kind.value, "subject": subject, "payload": dict(payload), "priority": priority}
            | ({} if due is None else {"run_at": due[subject]})
            for subject, payload in sorted(payloads.items())
        ]
        made = {subject for _, subject in self._connection.execute(fresh, values)}
        for subject in payloads.keys() - made:
            self.put(kind, subject, payloads[subject], priority=priority)

    def _insert_job(self, kind: JobKind, subject: str, payload: Mapping[str, Any], priority: int) -> int | None:
        """Insert a job unless one of its kind and subject waits. Return its number, or None."""
        values = {"kind": kind.value, "subject": subject, "payload": dict(payload), "priority": priority}
        made = self._connection.execute(_insert_unless_waiting(self._connection.dialect.name), values).one_or_none()
        return made.id if made else None

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
        """Jobs with an expired lease come first, then waiting ones. A job waits while another of its kind and subject runs."""
        ids: list[int] = []
        for due, most in (
            (_select_expired(kinds, lease_seconds), limit),
            (_select_newest(kinds), newest),
            (_select_due(kinds), limit),
        ):
            if subjects is not None:
                due = due.where(jobs.c.subject.in_(subjects))
            if (room := min(most, limit - len(ids))) > 0:
                others = due.where(jobs.c.id.not_in(ids)) if ids else due
                ids += self._connection.scalars(others.limit(room).with_for_update(skip_locked=True))
        return self._lease_jobs(ids, worker, lease_seconds) if ids else []

    def _lease_jobs(self, ids: Sequence[int], worker: str, lease_seconds: float) -> list[Job]:
        """Lease jobs whose rows are locked; return them in the order of `ids`."""
        values = {"rows": ids, "by": sanitise_text(worker, 128), "token": secrets.token_hex(16), "seconds": lease_seconds}
        leased = {row["id"]: _build_job(row) for row in self._connection.execute(_LEASE, values).mappings()}
        return [leased[number] for number in ids]

    def extend(self, job: Job, *, lease_seconds: float) -> None:
        self._update_or_raise(job, lease_until=seconds_from_now(lease_seconds))

    def finish(self, *finished: Job) -> None:
        leases: dict[str, list[int]] = {}
        for job in finished:
            leases.setdefault(job.lease_token, []).append(job.id)
        done = {
            number for token, rows in leases.items() for number in self._connection.scalars(_FINISH, {"rows": rows, "token": token})
        }
        for job in finished:
            if job.id not in done:
                raise _build_lease_lost(job)

    def put_notes(self, job: Job, notes: Mapping[str, Any]) -> None:
        self._update_or_raise(job, payload={**job.payload, **notes})

    def retry(self, job: Job, *, error: str, delay_seconds: float, counts: bool = True) -> None:
        attempts = job.attempts if counts else job.attempts - 1
        again = {"state": WAITING, "attempts": attempts, "run_at": seconds_from_now(delay_seconds), "error": sanitise_text(error)}
        try:
            with self._connection.begin_nested():
                self._update_held(job, **again, **NO_LEASE)
        except IntegrityError:  # a newer job of this kind and subject waits already
            self._update_held(job, state=DONE, finished_at=now(), error=sanitise_text(f"left to a newer job; {error}"), **NO_LEASE)

    def quarantine(self, job: Job, *, error: str) -> None:
        self._update_held(job, state=QUARANTINED, finished_at=now(), error=sanitise_text(error), **NO_LEASE)

    def is_open(self, kind: JobKind, subject: str) -> bool:
        return bool(self._connection.scalar(select(has_job(kind, literal(subject), *OPEN_STATES))))

    def count_waiting(self, kind: JobKind, *, at_most: int) -> int:
        some = select(jobs.c.id).where(_has_state(WAITING), jobs.c.kind == kind.value).limit(at_most).subquery()
        return self._connection.scalar(select(func.count()).select_from(some)) or 0

    def count_leased(self, kind: JobKind, subjects: Collection[str]) -> int:
        query = select(func.count()).where(jobs.c.kind == kind.value, jobs.c.subject.in_(subjects), _has_state(RUNNING))
        return self._connection.scalars(query).one()

    def has_urgent(self, kind: JobKind, *, before: int) -> bool:
        urgent = and_(jobs.c.kind == kind.value, jobs.c.priority < before)
        due = select(jobs.c.id).where(_has_state(WAITING), urgent, jobs.c.run_at <= now()).limit(1)
        held = select(jobs.c.id).where(_has_state(RUNNING), urgent, jobs.c.lease_until > now()).limit(1)
        return any(self._connection.scalar(query) is not None for query in (due, held))

    def count_by_state(self) -> dict[tuple[JobKind, JobState], int]:
        query = select(jobs.c.kind, jobs.c.state, func.count()).group_by(jobs.c.kind, jobs.c.state)
        return {(JobKind(kind), JobState(state)): n for kind, state, n in self._connection.execute(query)}

    def oldest_due_seconds(self, *, before: int) -> dict[JobKind, float]:
        """Return by kind how long its oldest waiting job has existed and been due, in seconds by the database's clock.

        Only jobs with a priority number below `before` count: the others wait on purpose.
        """
        waits = and_(_has_state(WAITING), jobs.c.priority < before, jobs.c.run_at <= now())
        there = case((jobs.c.created_at > jobs.c.run_at, jobs.c.created_at), else_=jobs.c.run_at)
        query = select(jobs.c.kind, func.min(there, type_=jobs.c.run_at.type)).where(waits)
        moment = self._connection.scalars(select(now())).one()
        return {
            JobKind(kind): (moment - since).total_seconds() for kind, since in self._connection.execute(query.group_by(jobs.c.kind))
        }

    def purge_done(self, *, older_than_days: float, limit: int = 10_000) -> int:
        old = and_(_has_state(DONE), jobs.c.finished_at < seconds_from_now(-older_than_days * DAY_SECONDS))
        some = select(jobs.c.id).where(old).order_by(jobs.c.finished_at).limit(limit)
        return self._connection.execute(delete(jobs).where(jobs.c.id.in_(some))).rowcount

    def follow_clock(self, *, max_delay_seconds: float) -> int:
        """The conditions on kind and priority let the index of waiting jobs find the latest ones."""
        soon = seconds_from_now(CLOCK_TOLERANCE_SECONDS)
        latest = seconds_from_now(max_delay_seconds + CLOCK_TOLERANCE_SECONDS)
        places = and_(jobs.c.kind.in_([kind.value for kind in JobKind]), jobs.c.priority.in_(priorities.ALL), _has_state(WAITING))
        ahead = and_(jobs.c.run_at > soon, or_(jobs.c.run_at > latest, jobs.c.created_at > soon))
        return self._connection.execute(update(jobs).where(places, ahead).values(run_at=now())).rowcount

    def requeue(self, ids: Sequence[int] | None = None) -> int:
        """Of several jobs of one subject the newest waits again, or the one that waits already; the others are marked done."""
        chosen = select(jobs).where(_has_state(QUARANTINED)).order_by(jobs.c.id.desc()).with_for_update()
        if ids is not None:
            chosen = chosen.where(jobs.c.id.in_(ids))
        rows = self._connection.execute(chosen).mappings().all()
        for row in rows:
            again = self._insert_job(JobKind(row["kind"]), row["subject"], row["payload"], row["priority"])
            note = f"put back as job {again}" if again is not None else "left to a newer job that waits"
            done = {"state": DONE, "finished_at": now(), "error": sanitise_text(f"{note}; {row['error']}")}
            self._connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(**done))
        return len(rows)

    def _update_held(self, job: Job, **values: Any) -> bool:
        """Update a job whose lease this worker still holds; return whether it does."""
        ours = and_(jobs.c.id == job.id, jobs.c.state == RUNNING, jobs.c.lease_token == job.lease_token)
        return self._connection.execute(update(jobs).where(ours).values(**values)).rowcount == 1

    def _update_or_raise(self, job: Job, **values: Any) -> None:
        if not self._update_held(job, **values):
            raise _build_lease_lost(job)


def _build_lease_lost(job: Job) -> LeaseLost:
    return LeaseLost(f"job {job.id} ({job.kind}) is no longer ours", hint="its lease ran out; see work.lease_seconds")


def has_job(kind: JobKind, subject: ColumnElement[str], *states: str) -> ColumnElement[bool]:
    """Return the condition that a job of this kind and subject has one of these open states; each state has its own index."""
    of_it = and_(jobs.c.kind == kind.value, jobs.c.subject == subject)
    return or_(*(exists().where(of_it, _has_state(state)) for state in states))


def _has_state(state: str, table: Any = jobs) -> ColumnElement[bool]:
    """Return the condition with a literal state: SQLite uses a partial index only for a literal condition."""
    found: ColumnElement[bool] = table.c.state == literal_column(f"'{state}'")
    return found


_LEASE = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("rows", expanding=True)))
    .values(
        state=RUNNING,
        attempts=jobs.c.attempts + 1,
        worker=bindparam("by"),
        lease_token=bindparam("token"),
        lease_until=seconds_from_now(bindparam("seconds")),
    )
    .returning(jobs)
)
_FINISH = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("rows", expanding=True)), _has_state(RUNNING), jobs.c.lease_token == bindparam("token"))
    .values(state=DONE, finished_at=now(), error="", **NO_LEASE)
    .returning(jobs.c.id)
)
"""Built once, as in `scores`."""


@cache
def _insert_unless_waiting(dialect: str) -> Executable:
    """Return the INSERT of jobs unless one of their kind and subject waits; it returns number and subject."""
    ignored = build_insert(jobs, dialect).on_conflict_do_nothing(
        index_elements=["kind", "subject"], index_where=text("state = 'waiting'")
    )
    statement: Executable = ignored.returning(jobs.c.id, jobs.c.subject)
    return statement


def _select_expired(kinds: Sequence[JobKind], lease_seconds: float) -> Select[int]:
    """Return the jobs whose lease has expired, because the worker has died or hangs, or was taken while the clock was ahead."""
    over = or_(jobs.c.lease_until <= now(), jobs.c.lease_until > seconds_from_now(MAX_LEASES * lease_seconds))
    ran_out = and_(jobs.c.kind.in_([kind.value for kind in kinds]), _has_state(RUNNING), over)
    return select(jobs.c.id).where(ran_out).order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)


def _select_due(kinds: Sequence[JobKind]) -> Select[int]:
    """Return the waiting jobs that are due and of whose kind and subject none runs."""
    return select(jobs.c.id).where(_is_claimable(kinds)).order_by(jobs.c.priority, jobs.c.run_at, jobs.c.id)


def _select_newest(kinds: Sequence[JobKind]) -> Select[int]:
    """Return the due jobs of studies that have just been received, the newest first."""
    arrived = and_(_is_claimable(kinds), jobs.c.priority == priorities.ARRIVED)
    return select(jobs.c.id).where(arrived).order_by(jobs.c.run_at.desc(), jobs.c.id.desc())


def _is_claimable(kinds: Sequence[JobKind]) -> ColumnElement[bool]:
    other = jobs.alias()
    in_hand = select(other.c.id).where(other.c.kind == jobs.c.kind, other.c.subject == jobs.c.subject, _has_state(RUNNING, other))
    return and_(jobs.c.kind.in_([kind.value for kind in kinds]), _has_state(WAITING), jobs.c.run_at <= now(), ~in_hand.exists())


def _build_job(row: RowMapping) -> Job:
    return Job(
        id=row["id"],
        kind=JobKind(row["kind"]),
        subject=row["subject"],
        due_at=row["run_at"],
        payload=row["payload"],
        state=JobState(row["state"]),
        attempts=row["attempts"],
        lease_token=row["lease_token"],
        error=row["error"],
        priority=row["priority"],
    )
