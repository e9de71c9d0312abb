"""`radclipd query`: one statement on a connection that itself refuses to write."""

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
from adapters.catalog.errors import away, is_passing, reason
from pipeline.errors import Refused

READS = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?:SELECT|WITH|EXPLAIN|VALUES|TABLE)\b", re.IGNORECASE | re.DOTALL)
"""Comments and opening parentheses, then a word that reads. What writes behind such a word is refused by the connection."""
PRAGMAS = {"table_info", "table_xinfo", "table_list"}
"""Of SQLite, as table-valued functions: which columns there are."""
SQLITE_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,
}


Answer = tuple[list[str], list[tuple[Any, ...]]]


Ask = Callable[[str], Answer]


def run(url: str, sql: str, *, limit: int | None = None) -> Answer:
    """Ask one question, as `reader` does; at most `limit` rows."""
    with reader(url, limit=limit) as ask:
        return ask(sql)


@contextmanager
def reader(url: str, *, limit: int | None = None) -> Iterator[Ask]:
    """Give what returns column names and rows; moments as UTC text and JSON as text, alike on both databases. One connection.

    It raises Refused for what is no single reading statement; OutOfResources for a database that is away.
    """
    parsed = database_url(url)
    engine = open_engine(parsed, busy_timeout_seconds=30, read_only=True)

    def ask(sql: str) -> Answer:
        if not READS.match(sql):
            raise Refused(
                "only a reading statement is run here", hint="begin it with SELECT or WITH; the v_* views are in the SQL cookbook"
            )
        try:
            with engine.connect() as connection:
                return _ask(connection, sql, limit)
        except SQLAlchemyError as error:
            if is_passing(error) and not _is_refusal_to_write(error):
                raise away(parsed, error) from error
            raise Refused(f"the database refuses this: {reason(error)}", hint="views and columns: SQL cookbook") from error
        except sqlite3.ProgrammingError as error:
            raise Refused(f"the database refuses this: {error}", hint="one statement at a time") from error

    try:
        yield ask
    finally:
        engine.dispose()


def _ask(connection: Connection, sql: str, limit: int | None) -> Answer:
    connection.begin()
    if connection.dialect.name == "sqlite":
        return _ask_apart(connection, sql, limit)
    return _fetch(connection, sql, limit)


def _ask_apart(connection: Connection, sql: str, limit: int | None) -> Answer:
    """Ask on a thread of its own, and stop the statement where the caller is interrupted.

    SQLite asks `_authorize` in the midst of its own work. On the main thread a signal's handler would run inside that answer, and
    what it raises, a KeyboardInterrupt, would be lost there and pass for "access prohibited".
    """
    driver: Any = connection.connection.driver_connection
    driver.set_authorizer(_authorize)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="query") as thread:
            asked = thread.submit(_fetch, connection, sql, limit)
            try:
                return asked.result()
            except BaseException:
                driver.interrupt()
                raise
    finally:
        driver.set_authorizer(None)  # what begins the next question on this connection is ours


def _fetch(connection: Connection, sql: str, limit: int | None) -> Answer:
    result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
    if not result.returns_rows:
        raise Refused("the statement returns no rows", hint="ask with SELECT")
    rows = result.fetchall() if limit is None else result.fetchmany(limit)
    return list(result.keys()), [tuple(_plain(value) for value in row) for row in rows]


def _authorize(action: int, first: str | None, *_: str | None) -> int:
    """What SQLite asks about each step of a statement, https://sqlite.org/c3ref/set_authorizer.html."""
    allowed = action in SQLITE_READS or (action == sqlite3.SQLITE_PRAGMA and first in PRAGMAS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _is_refusal_to_write(error: SQLAlchemyError) -> bool:
    """SQLite READONLY and PostgreSQL 25006 pass elsewhere; here they are the statement's fault."""
    return "read-only" in reason(error) or "readonly" in reason(error)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds")
    if isinstance(value, Decimal):
        return float(value)
    return json.dumps(value) if isinstance(value, dict | list) else value
