"""`radclipd query`: one statement on a connection that refuses to write."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.catalog.engine import POOLED, database_url, open_engine
from adapters.catalog.errors import catalog_unavailable, driver_message, error_code, is_transient
from adapters.catalog.schema import READERS_ROLE
from pipeline.errors import PermanentError

READING_STATEMENT = re.compile(
    r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?:SELECT|WITH|EXPLAIN|VALUES|TABLE)\b", re.IGNORECASE | re.DOTALL
)
"""Comments and opening parentheses, then a keyword that reads. The connection refuses a write behind such a keyword."""
ALLOWED_PRAGMAS = {"table_info", "table_xinfo", "table_list"}
"""Pragmas of SQLite, called as table-valued functions, that list tables and columns."""
ALLOWED_ACTIONS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,
}
DENIED_FUNCTIONS = {"load_extension", "fts3_tokenizer"}
"""Functions of SQLite that run foreign code."""
MAX_VALUE_BYTES = 100 * 2**20
"""Largest text or blob that a statement on SQLite may make."""
INSTRUCTIONS_PER_CHECK = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock: about a millisecond."""
MAX_SECONDS = 60.0
"""Time after which a statement is stopped, unless the caller says another."""

WORD = re.compile(r"[^\W\d][\w$]*")
ESCAPED_IDENTIFIER = 'u&"'
"""Begin of an identifier with escapes, which hide a word."""
HARMLESS_FUNCTIONS = (
    "clock_timestamp", "currval", "gen_random_uuid", "lastval", "pg_current_xact_id", "random", "random_normal", "setseed",
    "statement_timestamp", "timeofday", "txid_current", "uuidv4", "uuidv7",
)  # fmt: skip
"""Functions of PostgreSQL that are marked volatile, for what they return and not for what they do."""
SQL_RUNNERS = ("connectby", "crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "xpath_table")
"""Functions of PostgreSQL's extensions that run a string, and are not marked volatile."""
SERVER_FUNCTIONS_SQL = """
SELECT min(proname) FROM pg_catalog.pg_proc
WHERE lower(proname) = ANY(:words) AND NOT lower(proname) = ANY(:harmless)
AND (provolatile = 'v' OR lower(proname) = ANY(:runners))
"""
IS_READER_SQL = """
SELECT 1 FROM pg_catalog.pg_roles
WHERE rolname = :role AND pg_has_role(oid, 'MEMBER') AND has_table_privilege(oid, to_regclass('v_studies'), 'SELECT')
"""
STATEMENT_STOPPED = "57014"
"""SQLSTATE query_canceled."""

QueryResult = tuple[list[str], list[tuple[Any, ...]]]
"""Column names and rows."""
QueryRunner = Callable[[str], QueryResult]


def run(url: str, sql: str, *, limit: int | None = None, max_seconds: float = MAX_SECONDS) -> QueryResult:
    """Run one statement as `open_session` does; return at most `limit` rows."""
    with open_session(url, limit=limit, max_seconds=max_seconds) as ask:
        return ask(sql)


@contextmanager
def open_session(url: str, *, limit: int | None = None, max_seconds: float = MAX_SECONDS) -> Iterator[QueryRunner]:
    """Yield a function that runs one statement and returns column names and rows. All its statements share one connection.

    Times are UTC text and JSON is text, alike on both databases. The function raises PermanentError for anything but a single
    statement that reads, and for one that takes longer than `max_seconds`; OutOfResources where the database is unreachable.

    On PostgreSQL the statement runs in a read-only transaction, calls no function that acts on the server (pg_terminate_backend,
    pg_sleep, advisory locks, set_config), and runs as the role of readers where our own role is a member of it.
    """
    parsed = database_url(url)
    engine = open_engine(parsed, busy_timeout_seconds=30, read_only=True)

    def ask(sql: str) -> QueryResult:
        if not READING_STATEMENT.match(sql):
            raise PermanentError(
                "only a reading statement is run here", hint="begin it with SELECT or WITH; the v_* views are in the SQL cookbook"
            )
        try:
            with engine.connect() as connection:
                return _run_statement(connection, sql, limit, max_seconds)
        except SQLAlchemyError as error:
            if error_code(error) in (STATEMENT_STOPPED, sqlite3.SQLITE_INTERRUPT):
                raise PermanentError(
                    f"the statement was stopped after {max_seconds:g} seconds", hint="ask for less, or give --max-seconds"
                ) from error
            if is_transient(error) and not _is_refusal_to_write(error):
                raise catalog_unavailable(parsed, error) from error
            raise PermanentError(
                f"the database refuses this: {driver_message(error)}", hint="views and columns: SQL cookbook"
            ) from error
        except sqlite3.ProgrammingError as error:
            raise PermanentError(f"the database refuses this: {error}", hint="one statement at a time") from error

    try:
        yield ask
    finally:
        engine.dispose()


def _run_statement(connection: Connection, sql: str, limit: int | None, max_seconds: float) -> QueryResult:
    connection.begin()
    if connection.dialect.name == "sqlite":
        return _run_on_thread(connection, sql, limit, max_seconds)
    _refuse_server_functions(connection, sql)
    connection.execute(select(func.set_config("statement_timeout", f"{max(1, int(max_seconds * 1000))}ms", True)))
    if connection.scalar(text(IS_READER_SQL), {"role": READERS_ROLE}):
        connection.execute(text(f"SET LOCAL ROLE {READERS_ROLE}"))
    return (_fetch_pooled_rows if connection.info[POOLED] else _fetch_rows)(connection, sql, limit)


def _refuse_server_functions(connection: Connection, sql: str) -> None:
    """Raise PermanentError where a word of the statement, also within quotes, names a function that acts on the server.

    PostgreSQL marks such a function volatile, https://www.postgresql.org/docs/current/xfunc-volatility.html.
    """
    words = sorted({word.lower() for word in WORD.findall(sql)})
    values = {"words": words, "harmless": list(HARMLESS_FUNCTIONS), "runners": list(SQL_RUNNERS)}
    found = connection.scalar(text(SERVER_FUNCTIONS_SQL), values)
    if found is not None or ESCAPED_IDENTIFIER in sql.lower():
        named = f"the function {found}" if found is not None else "an identifier with escapes"
        raise PermanentError(
            f"{named} is not allowed here: the statement must only read", hint="the v_* views are in the SQL cookbook"
        )


def _fetch_pooled_rows(connection: Connection, sql: str, limit: int | None) -> QueryResult:
    """Fetch in the binary format: the server then takes the string as one statement, without a prepared one behind the pooler."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        try:
            cursor.execute(sql)
            if cursor.description is None:
                raise PermanentError("the statement returns no rows", hint="ask with SELECT")
            rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit)
        except connection.dialect.loaded_dbapi.Error as error:
            raise DBAPIError(sql, None, error) from error
        return [column.name for column in cursor.description], [tuple(_convert_value(value) for value in row) for row in rows]


def _run_on_thread(connection: Connection, sql: str, limit: int | None, max_seconds: float) -> QueryResult:
    """Run the statement on a thread of its own, and stop it after `max_seconds` and where the caller is interrupted.

    SQLite calls `_authorize_action` while it prepares a statement. On the main thread a signal handler would run inside that
    callback, and the KeyboardInterrupt that it raises would be swallowed there and reported as "access prohibited".
    """
    driver: Any = connection.connection.driver_connection
    driver.set_authorizer(_authorize_action)
    driver.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
    ends_at = time.monotonic() + max_seconds
    driver.set_progress_handler(lambda: time.monotonic() > ends_at, INSTRUCTIONS_PER_CHECK)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="query") as thread:
            asked = thread.submit(_fetch_rows, connection, sql, limit)
            try:
                return asked.result()
            except BaseException:
                driver.interrupt()
                raise
    finally:
        driver.set_progress_handler(None, 0)
        driver.set_authorizer(None)  # the statement that begins the next transaction is ours


def _fetch_rows(connection: Connection, sql: str, limit: int | None) -> QueryResult:
    result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
    if not result.returns_rows:
        raise PermanentError("the statement returns no rows", hint="ask with SELECT")
    rows = result.fetchall() if limit is None else result.fetchmany(limit)
    return list(result.keys()), [tuple(_convert_value(value) for value in row) for row in rows]


def _authorize_action(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Allow or deny one action of a statement: SQLite's authorizer callback, https://sqlite.org/c3ref/set_authorizer.html."""
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in DENIED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    allowed = action in ALLOWED_ACTIONS or (action == sqlite3.SQLITE_PRAGMA and first in ALLOWED_PRAGMAS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _is_refusal_to_write(error: SQLAlchemyError) -> bool:
    """Return whether the statement tried to write. SQLite READONLY and PostgreSQL 25006 are transient errors elsewhere."""
    return "read-only" in driver_message(error) or "readonly" in driver_message(error)


def _convert_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return json.dumps(value) if isinstance(value, dict | list) else value
