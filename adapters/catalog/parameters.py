"""What both databases accept in a statement: sanitised text, IN lists of limited length, INSERT ... ON CONFLICT."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

MAX_TEXT_LENGTH = 4000
MAX_PARAMETERS = 10_000
"""In one statement: both databases refuse more than some tens of thousands, and one association may carry a whole archive."""

Value = TypeVar("Value", str, int)


def sanitise_text(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return the text without NUL and lone surrogates, which PostgreSQL refuses, cut to the length of its column."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:limit]


def chunks(values: Collection[Value]) -> Iterator[Sequence[Value]]:
    """Yield the values in order, at most MAX_PARAMETERS at a time."""
    ordered = sorted(values)
    for start in range(0, len(ordered), MAX_PARAMETERS):
        yield ordered[start : start + MAX_PARAMETERS]


def build_insert(table: Table, dialect: str) -> Any:
    """Return the INSERT of this dialect (`sqlite` or `postgresql`), which has ON CONFLICT."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)
