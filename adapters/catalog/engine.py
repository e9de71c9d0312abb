"""Engines: how each database is opened so that its promises hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from pipeline.errors import ConfigurationError


def database_url(url: str) -> URL:
    """Parse the URL and name the driver: pysqlite or psycopg 3. ConfigurationError for other databases."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(
            "catalog.url is no database URL", hint="sqlite:////path/file.db or postgresql://host/name"
        ) from error
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
    name = parsed.get_backend_name()
    if name not in drivers:
        raise ConfigurationError(
            f"catalog.url names {name}; only sqlite and postgresql are served", hint="see deploy/radclipd.toml"
        )
    return parsed.set(drivername=drivers[name])


def described(url: URL) -> str:
    """Return the URL as it may be shown: no password."""
    return url.render_as_string(hide_password=True)


def open_engine(url: URL, *, busy_timeout_seconds: float, read_only: bool = False) -> Engine:
    """Open an engine. A read-only one refuses writes by the connection itself, whatever the statement."""
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url, busy_timeout_seconds, read_only)
    options = f"-c timezone=UTC -c default_transaction_read_only={'on' if read_only else 'off'}"
    return create_engine(
        url,
        hide_parameters=True,  # an error's text must not quote a PatientID
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        connect_args={"options": options, "connect_timeout": max(2, int(busy_timeout_seconds)), "application_name": "radclipd"},
    )


def _open_sqlite(url: URL, busy_timeout_seconds: float, read_only: bool) -> Engine:
    if read_only and url.database:
        url = url.set(database=f"file:{Path(url.database).absolute()}", query={"mode": "ro", "uri": "true"})
    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=QueuePool,
        pool_size=10,
        max_overflow=30,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        else:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")  # Success is a promise: the commit must outlive a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and then writes would be refused at once when another has written between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
