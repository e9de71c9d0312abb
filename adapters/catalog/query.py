"""`radclipd query`: one statement on a connection that itself refuses to write."""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError

from adapters.catalog.engine import database_url, described, open_engine
from pipeline.errors import OutOfResources, Refused

READ_WORDS = ("SELECT", "WITH", "EXPLAIN", "VALUES", "TABLE")


def run(url: str, sql: str, *, limit: int | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return column names and rows. Refused for what is no single reading statement; OutOfResources for a database that is away."""
    statement = sql.strip().rstrip(";")
    if not statement.upper().startswith(READ_WORDS):
        raise Refused(
            "only a reading statement is run here", hint="begin it with SELECT or WITH; the v_* views are in the SQL cookbook"
        )
    parsed = database_url(url)
    engine = open_engine(parsed, busy_timeout_seconds=30, read_only=True)
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(no_parameters=True)
            result = connection.exec_driver_sql(statement)
            if not result.returns_rows:
                raise Refused("the statement returns no rows", hint="ask with SELECT")
            return list(result.keys()), [tuple(row) for row in (result.fetchmany(limit) if limit else result)]
    except DBAPIError as error:
        words = str(error.orig).strip().splitlines()[0]
        if type(error.orig).__name__ == "OperationalError" and error.connection_invalidated:
            raise OutOfResources(f"catalog {described(parsed)}: {words}", hint="is the database up?") from error
        raise Refused(f"the database refuses this: {words}", hint="views and columns: deploy/docs/sql-cookbook.md") from error
    finally:
        engine.dispose()
