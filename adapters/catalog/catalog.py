"""The catalog: transactions, all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Self

import structlog
from sqlalchemy import URL, Connection, insert, select
from sqlalchemy.exc import SQLAlchemyError

from adapters.catalog import schema
from adapters.catalog.audit_chain import SqlAuditChain
from adapters.catalog.backfills import SqlBackfills
from adapters.catalog.circuits import SqlCircuits
from adapters.catalog.deliveries import SqlDeliveries
from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.erasures import SqlErasures
from adapters.catalog.errors import catalog_fault, catalog_unavailable, error_code, is_transient
from adapters.catalog.figures import SqlFigures
from adapters.catalog.inventory import SqlInventory
from adapters.catalog.jobs import SqlJobs
from adapters.catalog.labels import SqlLabels
from adapters.catalog.parameters import sanitise_text
from adapters.catalog.reader_documents import SqlReaderDocuments
from adapters.catalog.readings import SqlReadings
from adapters.catalog.references import SqlReferences
from adapters.catalog.report_stops import SqlReportStops
from adapters.catalog.reports import SqlReports
from adapters.catalog.requests import SqlRequests, SqlSecondReadings
from adapters.catalog.retention import SqlRetention
from adapters.catalog.revisions import SqlRevisions
from adapters.catalog.scores import SqlScoreRows
from adapters.catalog.sql_time import now
from adapters.catalog.studies import SqlStudies
from adapters.catalog.tables import audit_events, circuits
from adapters.catalog.thumbnails import SqlThumbnails
from adapters.catalog.users import SqlUsers
from adapters.catalog.versions import SqlVersions
from adapters.catalog.view_rows import SqlViewRows
from pipeline.domain import AuditEvent
from pipeline.errors import traceback_locations
from pipeline.rules import truncate_to_milliseconds

log = structlog.get_logger("radclipd.catalog")

SETTLE = "settle"
"""Wake-up of the dispatcher, beside the kinds of jobs, which wake workers."""
PROBE_DESTINATION = "(probe)"
"""Row of `circuits` that `probe_write` writes and takes back; no archive is named so."""

ANALYSIS_LIMIT = 1000
"""Rows of each index that SQLite's ANALYZE samples, https://sqlite.org/lang_analyze.html#approx."""


class SqlTransaction:
    """`ports.services.Transaction` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.studies = SqlStudies(connection)
        self.scores = SqlScoreRows(connection)
        self.thumbnails = SqlThumbnails(connection)
        self.references = SqlReferences(connection)
        self.reports = SqlReports(connection)
        self.deliveries = SqlDeliveries(connection)
        self.stops = SqlReportStops(connection)
        self.versions = SqlVersions(connection)
        self.jobs = SqlJobs(connection)
        self.circuits = SqlCircuits(connection)
        self.labels = SqlLabels(connection)
        self.requests = SqlRequests(connection)
        self.second_readings = SqlSecondReadings(connection)
        self.reader_documents = SqlReaderDocuments(connection)
        self.backfills = SqlBackfills(connection)
        self.revisions = SqlRevisions(connection, self.studies)
        self.retention = SqlRetention(connection)
        self.inventory = SqlInventory(connection)
        self.figures = SqlFigures(connection)
        self.users = SqlUsers(connection)
        self.readings = SqlReadings(connection)
        self.views = SqlViewRows(connection)
        self.audit_chain = SqlAuditChain(connection)
        self.erasures = SqlErasures(connection)

    @property
    def kinds_to_wake(self) -> set[str]:
        """Kinds of jobs that this transaction has put, and SETTLE where it has released a study."""
        return {kind.value for kind in self.jobs.put_kinds} | ({SETTLE} if self.studies.has_released else set())

    def now(self) -> datetime:
        moment = self._connection.scalars(select(now())).one()
        return truncate_to_milliseconds(moment)

    def audit(self, event: AuditEvent) -> None:
        self._connection.execute(
            insert(audit_events).values(
                action=event.action,
                outcome=event.outcome,
                subject=sanitise_text(event.subject, 128),
                detail=sanitise_text(event.detail),
                source=sanitise_text(event.source, 128),
                patient=event.patient,
            )
        )

    def pseudonym_keys(self, study_instance_uids: Collection[str]) -> Mapping[str, bytes]:
        """Return study -> key of its patient's pseudonyms."""
        return self.audit_chain.keys_of_studies(study_instance_uids)


