"""Whatever a database or its driver raises, the catalog is out of resources: A700 to a sender, another attempt in a role."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy.exc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.network.dimse import OUT_OF_RESOURCES
from adapters.dicom.network.listener import choose_status
from pipeline import work
from pipeline.domain import Job, JobKind, JobState
from pipeline.errors import CatalogFault, OutOfResources, RadclipdError
from tests.builders import sql

NAME = "DOE^JANE"


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def make_driver_error(kind: Any) -> Exception:
    error: Exception = kind(f'first line quotes "{NAME}"\nDETAIL: {NAME}')
    return error


def make_sqlite_error(code: int) -> Exception:
    error = sqlite3.OperationalError(f"refused {NAME}")
    error.sqlite_errorcode = code
    return error


PSYCOPG_ERRORS = [make_driver_error(kind) for kind in sorted({psycopg.Error, *subclasses(psycopg.Error)}, key=str)]
SQLITE_CLASSES = sorted({sqlite3.Error, *subclasses(sqlite3.Error)}, key=str)
SQLITE_ERRORS = [*map(make_driver_error, SQLITE_CLASSES), *map(make_sqlite_error, range(1, 27))]
FOREIGN_ERRORS: list[Exception] = [
    OverflowError("int too large"),
    UnicodeEncodeError("utf-8", NAME, 0, 1, "surrogates not allowed"),
    ValueError(NAME),
    TypeError("not supported"),
    OSError(28, "No space left on device"),
    TimeoutError("timed out"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


def raise_within(catalog: SqlCatalog, error: Exception) -> None:
    """Raise the error where the driver would: while it executes a statement."""

    def fail(*_: Any) -> None:
        raise error

    event.listen(catalog._engine.dialect, "do_execute", fail)
    try:
        with catalog.begin() as tx:
            tx.jobs.count_by_state()
    finally:
        event.remove(catalog._engine.dialect, "do_execute", fail)


@given(error=st.sampled_from([*PSYCOPG_ERRORS, *SQLITE_ERRORS, *FOREIGN_ERRORS]))
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_error_of_a_driver_is_out_of_resources(error: Exception, sql_catalog: SqlCatalog) -> None:
    is_sqlite = sql_catalog._url.get_backend_name() == "sqlite"
    if isinstance(error, psycopg.Error if is_sqlite else sqlite3.Error):
        return  # of the other driver
    with pytest.raises(OutOfResources) as caught:
        raise_within(sql_catalog, error)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    names_a_constraint = isinstance(caught.value.__cause__, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError)
    if isinstance(caught.value, CatalogFault) and not names_a_constraint:
        assert NAME not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(set(subclasses(sqlalchemy.exc.SQLAlchemyError)), key=str), ids=lambda kind: kind.__name__)
def test_every_error_of_sqlalchemy_is_out_of_resources(kind: type[Exception], sql_catalog: SqlCatalog) -> None:
    error = kind.__new__(kind)
    error.__dict__.update(orig=None, statement=None, params=None, connection_invalidated=False, code=None, detail=[])
    with pytest.raises(OutOfResources), sql_catalog.begin():
        raise error


@pytest.mark.parametrize("statement", ["DROP TABLE circuits", "ALTER TABLE circuits RENAME COLUMN failures TO others"])
def test_a_catalog_that_somebody_has_changed_is_out_of_resources(statement: str, sql_catalog: SqlCatalog, catalog_url: str) -> None:
    sql.execute(catalog_url, statement)
    with pytest.raises(CatalogFault), sql_catalog.begin() as tx:
        tx.circuits.record_failure("PACS", threshold=1, open_seconds=1)


def test_a_number_that_the_driver_cannot_bind_is_a_fault_of_the_catalog(sql_catalog: SqlCatalog) -> None:
    with pytest.raises(CatalogFault), sql_catalog.read() as tx:
        tx.jobs.count_waiting(JobKind.SCORE, at_most=2**70)


def test_errors_of_the_step_itself_pass(sql_catalog: SqlCatalog) -> None:
    with pytest.raises(ZeroDivisionError), sql_catalog.begin():
        raise ZeroDivisionError


def test_every_catalog_error_is_a700_to_a_sender() -> None:
    for kind in (OutOfResources, CatalogFault):
        assert choose_status(kind("the catalog")) == OUT_OF_RESOURCES


@pytest.mark.parametrize(("error", "counts"), [(OutOfResources("away"), False), (CatalogFault("refused"), True)])
def test_a_catalog_that_is_away_burns_no_tries(error: RadclipdError, counts: bool, sql_catalog: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")

    def step(_job: Job) -> None:
        raise error

    policy = work.WorkPolicy(max_attempts=2, retry_base_seconds=0, retry_cap_seconds=0)
    spec = work.WorkerSpec(kind=JobKind.SCORE, step=work.per_job_step(step))
    for _ in range(5):
        work.work_once(spec, catalog=sql_catalog, worker="w", policy=policy)
    with sql_catalog.read() as tx:
        assert tx.jobs.count_by_state() == {(JobKind.SCORE, JobState.QUARANTINED if counts else JobState.WAITING): 1}
