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

from adapters.catalog import query, schema
from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.schema import READERS_ROLE
from pipeline.domain import JobKind
from pipeline.errors import OutOfResources, PermanentError
from tests.builders import sql
from tests.builders.fakes.versions import a_version
from tests.conftest import DATABASES


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


ONLY_POSTGRESQL = pytest.mark.parametrize("catalog_url", DATABASES[1:], indirect=True)
ONLY_SQLITE = pytest.mark.parametrize("catalog_url", DATABASES[:1], indirect=True)
ACTS_ON_THE_SERVER = [
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
    "SELECT pg_cancel_backend(1)",
    "SELECT pg_sleep(3600)",
    "SELECT pg_sleep_for('1 hour'), pg_sleep_until('tomorrow')",
    "SELECT PG_SLEEP (1)",
    'SELECT pg_catalog."pg_sleep"(1)',
    'SELECT U&"pg\\005fsleep"(1)',
    'SELECT u&"\\0070\\0067\\005f\\0073leep"(1)',
    "SELECT pg_catalog /* */ . /* */ pg_sleep -- x\n (1)",
    "SELECT * FROM pg_sleep(1)",
    "SELECT 1 WHERE EXISTS (SELECT pg_sleep(1))",
    "EXPLAIN ANALYZE SELECT pg_sleep(1)",
    "VALUES (pg_sleep(1))",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(7270411), pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock_all()",
    "SELECT set_config('role', 'none', false)",
    "SELECT set_config('statement_timeout', '0', false)",
    "SELECT query_to_xml('SELECT pg_sl' || 'eep(1)', true, true, '')",
    "SELECT * FROM ts_stat('SELECT pg_sl' || 'eep(1)')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_get(1)",
    "SELECT pg_reload_conf(), pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_stat_reset()",
    "SELECT pg_notify('x', 'y')",
    "SELECT pg_create_restore_point('x')",
    "SELECT pg_export_snapshot()",
    "SELECT pg_logical_emit_message(false, 'x', 'y')",
    "SELECT txid_current(), pg_promote()",
    "SELECT setval('jobs_id_seq', 1)",
    "LOCK TABLE jobs",
    "SELECT * FROM v_jobs FOR UPDATE",
    "SELECT * FROM jobs FOR SHARE",
    "SELECT * FROM jobs FOR KEY SHARE",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY jobs TO STDOUT",
    "LISTEN x",
    "CALL x()",
    "SELECT * FROM dblink('host=x', 'SELECT 1') AS t(x int)",
    "DECLARE c CURSOR FOR SELECT 1",
    "PREPARE p AS SELECT 1",
    "SET ROLE postgres",
    "RESET ROLE",
    "SHOW ALL; SELECT 1",
]


@ONLY_POSTGRESQL
@pytest.mark.parametrize("statement", ACTS_ON_THE_SERVER)
def test_a_statement_that_acts_on_the_server_is_refused_at_once(catalog_url: str, statement: str) -> None:
    begun = time.monotonic()
    with pytest.raises(PermanentError) as refused:
        query.run(catalog_url, statement)
    assert refused.value.hint
    assert time.monotonic() - begun < 5


@ONLY_POSTGRESQL
def test_functions_that_only_return_something_are_allowed(catalog_url: str) -> None:
    sql_ = "SELECT random() >= 0, clock_timestamp() > now() - interval '1 day', version() LIKE 'Postgre%', current_user <> ''"
    assert query.run(catalog_url, sql_)[1] == [(True, True, True, True)]


def test_a_statement_that_takes_too_long_is_stopped(catalog_url: str) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    begun = time.monotonic()
    with pytest.raises(PermanentError, match=r"stopped after 0\.3 seconds"):
        query.run(catalog_url, endless, max_seconds=0.3)
    assert time.monotonic() - begun < 5
    assert query.run(catalog_url, "SELECT 1")[1] == [(1,)]


@ONLY_SQLITE
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT LOAD_EXTENSION('x')",
        "SELECT fts3_tokenizer('simple', x'00')",
        "ATTACH 'x' AS y",
        "SELECT length(zeroblob(900000000))",
        "SELECT writefile('x', 'y')",
        "SELECT * FROM pragma_journal_mode",
        "SELECT * FROM pragma_writable_schema(1)",
        "EXPLAIN ATTACH 'x' AS y",
    ],
)
def test_a_statement_that_leaves_the_catalog_or_takes_memory_is_refused_on_sqlite(catalog_url: str, statement: str) -> None:
    with pytest.raises(PermanentError):
        query.run(catalog_url, statement)


@ONLY_POSTGRESQL
def test_a_statement_runs_as_the_role_of_readers_where_it_exists(catalog_url: str) -> None:
    sql.execute(catalog_url, f"DO $$ BEGIN CREATE ROLE {READERS_ROLE} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    schema.upgrade(catalog_url)
    assert query.run(catalog_url, "SELECT current_user")[1] == [(READERS_ROLE,)]
    assert query.run(catalog_url, "SELECT count(*) FROM v_jobs")[1] == [(0,)]
    for statement in ("SELECT * FROM jobs", "SELECT rolpassword FROM pg_authid", "SELECT * FROM pg_stat_file('/etc/passwd')"):
        with pytest.raises(PermanentError, match=r"permission denied|not allowed"):
            query.run(catalog_url, statement)
