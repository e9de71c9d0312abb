"""Readings of a film that came to its reader a second time are told apart; what a reader said can leave as a document."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.execute("ALTER TABLE readings ADD COLUMN is_repeat BOOLEAN DEFAULT false NOT NULL")
    op.create_table(
        "reader_documents",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("reading", RowId, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("file_key", sa.String(length=128)),
        sa.Column("file_sha256", sa.String(length=64)),
        sa.Column("file_size", sa.BigInteger()),
        sa.Column("status", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("built_at", UtcDateTime()),
        sa.Column("sent_at", UtcDateTime()),
        sa.CheckConstraint("state IN ('pending', 'built', 'sent', 'refused')", name=op.f("ck_reader_documents_state")),
        sa.CheckConstraint(
            "state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name=op.f("ck_reader_documents_built_has_bytes")
        ),
        sa.ForeignKeyConstraint(["reading"], ["readings.id"], name=op.f("fk_reader_documents_reading")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reader_documents")),
        sa.UniqueConstraint("reading", name=op.f("uq_reader_documents_reading")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_reader_documents_sop_instance_uid")),
    )


def downgrade() -> None:
    """Refused where a film was read twice or a document was made: neither could be told from others afterwards."""
    connection = op.get_bind()
    used = "SELECT COUNT(*) FROM readings WHERE is_repeat", "SELECT COUNT(*) FROM reader_documents"
    if any(connection.scalar(sa.text(query)) for query in used):
        raise NotImplementedError("repeated readings and documents would be lost: restore the backup from before the upgrade")
    op.drop_table("reader_documents")
    op.execute("ALTER TABLE readings DROP COLUMN is_repeat")
