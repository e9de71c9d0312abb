"""Rows of the promised views, for pages and programs. Values are bound parameters; names come from the views themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, column, select, table

from adapters.catalog.views import VIEWS


class SqlViewRows:
    """`ports.desk.ViewRows`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def columns(self, view: str) -> list[str]:
        """Return the view's columns in their order. KeyError for an unknown view."""
        _require_view(view)
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
        known = self.columns(view)
        wanted = list(columns) or known
        named = [*wanted, *(where or {}), *(name.lstrip("-") for name in order), *([after[0].lstrip("-")] if after else ())]
        if unknown := sorted(set(named) - set(known)):
            raise KeyError(f"{view} has no column {unknown[0]}")
        source = table(view, *(column(name) for name in known))
        query = select(*(source.c[name] for name in wanted))
        for name, value in (where or {}).items():
            query = query.where(source.c[name] == value if not isinstance(value, list | tuple) else source.c[name].in_(value))
        if after is not None:
            query = query.where(_compare_key(source.c[after[0].lstrip("-")], after))
        ordered = [source.c[name.lstrip("-")].desc() if name.startswith("-") else source.c[name] for name in order]
        return [dict(row) for row in self._connection.execute(query.order_by(*ordered).limit(limit)).mappings()]


def _compare_key(key: ColumnElement[Any], after: tuple[str, Any]) -> ColumnElement[bool]:
    compared: ColumnElement[bool] = key < after[1] if after[0].startswith("-") else key > after[1]
    return compared


def _require_view(view: str) -> None:
    if view not in VIEWS:
        raise KeyError(f"there is no view {view}")
