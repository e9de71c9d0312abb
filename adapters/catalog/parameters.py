"""Many values in one statement, so many at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

PARAMETERS = 10_000
"""In one statement: both databases end at some tens of thousands, and one association may carry a whole archive."""

Value = TypeVar("Value", str, int)


def chunks(values: Collection[Value]) -> Iterator[Sequence[Value]]:
    """Yield the values in order, at most PARAMETERS at a time."""
    ordered = sorted(values)
    for start in range(0, len(ordered), PARAMETERS):
        yield ordered[start : start + PARAMETERS]
