"""Engines: each database is opened with the settings that its guarantees need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError
from sqlalchemy.pool import QueuePool

from pipeline.errors import ConfigurationError

DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
URL_EXAMPLES = "sqlite:////path/file.db or postgresql://host/name"
POOL_OPTIONS = {"pool_size": 10, "max_overflow": 30}
MAX_WAL_BYTES = 64 * 2**20
"""SQLite truncates its write-ahead log to this size after a long read transaction has let it grow."""
POOLED = "pooled"
"""Key in the info of a PostgreSQL connection: whether a pooler (pgbouncer in transaction mode) stands between. The process number
that the connection got at its start is then not the server's. Behind a pooler a transaction may use no state of its session."""
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""Of libpq: a connection whose server has vanished is detected in about a minute instead of two hours."""


def database_url(url: str | URL) -> URL:
    """Return the URL, parsed, with the driver named: pysqlite or psycopg 3. ConfigurationError for a URL that cannot be served."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:  # ValueError: the port is not a number
        raise ConfigurationError("catalog.url is no database URL", hint=URL_EXAMPLES) from error
    if backend not in DRIVERS:
        raise ConfigurationError(
            f"catalog.url names {backend}; only sqlite and postgresql are served", hint="see deploy/radclipd.toml"
        )
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError("catalog.url names no file: every process must see the same catalog", hint=URL_EXAMPLES)
    if "@" in (parsed.host or ""):
        raise ConfigurationError("catalog.url holds more than one @", hint="write an @ in a user name or password as %40")
    return parsed.set(drivername=DRIVERS[backend])


def _wrap_foreign_errors(engine: Engine) -> Engine:
    """Make an error of the driver that is no database error, such as OverflowError for a number, an error of the statement."""

    @event.listens_for(engine, "handle_error", retval=True)
    def _wrap_error(context: ExceptionContext) -> StatementError | None:
        error = context.original_exception
        if context.sqlalchemy_exception is not None or not isinstance(error, Exception) or isinstance(error, SQLAlchemyError):
            return None
        return StatementError(type(error).__name__, context.statement, None, error, hide_parameters=True)

    return engine


def open_engine(url: URL, *, busy_timeout_seconds: float, read_only: bool = False, check_foreign_keys: bool = True) -> Engine:
    """Open an engine. The connections of a read-only engine refuse every statement that writes.

    Foreign keys are unchecked only while a migration rebuilds SQLite's tables; PostgreSQL always checks them.
    """
    if url.get_backend_name() == "sqlite":
        return _wrap_foreign_errors(_open_sqlite(url, busy_timeout_seconds, read_only, check_foreign_keys))
    return _wrap_foreign_errors(_open_postgresql(url, busy_timeout_seconds, read_only))


def _open_postgresql(url: URL, busy_timeout_seconds: float, read_only: bool) -> Engine:
    seconds = max(2, int(busy_timeout_seconds))
    settings = {"timezone": "UTC", "lock_timeout": f"{seconds}s", "jit": "off"}  # compiling takes longer than most statements run
    engine = create_engine(
        url,
        **POOL_OPTIONS,
        pool_pre_ping=True,
        hide_parameters=True,  # an error's text must not quote a header
        connect_args={
            "connect_timeout": seconds,
            "application_name": "radclipd",
            **KEEPALIVES,
        },
    )

    @event.listens_for(engine, "connect")
    def _prepare_session(connection: Any, record: Any) -> None:
        connection.autocommit = True
        (server,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        record.info[POOLED] = server != connection.info.backend_pid
        if record.info[POOLED]:
            connection.prepare_threshold = None  # a prepared statement would stay with a connection that is somebody else's next
        else:
            connection.execute(_build_settings_query(settings, local=False))
        connection.autocommit = False
        if read_only:
            connection.read_only = True
            if not record.info[POOLED]:
                connection.prepare_threshold = 0  # a prepared string holds one statement: no second one can end the transaction

    @event.listens_for(engine, "begin")
    def _begin_transaction(connection: Connection) -> None:
        if connection.info[POOLED]:
            connection.exec_driver_sql(_build_settings_query(settings, local=True))

    return engine


def _build_settings_query(settings: Mapping[str, str], *, local: bool) -> str:
    """Return the query that makes settings: of the session, or local to the transaction."""
    calls = (f"pg_catalog.set_config('{name}', '{value}', {str(local).lower()})" for name, value in settings.items())
    return f"SELECT {', '.join(calls)}"


def _open_sqlite(url: URL, busy_timeout_seconds: float, read_only: bool, check_foreign_keys: bool) -> Engine:
    if read_only:
        path = quote(str(Path(str(url.database)).absolute()))
        url = url.set(database=f"file:{path}", query={"mode": "ro", "uri": "true"})
    engine = create_engine(
        url,
        **POOL_OPTIONS,
        poolclass=QueuePool,
        hide_parameters=True,
        connect_args={"timeout": busy_timeout_seconds, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: Any) -> None:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # Success is a promise: the commit must outlive a power cut
            connection.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if check_foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin_transaction(connection: Connection) -> None:
        writes = bool(connection.get_execution_options().get("writes", False))
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        # A transaction that reads first and writes later is refused at once if another has written in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
