"""The database's own clock, the only one that counts: the clocks of workers on other hosts may be wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Float, cast
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TEXT, TypeDecorator, TypeEngine

DAY_SECONDS = 86400.0
CLOCK_TOLERANCE_SECONDS = 1.0
"""A stored time that is further ahead of now than this was written by a clock that was ahead."""
SQLITE_TIME_FORMAT = "%Y-%m-%d %H:%M:%f+00:00"
"""Format for SQLite's strftime: UTC to the millisecond with its offset; it sorts as text."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: timestamptz on PostgreSQL, sortable text on SQLite; an aware datetime in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(TEXT() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Return the value for the driver: an aware datetime; for SQLite text as SQLITE_TIME_FORMAT writes it."""
        if value is None or dialect.name != "sqlite":
            return value
        moment = value.astimezone(UTC)
        return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}+00:00"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class now(FunctionElement[datetime]):
    """The time at which the statement runs, not the begin of its transaction."""

    type = UtcDateTime()
    inherit_cache = True


class _now_plus(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


def seconds_from_now(seconds: float | ColumnElement[Any]) -> ColumnElement[datetime]:
    """Return the time `seconds` from now; before now where negative."""
    return _now_plus(cast(seconds, Float))


@compiles(now, "sqlite")
def _compile_now_sqlite(element: now, compiler: Any, **_: Any) -> str:
    return f"(strftime('{SQLITE_TIME_FORMAT}', 'now'))"


@compiles(now, "postgresql")
def _compile_now_postgresql(element: now, compiler: Any, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(_now_plus, "sqlite")
def _compile_now_plus_sqlite(element: _now_plus, compiler: Any, **options: Any) -> str:
    return f"strftime('{SQLITE_TIME_FORMAT}', 'now', {compiler.process(element.clauses, **options)} || ' seconds')"


@compiles(_now_plus, "postgresql")
def _compile_now_plus_postgresql(element: _now_plus, compiler: Any, **options: Any) -> str:
    # A scalar subquery is evaluated once for the whole statement, so an index can be searched by its value.
    return f"(SELECT clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"
