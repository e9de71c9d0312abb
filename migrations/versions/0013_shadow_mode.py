"""Studies record whether they belong to the silent share; reports record why they are kept and not sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WITHHELD = "withheld IN ('', 'shadow', 'silent share')"
WITHHELD_IS_NOT_SENT = "withheld = '' OR state <> 'sent'"


def upgrade() -> None:
    """Studies that were reported before have no report withheld, and are not drawn in hindsight."""
    op.add_column("studies", sa.Column("silent", sa.Boolean()))
    op.execute(
        "ALTER TABLE reports ADD COLUMN withheld VARCHAR(16) DEFAULT '' NOT NULL"
        f" CONSTRAINT ck_reports_withheld CHECK ({WITHHELD})"
        f" CONSTRAINT ck_reports_withheld_is_not_sent CHECK ({WITHHELD_IS_NOT_SENT})"
    )
    op.create_table(
        "draw_keys",
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("purpose", name=op.f("pk_draw_keys")),
    )


def downgrade() -> None:
    """Refused while a report is kept: an earlier release would take it for one that is about to be sent."""
    if op.get_bind().scalar(sa.text("SELECT COUNT(*) FROM reports WHERE withheld <> ''")):
        raise NotImplementedError("kept reports would count as waiting to be sent: restore the backup from before the upgrade")
    op.drop_table("draw_keys")
    op.execute("ALTER TABLE reports DROP COLUMN withheld")  # with its checks
    op.drop_column("studies", "silent")
