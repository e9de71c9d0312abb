"""The catalog: one transaction at a time, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.catalog.circuits import SqlCircuits
from adapters.catalog.engine import database_url, described, open_engine
from adapters.catalog.jobs import SqlJobs
from adapters.catalog.reports import SqlReports
from adapters.catalog.scores import SqlScoreRows
from adapters.catalog.studies import SqlStudies
from adapters.catalog.tables import audit_events, circuits
from adapters.catalog.versions import SqlVersions
from pipeline.domain import AuditEvent
from pipeline.errors import OutOfResources

PASSING_SQLSTATES = ("08", "40", "53", "55", "57")
"""PostgreSQL error classes that pass: connection, rollback (serialization, deadlock), resources, lock, operator intervention."""


class SqlTransaction:
    """ports.Transaction on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.studies = SqlStudies(connection)
        self.scores = SqlScoreRows(connection)
        self.reports = SqlReports(connection)
        self.versions = SqlVersions(connection)
        self.jobs = SqlJobs(connection)
        self.circuits = SqlCircuits(connection)

    def audit(self, event: AuditEvent) -> None:
        self._connection.execute(
            insert(audit_events).values(
                action=event.action,
                outcome=event.outcome,
                subject=event.subject[:128],
                detail=event.detail[:4000],
                source=event.source[:128],
            )
        )


class SqlCatalog:
    """ports.Catalog on SQLite or PostgreSQL. Safe for any number of threads; not to be carried over a fork."""

    def __init__(self, url: str, *, busy_timeout_seconds: float = 30.0) -> None:
        self._url = database_url(url)
        self._engine = open_engine(self._url, busy_timeout_seconds=busy_timeout_seconds)

    @contextmanager
    def begin(self) -> Iterator[SqlTransaction]:
        """Open a transaction that may write; on SQLite it holds the write lock from the start."""
        with self._translated(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield SqlTransaction(connection)

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """Open a transaction that only reads: one consistent state on SQLite, committed rows on PostgreSQL."""
        with self._translated(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=False, postgresql_readonly=True)
            with connection.begin():
                yield SqlTransaction(connection)

    def probe_write(self) -> None:
        """Really take the write lock, write a row and take it back. OutOfResources where that cannot be done."""
        with self._translated(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin() as transaction:
                connection.execute(insert(circuits).values(destination="\x01probe"))
                connection.execute(select(circuits.c.destination).where(circuits.c.destination == "\x01probe")).one()
                transaction.rollback()

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn "locked", "gone" and "full" into OutOfResources; a broken rule stays what it is: a fault of ours."""
        try:
            yield
        except SQLAlchemyError as error:
            if not _is_passing(error):
                raise
            raise OutOfResources(
                f"the catalog {described(self._url)} cannot be used now: {_reason(error)}",
                hint="is the database up, its disk not full, and no other program holding its lock?",
            ) from error


def _is_passing(error: SQLAlchemyError) -> bool:
    if not isinstance(error, DBAPIError):
        return "QueuePool limit" in str(error)
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return str(sqlstate).startswith(PASSING_SQLSTATES)
    return type(error.orig).__name__ == "OperationalError"


def _reason(error: SQLAlchemyError) -> str:
    """Return the driver's own words without statement and parameters, which may quote a header."""
    words = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    return words.strip().splitlines()[0] if words.strip() else type(error).__name__
