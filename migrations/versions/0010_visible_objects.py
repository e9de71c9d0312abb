"""The visible objects of reports, a text and a card, each with its delivery state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "visible_objects",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("report", RowId, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("predecessor", sa.String(length=64), nullable=True),
        sa.Column("file_key", sa.String(length=128), nullable=True),
        sa.Column("file_sha256", sa.String(length=64), nullable=True),
        sa.Column("file_size", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("built_at", UtcDateTime(), nullable=True),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("kind IN ('text', 'card')", name=op.f("ck_visible_objects_kind")),
        sa.CheckConstraint("state IN ('pending', 'built', 'sent', 'refused')", name=op.f("ck_visible_objects_state")),
        sa.CheckConstraint(
            "state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name=op.f("ck_visible_objects_built_has_bytes")
        ),
        sa.CheckConstraint("state <> 'sent' OR sent_at IS NOT NULL", name=op.f("ck_visible_objects_sent_has_a_time")),
        sa.ForeignKeyConstraint(["report"], ["reports.id"], name=op.f("fk_visible_objects_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visible_objects")),
        sa.UniqueConstraint("report", "kind", name=op.f("uq_visible_objects_report_kind")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_visible_objects_sop_instance_uid")),
    )


def downgrade() -> None:
    op.drop_table("visible_objects")
