"""Deliveries: each object at each destination, with what is proven of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("report", RowId, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Text(), server_default="", nullable=False),
        sa.Column("sendings", sa.Integer(), server_default="0", nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.Column("committed_at", UtcDateTime(), nullable=True),
        sa.Column("verified_at", UtcDateTime(), nullable=True),
        sa.Column("checked_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'committed', 'verified', 'refused')", name=op.f("ck_deliveries_state")),
        sa.CheckConstraint(
            "state NOT IN ('sent', 'committed', 'verified') OR sent_at IS NOT NULL", name=op.f("ck_deliveries_sent_has_a_time")
        ),
        sa.CheckConstraint("state <> 'committed' OR committed_at IS NOT NULL", name=op.f("ck_deliveries_committed_has_a_time")),
        sa.CheckConstraint("state <> 'verified' OR verified_at IS NOT NULL", name=op.f("ck_deliveries_verified_has_a_time")),
        sa.ForeignKeyConstraint(["report"], ["reports.id"], name=op.f("fk_deliveries_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("sop_instance_uid", "destination", name=op.f("uq_deliveries_sop_instance_uid_destination")),
    )
    op.create_index("ix_deliveries_report", "deliveries", ["report"])
    op.create_index(
        "ix_deliveries_unproven",
        "deliveries",
        ["sent_at"],
        sqlite_where=sa.text("state = 'sent'"),
        postgresql_where=sa.text("state = 'sent'"),
    )
    op.create_index(
        "ix_deliveries_transaction",
        "deliveries",
        ["transaction_uid"],
        sqlite_where=sa.text("transaction_uid <> ''"),
        postgresql_where=sa.text("transaction_uid <> ''"),
    )


def downgrade() -> None:
    op.drop_table("deliveries")
