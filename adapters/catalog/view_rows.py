"""Rows of the promised views, for pages and programs. Values are bound parameters; names come from the views themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, TableClause, column, func, literal, select, table

from adapters.catalog.sql_time import UtcDateTime
from adapters.catalog.views import VIEWS

JSON_COLUMNS = {"states", "points", "card", "thresholds"}
"""Text on SQLite."""
TIME_COLUMNS = {"at", "lease_until"}
"""Times, beside all columns whose name ends with _at: text on SQLite."""


class SqlViewRows:
    """`ports.desk.ViewRows`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def columns(self, view: str) -> list[str]:
        """Return the view's columns in their order. KeyError for an unknown view."""
        if view not in VIEWS:
            raise KeyError(f"there is no view {view}")
        return list(self._connection.exec_driver_sql(f"SELECT * FROM {view} WHERE 1 = 0").keys())

    def select(
        self,
        view: str,
        columns: Sequence[str] = (),
        *,
        where: Mapping[str, Any] | None = None,
        order: Sequence[str] = (),
        after: tuple[str, Any] | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        source = self._build_source(view)
        wanted = [_find_column(source, name) for name in columns] or list(source.c)
        query = select(*wanted).limit(limit)
        for name, value in (where or {}).items():
            query = query.where(_compare_value(_find_column(source, name), value))
        if after is not None:
            query = query.where(_compare_key(source, after))
        for name in order:
            key = _find_column(source, name.lstrip("-"))
            query = query.order_by(key.desc() if name.startswith("-") else key)
        return [{name: _convert_value(name, value) for name, value in row.items()} for row in self._run_query(query)]

    def count(self, view: str, by: str, *, after: tuple[str, Any] | None = None) -> dict[str, int]:
        source = self._build_source(view)
        key = _find_column(source, by)
        query = select(key.label("value"), func.count().label("count")).group_by(key)
        if after is not None:
            query = query.where(_compare_key(source, after))
        return {row["value"]: row["count"] for row in self._run_query(query)}

    def _build_source(self, view: str) -> TableClause:
        return table(view, *(column(name) for name in self.columns(view)))

    def _run_query(self, query: Any) -> Sequence[Mapping[str, Any]]:
        return [dict(row) for row in self._connection.execute(query).mappings()]


def _find_column(source: TableClause, name: str) -> ColumnElement[Any]:
    if name not in source.c:
        raise KeyError(f"{source.name} has no column {name}")
    found: ColumnElement[Any] = source.c[name]
    return found


def _compare_value(key: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
    if isinstance(value, list | tuple):
        return key.in_([_bind_value(each) for each in value])
    equal: ColumnElement[bool] = key == _bind_value(value)
    return equal


def _compare_key(source: TableClause, after: tuple[str, Any]) -> ColumnElement[bool]:
    key, value = _find_column(source, after[0].lstrip("-")), _bind_value(after[1])
    compared: ColumnElement[bool] = key < value if after[0].startswith("-") else key > value
    return compared


def _bind_value(value: Any) -> Any:
    return literal(value, UtcDateTime()) if isinstance(value, datetime) else value


def _convert_value(name: str, value: Any) -> Any:
    """Return a value of the same type on both databases."""
    if not isinstance(value, str):
        return value
    if name in JSON_COLUMNS:
        return json.loads(value)
    return datetime.fromisoformat(value) if name.endswith("_at") or name in TIME_COLUMNS else value
