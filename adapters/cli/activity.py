"""The slow loop in progress, as lines of text: the current or last round of learning, and the re-scoring of the archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.catalog.query import QueryRunner

MINUTE, HOUR = 60.0, 3600.0
OLDEST_UNSCORED_SQL = """
SELECT 1 FROM (
    SELECT study_instance_uid FROM v_studies WHERE state IN ('reported', 'scored') ORDER BY last_received_at LIMIT 200
) AS oldest
WHERE NOT EXISTS (
    SELECT 1 FROM v_predictions p JOIN v_model_versions m ON m.number = p.version AND m.state = 'serving'
    WHERE p.study_instance_uid = oldest.study_instance_uid
)
LIMIT 1"""
"""Re-scoring goes newest study first: until it ends, the oldest studies have no score of the serving version. v_rescoring counts
the whole archive; this query costs less."""


def activity_lines(ask: QueryRunner) -> Iterator[str]:
    """Describe the learning round and the re-scoring in progress, from the views. OutOfResources for an unreachable catalog."""
    columns, rows = ask("SELECT * FROM v_learning ORDER BY job DESC LIMIT 1")
    yield from (describe_learning(dict(zip(columns, row, strict=True))) for row in rows)
    if not ask(OLDEST_UNSCORED_SQL)[1]:
        return
    columns, rows = ask("SELECT * FROM v_rescoring WHERE scored < studies")
    yield from (describe_rescoring(dict(zip(columns, row, strict=True))) for row in rows)


def describe_learning(row: Mapping[str, Any]) -> str:
    """Describe a round of learning, from a row of v_learning."""
    match row["state"]:
        case "running" if row["stage"]:
            left = f", {_format_duration(row['seconds_left'])} left" if row["seconds_left"] is not None else ""
            return f"learning (job {row['job']}): {row['stage']}, {row['done']} of {row['total']}{left}"
        case "running":
            return f"learning (job {row['job']}) begins"
        case "waiting":
            return f"learning (job {row['job']}) waits" + (f": {row['error']}" if row["error"] else "")
        case "quarantined":
            return f"learning (job {row['job']}) is quarantined: {row['error']}"
    outcome = ": ".join(words for words in (row["result"], row["reason"]) if words)
    return f"last round of learning, {row['finished_at']}: {outcome or 'ended'}"


def describe_rescoring(row: Mapping[str, Any]) -> str:
    """Describe the re-scoring, from a row of v_rescoring. The rate is the mean since the version began to serve."""
    said = f"version {row['version']} scores the archive again: {row['scored']} of {row['studies']} studies"
    if not row["scored_since"]:
        return said
    spent = datetime.fromisoformat(row["last_scored_at"]) - datetime.fromisoformat(row["served_at"])
    left = spent.total_seconds() / row["scored_since"] * (row["studies"] - row["scored"])
    return f"{said}, {_format_duration(left)} left"


def _format_duration(seconds: float) -> str:
    if seconds < MINUTE:
        return "less than a minute"
    return f"about {seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"about {seconds / HOUR:.0f} h"
