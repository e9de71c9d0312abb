"""Statements on a bare database, without the catalog."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

from adapters.catalog.engine import database_url, open_engine


def on(url: str, act: Callable[[Connection], object]) -> object:
    """Call `act` in a transaction of its own, without the catalog."""
    engine = open_engine(database_url(url), busy_timeout_seconds=5)
    try:
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            return act(connection)
    finally:
        engine.dispose()


def execute(url: str, sql: str) -> None:
    on(url, lambda connection: connection.execute(text(sql)))


def rows(url: str, sql: str) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    found: list[tuple[object, ...]] = []
    on(url, lambda connection: found.extend(tuple(row) for row in connection.execute(text(sql))))
    return found
