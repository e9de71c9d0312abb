"""The fake catalog: transactions on a copy of its rows, and a clock that tests set."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pipeline.domain import (
    AuditEvent,
)
from pipeline.ports.services import (
    Catalog,
    Transaction,
)
from tests.builders.fakes.backfills import FakeBackfills
from tests.builders.fakes.deliveries import FakeDeliveries
from tests.builders.fakes.jobs import FakeCircuits, FakeJobs
from tests.builders.fakes.labels import FakeLabels, FakeReaderDocuments, FakeRequests, FakeSecondReadings
from tests.builders.fakes.retention import FakeRetention
from tests.builders.fakes.revisions import FakeRevisions
from tests.builders.fakes.rows import CatalogTables
from tests.builders.fakes.studies import FakeReferences, FakeReports, FakeReportStops, FakeScoreRows, FakeStudies
from tests.builders.fakes.thumbnails import FakeThumbnails
from tests.builders.fakes.versions import FakeVersions


class FakeCatalog:
    """ports.Catalog with a clock that tests set."""

    def __init__(self) -> None:
        self.tables = CatalogTables()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.committed = 0
        self.fail_next_commit: Exception | None = None
        self._lock = threading.RLock()

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        with self._lock:
            work = copy.deepcopy(self.tables)
            yield FakeTransaction(work, lambda: self.now)
            if self.fail_next_commit:
                error, self.fail_next_commit = self.fail_next_commit, None
                raise error
            self.tables = work
            self.committed += 1

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self._lock:
            yield FakeTransaction(copy.deepcopy(self.tables), lambda: self.now)


class FakeTransaction:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._tables = tables
        self.studies = FakeStudies(tables, now)
        self.revisions = FakeRevisions(tables, self.studies, now)
        self.retention = FakeRetention(tables, now)
        self.scores = FakeScoreRows(tables)
        self.thumbnails = FakeThumbnails(tables)
        self.references = FakeReferences(tables)
        self.reports = FakeReports(tables, now)
        self.deliveries = FakeDeliveries(tables, now)
        self.stops = FakeReportStops(tables)
        self.versions = FakeVersions(tables)
        self.jobs = FakeJobs(tables, now)
        self.circuits = FakeCircuits(tables, now)
        self.labels = FakeLabels(tables)
        self.requests = FakeRequests(tables)
        self.second_readings = FakeSecondReadings(tables)
        self.reader_documents = FakeReaderDocuments(tables)
        self.backfills = FakeBackfills(tables.backfills, tables.studies, now)
        self.now = now

    def audit(self, event: AuditEvent) -> None:
        self._tables.audit.append(event)


# The type checker holds each fake against its port.
def _catalog(fake: FakeCatalog) -> Catalog:
    return fake
