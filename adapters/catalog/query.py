"""`radclipd query`: one statement on a connection that refuses to write."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from adapters.catalog.engine import database_url, open_engine
from adapters.catalog.errors import catalog_unavailable, driver_message, is_transient
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

QueryResult = tuple[list[str], list[tuple[Any, ...]]]
"""Column names and rows."""
QueryRunner = Callable[[str], QueryResult]


def run(url: str, sql: str, *, limit: int | None = None) -> QueryResult:
    """Run one statement as `open_session` does; return at most `limit` rows."""
    with open_session(url, limit=limit) as ask:
        return ask(sql)


@contextmanager
def open_session(url: str, *, limit: int | None = None) -> Iterator[QueryRunner]:
    """Yield a function that runs one statement and returns column names and rows. All its statements share one connection.

    Times are UTC text and JSON is text, alike on both databases. The function raises PermanentError for anything but a single
    statement that reads, OutOfResources where the database is unreachable.
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
                return _run_statement(connection, sql, limit)
        except SQLAlchemyError as error:
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


def _run_statement(connection: Connection, sql: str, limit: int | None) -> QueryResult:
    connection.begin()
    if connection.dialect.name == "sqlite":
        return _run_on_thread(connection, sql, limit)
    return _fetch_rows(connection, sql, limit)


def _run_on_thread(connection: Connection, sql: str, limit: int | None) -> QueryResult:
    """Run the statement on a thread of its own, and stop it where the caller is interrupted.

    SQLite calls `_authorize_action` while it prepares a statement. On the main thread a signal handler would run inside that
    callback, and the KeyboardInterrupt that it raises would be swallowed there and reported as "access prohibited".
    """
    driver: Any = connection.connection.driver_connection
    driver.set_authorizer(_authorize_action)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="query") as thread:
            asked = thread.submit(_fetch_rows, connection, sql, limit)
            try:
                return asked.result()
            except BaseException:
                driver.interrupt()
                raise
    finally:
        driver.set_authorizer(None)  # the statement that begins the next transaction is ours


def _fetch_rows(connection: Connection, sql: str, limit: int | None) -> QueryResult:
    result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
    if not result.returns_rows:
        raise PermanentError("the statement returns no rows", hint="ask with SELECT")
    rows = result.fetchall() if limit is None else result.fetchmany(limit)
    return list(result.keys()), [tuple(_convert_value(value) for value in row) for row in rows]


def _authorize_action(action: int, first: str | None, *_: str | None) -> int:
    """Allow or deny one action of a statement: SQLite's authorizer callback, https://sqlite.org/c3ref/set_authorizer.html."""
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
    return json.dumps(value) if isinstance(value, dict | list) else value
