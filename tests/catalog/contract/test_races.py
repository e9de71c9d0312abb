"""Two sessions whose transactions overlap.

SQLite admits one writer at a time. On PostgreSQL they overlap, so each test runs the second session at the critical statement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from sqlalchemy import Engine, event

from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import Header, JobKind, JobState, Sender, StoredFile, StudyState
from tests.conftest import DATABASES

SENDER = Sender("ORTHANC", "127.0.0.1", "RADCLIPD")
FILE = StoredFile("aa/bb/f.dcm", "f" * 64, 10)


@pytest.fixture
def other(catalog_url: str) -> Iterator[SqlCatalog]:
    """A second catalog on the same database, as of another process."""
    catalog = SqlCatalog(catalog_url, busy_timeout_seconds=10)
    yield catalog
    catalog.dispose()


def header(sop: str) -> Header:
    return Header(
        sop_instance_uid=sop,
        sop_class_uid="1.2",
        series_instance_uid="1.3",
        study_instance_uid="1.4",
        transfer_syntax_uid="1.5",
        patient_id="P1",
    )


@contextmanager
def just_before(statement: str, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` once, just before any session sends a statement that begins so."""
    pending = [act]

    def call_once(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith(statement) and pending:
            pending.pop()()

    event.listen(Engine, "before_cursor_execute", call_once)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", call_once)
    assert not pending, f"no statement began with {statement}"


only_postgresql = pytest.mark.parametrize("catalog_url", DATABASES[1:], indirect=True)


@only_postgresql
def test_a_job_put_while_the_waiting_one_is_claimed_is_not_lost(sql_catalog: SqlCatalog, other: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.REPORT, "1.4", {"revision": 1})

    def claim() -> None:
        with other.begin() as tx:
            assert len(tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=30)) == 1

    with just_before("UPDATE jobs SET payload", claim), sql_catalog.begin() as tx:
        assert tx.jobs.put(JobKind.REPORT, "1.4", {"revision": 2}) is not None
    with sql_catalog.read() as tx:
        assert tx.jobs.count_by_state() == {(JobKind.REPORT, JobState.RUNNING): 1, (JobKind.REPORT, JobState.WAITING): 1}


@only_postgresql
def test_a_retry_yields_to_a_job_put_concurrently(sql_catalog: SqlCatalog, other: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.4")
        (job,) = tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30)

    def put() -> None:
        with other.begin() as tx:
            tx.jobs.put(JobKind.SCORE, "1.4", {"newer": True})

    with just_before("UPDATE jobs SET state", put), sql_catalog.begin() as tx:
        tx.jobs.retry(job, error="busy", delay_seconds=0)
    with sql_catalog.begin() as tx:
        assert tx.jobs.count_by_state() == {(JobKind.SCORE, JobState.DONE): 1, (JobKind.SCORE, JobState.WAITING): 1}
        assert tx.jobs.claim([JobKind.SCORE], worker="w", lease_seconds=30)[0].payload == {"newer": True}


def test_an_instance_received_while_its_study_is_settled_reopens_the_study(sql_catalog: SqlCatalog, other: SqlCatalog) -> None:
    with sql_catalog.begin() as tx:
        tx.studies.add_instance(header("1.4.1"), FILE, SENDER, opens_study=True)
    begun = threading.Event()

    def late() -> None:
        begun.wait(10)
        with other.begin() as tx:
            tx.studies.find("1.4")
            tx.studies.add_instance(header("1.4.2"), FILE, SENDER, opens_study=True)

    sender = threading.Thread(target=late)
    sender.start()
    with sql_catalog.begin() as tx:
        tx.studies.find("1.4")
        seen = tx.studies.instances("1.4")
        begun.set()
        sender.join(0.3)  # long enough to finish if it were not blocked
        tx.studies.put_state("1.4", StudyState.IGNORED, reason="lateral view (1)")
    sender.join(10)
    with sql_catalog.read() as tx:
        study = tx.studies.find("1.4")
        assert study is not None
        assert (len(seen), study.instances, study.state) == (1, 2, StudyState.ARRIVING)


def test_the_same_instance_from_two_concurrent_senders_is_stored_once(sql_catalog: SqlCatalog, other: SqlCatalog) -> None:
    found: list[bool] = []
    looked = threading.Barrier(2)

    def receive(catalog: SqlCatalog) -> None:
        with catalog.read() as tx:
            assert tx.studies.find_instance("1.4.1") is None
        looked.wait(10)
        with catalog.begin() as tx:
            known = tx.studies.find_instance("1.4.1")
            found.append(known is not None)
            if known is None:
                tx.studies.add_instance(header("1.4.1"), FILE, SENDER, opens_study=True)

    senders = [threading.Thread(target=receive, args=(catalog,)) for catalog in (sql_catalog, other)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(10)
    assert sorted(found) == [False, True]


def test_two_concurrent_instances_of_a_new_study_make_one_study(sql_catalog: SqlCatalog, other: SqlCatalog) -> None:
    failures: list[Exception] = []

    def receive(catalog: SqlCatalog, sop: str) -> None:
        try:
            with catalog.begin() as tx:
                tx.studies.find_instance(sop)
                tx.studies.find("1.4")
                tx.studies.add_instance(header(sop), FILE, SENDER, opens_study=True)
        except Exception as error:
            failures.append(error)

    senders = [
        threading.Thread(target=receive, args=(catalog, f"1.4.{number}")) for number, catalog in enumerate([sql_catalog, other] * 6)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(20)
    assert failures == []
    with sql_catalog.read() as tx:
        study = tx.studies.find("1.4")
        assert study is not None
        assert (study.instances, len(tx.studies.instances("1.4"))) == (12, 12)


def test_each_advisory_lock_has_a_key_of_its_own() -> None:
    """Two locks of one key would make writers wait that have nothing to do with each other."""
    keys = {
        (module, name): getattr(import_module(f"adapters.catalog.{module}"), name)
        for module in ("audit_chain", "labels", "references", "requests", "schema")
        for name in vars(import_module(f"adapters.catalog.{module}"))
        if name.endswith("_LOCK_KEY")
    }
    assert len(keys) == len(set(keys.values())) == 5
