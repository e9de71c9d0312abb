"""The audit events of a study, an instance or a version are found by an index; the view v_audit shows them."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_audit_events_subject", "audit_events", ["subject"], if_not_exists=True)  # on PostgreSQL it is there already


def downgrade() -> None:
    op.drop_index("ix_audit_events_subject", table_name="audit_events")