class SqlCatalog:
    """`ports.services.Catalog` on SQLite or PostgreSQL. Thread-safe; a forked process must open its own."""

    def __init__(
        self, url: str | URL, *, busy_timeout_seconds: float = 30.0, wake: Callable[[Collection[str]], None] = lambda kinds: None
    ) -> None:
        """`wake` is called after a commit with the kinds of the new jobs, and SETTLE where a study may be complete.

        The schema is not verified: see `open`. ConfigurationError for a URL that cannot be served.
        """
        self._wake = wake
        self._url = database_url(url)
        self._engine = open_engine(self._url, busy_timeout_seconds=busy_timeout_seconds)

    @classmethod
    def open(cls, url: str, *, busy_timeout_seconds: float, wake: Callable[[Collection[str]], None]) -> Self:
        """Return the catalog at this URL, its schema verified; `wake` as in the constructor.

        ConfigurationError for a URL that cannot be served, OutOfResources where the database cannot be reached, SchemaMismatch
        where its schema is not this release's.
        """
        parsed = database_url(url)
        schema.verify(parsed)
        return cls(parsed, busy_timeout_seconds=busy_timeout_seconds, wake=wake)

    @contextmanager
    def begin(self) -> Iterator[SqlTransaction]:
        """Open a transaction that may write; on SQLite it holds the write lock from the start."""
        with self._translate_errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                transaction = SqlTransaction(connection)
                yield transaction
        if kinds := transaction.kinds_to_wake:
            self._wake(kinds)

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """Open a transaction that only reads: a snapshot on SQLite, read committed on PostgreSQL."""
        with self._translate_errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=False, postgresql_readonly=True)
            with connection.begin():
                yield SqlTransaction(connection)

    def probe_write(self) -> None:
        """Take the write lock, write a row and roll it back. OutOfResources where that fails."""
        with self._translate_errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin() as transaction:
                connection.execute(insert(circuits).values(destination=PROBE_DESTINATION))
                connection.execute(select(circuits.c.destination).where(circuits.c.destination == PROBE_DESTINATION)).one()
                transaction.rollback()

    def update_statistics(self) -> None:
        """Renew the statistics of SQLite's query planner from a sample of each index: milliseconds. PostgreSQL has autovacuum."""
        if self._url.get_backend_name() != "sqlite":
            return
        with self._translate_errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                connection.exec_driver_sql(f"PRAGMA analysis_limit = {ANALYSIS_LIMIT}")
                connection.exec_driver_sql("ANALYZE")

    def purge_erased_pages(self) -> str:
        """Overwrite deleted rows in SQLite's write-ahead log; return what still holds them, in words, or empty."""
        if self._url.get_backend_name() != "sqlite":
            return "deleted rows in the files of PostgreSQL, its write-ahead log among them, until they are written over"
        with (
            self._translate_errors(),
            closing(self._engine.raw_connection()) as connection,
        ):  # no transaction: a checkpoint needs none
            (busy, *_) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return "the write-ahead log of SQLite, until no long query is under way any more" if busy else ""

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate every error of the database: CatalogFault where it refuses a statement, else OutOfResources."""
        try:
            yield
        except SQLAlchemyError as error:
            if is_transient(error):
                raise catalog_unavailable(self._url, error) from error
            log.error(
                "the catalog refuses a statement",
                error=type(error).__name__,
                code=error_code(error),
                locations=traceback_locations(error),
            )
            raise catalog_fault(self._url, error) from error
