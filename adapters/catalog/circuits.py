"""One circuit breaker per destination, shared by all workers."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_, select, update

from adapters.catalog.parameters import build_insert
from adapters.catalog.sql_time import CLOCK_TOLERANCE_SECONDS, now, seconds_from_now
from adapters.catalog.tables import circuits


class SqlCircuits:
    """`ports.jobs.Circuits`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def admit(self, destination: str, *, probe_seconds: float) -> bool:
        query = select(circuits.c.open_until).where(circuits.c.destination == destination)
        if self._connection.scalar(query) is None:
            return True
        probe = (
            update(circuits)
            .where(circuits.c.destination == destination, or_(circuits.c.open_until.is_(None), circuits.c.open_until <= now()))
            .values(open_until=seconds_from_now(probe_seconds))
        )
        return self._connection.execute(probe).rowcount == 1

    def record_failure(self, destination: str, *, threshold: int, open_seconds: float) -> None:
        statement = build_insert(circuits, self._connection.dialect.name).values(destination=destination, failures=1)
        counted = statement.on_conflict_do_update(
            index_elements=[circuits.c.destination], set_={"failures": circuits.c.failures + 1}
        )
        self._connection.execute(counted)
        self._connection.execute(
            update(circuits)
            .where(circuits.c.destination == destination, circuits.c.failures >= threshold)
            .values(open_until=seconds_from_now(open_seconds))
        )

    def follow_clock(self, *, max_open_seconds: float) -> int:
        ahead = circuits.c.open_until > seconds_from_now(max_open_seconds + CLOCK_TOLERANCE_SECONDS)
        return self._connection.execute(update(circuits).where(ahead).values(open_until=now())).rowcount

    def record_success(self, destination: str) -> None:
        if self._connection.scalar(select(circuits.c.destination).where(circuits.c.destination == destination)) is not None:
            self._connection.execute(delete(circuits).where(circuits.c.destination == destination))
