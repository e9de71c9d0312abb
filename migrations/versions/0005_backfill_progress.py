"""Progress of backfills: finished days, finished units (`backfill_parcels`), and the studies that a backfill brought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "backfills",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("begun_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfills")),
        sa.UniqueConstraint("source", name=op.f("uq_backfills_source")),
    )
    op.create_table(
        "backfill_days",
        sa.Column("backfill", RowId, nullable=False),
        sa.Column("day", sa.String(length=8), nullable=False),
        sa.Column("done_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["backfill"], ["backfills.id"], name=op.f("fk_backfill_days_backfill")),
        sa.PrimaryKeyConstraint("backfill", "day", name=op.f("pk_backfill_days")),
    )
    op.create_table(
        "backfill_parcels",
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
        sa.CheckConstraint("state IN ('done', 'failed')", name=op.f("ck_backfill_parcels_state")),
        sa.CheckConstraint("(state = 'failed') = (error <> '')", name=op.f("ck_backfill_parcels_failed_says_why")),
        sa.ForeignKeyConstraint(["backfill"], ["backfills.id"], name=op.f("fk_backfill_parcels_backfill")),
        sa.PrimaryKeyConstraint("backfill", "key", name=op.f("pk_backfill_parcels")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "backfilled_studies",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("backfill", RowId, nullable=False),
        sa.Column("brought_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.ForeignKeyConstraint(["backfill"], ["backfills.id"], name=op.f("fk_backfilled_studies_backfill")),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_backfilled_studies")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("backfilled_studies", "backfill_parcels", "backfill_days", "backfills"):
        op.drop_table(table)
