"""Instances have an XXH3 checksum, by which a read detects damage fast. Older instances are still verified by their SHA-256."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Both databases add a column with a constant default without rewriting rows."""
    op.add_column("instances", sa.Column("file_xxh3", sa.String(length=32), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("instances", "file_xxh3")
