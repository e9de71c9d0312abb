"""Columns and tables get the field's own names, such as selection_reason, requested_at, notice and backfill_units.

A column is renamed without a pass over its rows; constraints and triggers follow. `adapters.catalog.schema` drops the views before
a migration and creates them after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COLUMNS = (
    ("labels", "asked_because", "selection_reason"),
    ("requests", "asked_because", "selection_reason"),
    ("requests", "detail", "reason"),
    ("requests", "asked_at", "requested_at"),
    ("model_versions", "band", "undetermined_margin"),
    ("model_versions", "marking", "notice"),
)
"""Table, name before, name after."""
OLD_TABLE, NEW_TABLE = "backfill_parcels", "backfill_units"
CONSTRAINTS = ("pk_{}", "fk_{}_backfill", "ck_{}_state", "ck_{}_failed_says_why")
"""Of that table."""
OLD_CARD_KEY, NEW_CARD_KEY = "marking", "notice"
ERROR_KINDS = {
    "Refused": "PermanentError",
    "NotUnderstood": "DataSetUnreadable",
    "DoesNotMatch": "DataSetMismatch",
    "BadLabels": "InvalidLabels",
    "TryAgain": "TransientError",
    "Interrupted": "StopRequested",
    "CannotStart": "FatalError",
}
"""Error kind before -> error kind after, in the payload of a quarantined job."""
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table, before, after in COLUMNS:
        _rename_column(table, before, after)
    _rename_table(OLD_TABLE, NEW_TABLE)
    _rename_card_key(OLD_CARD_KEY, NEW_CARD_KEY)
    _rename_error_kinds(ERROR_KINDS)


def downgrade() -> None:
    _rename_error_kinds({after: before for before, after in ERROR_KINDS.items()})
    _rename_card_key(NEW_CARD_KEY, OLD_CARD_KEY)
    _rename_table(NEW_TABLE, OLD_TABLE)
    for table, before, after in reversed(COLUMNS):
        _rename_column(table, after, before)


def _rename_column(table: str, before: str, after: str) -> None:
    """PostgreSQL, and SQLite from 3.25 on (https://sqlite.org/lang_altertable.html), change names inside constraints, too."""
    op.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")


def _rename_table(before: str, after: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.rename_table(before, after)
        for name in CONSTRAINTS:
            op.execute(f"ALTER TABLE {after} RENAME CONSTRAINT {name.format(before)} TO {name.format(after)}")
    else:  # SQLite, which cannot rename a constraint
        _create_units(after)
        op.execute(f"INSERT INTO {after} SELECT * FROM {before}")
        op.drop_table(before)


def _create_units(name: str) -> None:
    op.create_table(
        name,
        sa.Column("backfill", RowId, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("mark", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("finished_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("state IN ('done', 'failed')", name=op.f(f"ck_{name}_state")),
        sa.CheckConstraint("(state = 'failed') = (error <> '')", name=op.f(f"ck_{name}_failed_says_why")),
        sa.ForeignKeyConstraint(["backfill"], ["backfills.id"], name=op.f(f"fk_{name}_backfill")),
        sa.PrimaryKeyConstraint("backfill", "key", name=op.f(f"pk_{name}")),
        sqlite_with_rowid=False,
    )


def _rename_card_key(before: str, after: str) -> None:
    """Rename a key of each version's card in place: order and numbers stay as they were written."""
    versions = sa.table("model_versions", sa.column("number", sa.Integer()), sa.column("card", sa.JSON()))
    connection = op.get_bind()
    for number, card in connection.execute(sa.select(versions.c.number, versions.c.card)).all():
        renamed = _rename_key(card, before, after)
        if renamed != card:
            connection.execute(sa.update(versions).where(versions.c.number == number).values(card=renamed))


def _rename_error_kinds(renamed: Mapping[str, str]) -> None:
    """Rename the kinds of error of quarantined jobs, by which the metrics count them."""
    jobs = sa.table("jobs", sa.column("id", RowId), sa.column("state", sa.String()), sa.column("payload", sa.JSON()))
    connection = op.get_bind()
    quarantined = sa.select(jobs.c.id, jobs.c.payload).where(jobs.c.state == "quarantined")
    for number, payload in connection.execute(quarantined).all():
        if (kind := payload.get("fault")) in renamed:
            changed = {**payload, "fault": renamed[kind]}
            connection.execute(sa.update(jobs).where(jobs.c.id == number).values(payload=changed))


def _rename_key(value: Any, before: str, after: str) -> Any:
    """Return the JSON value with the key renamed at every depth of objects: a card holds the card of the base's source."""
    if isinstance(value, dict):
        return {after if key == before else key: _rename_key(one, before, after) for key, one in value.items()}
    return value
