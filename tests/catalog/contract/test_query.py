"""`radclipd query`: the connection refuses to write, whatever the statement."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.catalog import query
from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import JobKind
from pipeline.errors import OutOfResources, PermanentError
from tests.builders.fakes.versions import a_version


def test_a_query_returns_columns_and_rows(catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
    catalog.dispose()
    columns, rows = query.run(catalog_url, "SELECT kind, subject FROM v_jobs WHERE kind LIKE 's%';")
    assert (columns, rows) == (["kind", "subject"], [("score", "1.2")])


def test_times_json_and_numbers_are_the_same_on_both_databases(catalog_url: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.versions.add(a_version(card={"a": 1}))
    catalog.dispose()
    _, rows = query.run(
        catalog_url, "SELECT served_at, thresholds, card, round(CAST(undetermined_margin AS numeric), 1) FROM v_model_versions"
    )
    served_at, thresholds, card, margin = rows[0]
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00:00", served_at)
    assert abs(datetime.fromisoformat(served_at) - datetime.now(UTC)) < timedelta(seconds=20)
    assert (json.loads(thresholds)["Hernia"], json.loads(card), type(margin)) == (0.5, {"a": 1}, float)


@pytest.mark.parametrize(
    "statement",
    [
        "-- a comment\nSELECT 1",
        "/* another */ SELECT 1",
        "with one as (select 1 as x) select x from one;",
        "VALUES (1)",
        "SELECT 100 % 99",
        "SELECT count(*) + 1 FROM v_jobs WHERE subject LIKE '%:x%'",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9) SELECT min(x) FROM n",
    ],
)
def test_every_form_of_reading_statement_is_accepted(catalog_url: str, statement: str) -> None:
    assert query.run(catalog_url, statement)[1] == [(1,)]


def test_explain_returns_a_plan(catalog_url: str) -> None:
    assert query.run(catalog_url, "EXPLAIN SELECT * FROM v_findings_wide")[1]


def test_a_limit_restricts_the_rows(catalog_url: str) -> None:
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9) SELECT x FROM n"
    assert query.run(catalog_url, many, limit=2)[1] == [(1,), (2,)]


def test_an_unreachable_database_is_out_of_resources_and_no_refusal(tmp_path: Path) -> None:
    for url in ("postgresql://radclipd:sesame@127.0.0.1:1/radclipd", f"sqlite:///{tmp_path / 'none.db'}"):
        with pytest.raises(OutOfResources) as unreachable:
            query.run(url, "SELECT 1")
        assert "sesame" not in str(unreachable.value)
        assert unreachable.value.hint


def test_an_error_in_a_statement_is_one_line(catalog_url: str) -> None:
    with pytest.raises(PermanentError, match="no_such") as refused:
        query.run(catalog_url, "SELECT no_such FROM v_jobs")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM jobs",
        "INSERT INTO circuits (destination) VALUES ('x')",
        "DROP TABLE jobs",
        "CREATE TABLE x (y int)",
        "PRAGMA query_only = OFF",
        "SET default_transaction_read_only = off",
        "ATTACH DATABASE 'x' AS y",
        "SELECT 1; DELETE FROM jobs",
        "SELECT 1; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; DELETE FROM jobs",
        "WITH gone AS (SELECT 1) DELETE FROM jobs",
        "WITH gone AS (SELECT 1) INSERT INTO circuits (destination) SELECT 'x'",
        "EXPLAIN ANALYZE DELETE FROM jobs",
        "TABLE nothing_there",
        "",
        "SELECT 1; COMMIT; SET default_transaction_read_only = off; COMMIT; DELETE FROM jobs",
        "SELECT set_config('default_transaction_read_only', 'off', false); COMMIT; BEGIN READ WRITE; DELETE FROM jobs; COMMIT",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "BEGIN; DELETE FROM jobs; COMMIT",
        "COMMIT",
        "/* SELECT */ DELETE FROM jobs",
        "-- SELECT 1\nDELETE FROM jobs",
        "(SELECT 1); DELETE FROM jobs",
        "SELECT * FROM jobs FOR UPDATE",
        "WITH gone AS (DELETE FROM jobs RETURNING id) SELECT * FROM gone",
        "SELECT nextval('jobs_id_seq')",
        "SELECT 1 INTO TABLE stolen",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "VACUUM INTO '/tmp/radclipd-stolen.db'",
        "DO $$ BEGIN DELETE FROM jobs; END $$",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_query_only(0)",
    ],
)
def test_a_statement_that_writes_is_refused(catalog_url: str, statement: str) -> None:
    catalog = SqlCatalog(catalog_url)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.2")
    with pytest.raises(PermanentError):
        query.run(catalog_url, statement)
    with catalog.read() as tx:
        assert sum(tx.jobs.count_by_state().values()) == 1
    catalog.dispose()


@pytest.fixture
def interrupt_in() -> Iterator[Callable[[float], None]]:
    """Interrupt this process after some seconds; an interrupt after the end of the test is dropped."""

    def raised(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, raised)
    over = threading.Event()
    started: list[threading.Thread] = []

    def later(seconds: float) -> None:
        def send() -> None:
            if not over.wait(seconds):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        started.append(threading.Thread(target=send))
        started[-1].start()

    yield later
    over.set()
    for one in started:
        one.join()
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_while_sqlite_authorises_a_statement_is_no_refusal(
    catalog_url: str, interrupt_in: Callable[[float], None]
) -> None:
    """SQLite prepares this statement for some tenths of a second and calls the authorizer for each column."""
    once = "SELECT " + ", ".join(f"id AS c{number}" for number in range(100)) + " FROM v_jobs"
    long = " UNION ALL ".join([once] * 400)
    with pytest.raises(KeyboardInterrupt):
        interrupt_in(0.1)
        while True:
            query.run(catalog_url, long)


def test_an_interrupt_stops_the_statement(catalog_url: str, interrupt_in: Callable[[float], None]) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupt_in(0.2)
        query.run(catalog_url, endless)
    assert time.monotonic() - begun < 5
