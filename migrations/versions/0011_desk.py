"""The desk: users, drafts and readings; each label has its exposure, whether the reader may have seen the model's result."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXPOSURES = "exposure IN ('none', 'possible', 'seen')"
REFUSE_UPDATES = "CREATE TRIGGER labels_no_update BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END"
SET_EXPOSURE = (
    "UPDATE labels SET exposure = 'possible' WHERE EXISTS"
    " (SELECT 1 FROM reports r WHERE r.study = labels.study AND r.sent_at IS NOT NULL AND r.sent_at <= labels.stated_at)"
)


def upgrade() -> None:
    _add_exposure()
    op.create_table(
        "users",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("session_key", sa.String(length=64), nullable=False),
        sa.Column("disabled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("role IN ('viewer', 'reader', 'operator', 'administrator')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("user_name", sa.String(length=64), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["user_name"], ["users.name"], name=op.f("fk_api_tokens_user_name")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_tokens_token_sha256")),
    )
    op.create_index(op.f("ix_api_tokens_user_name"), "api_tokens", ["user_name"])
    op.create_table(
        "drafts",
        sa.Column("study", RowId, nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_drafts_study")),
        sa.PrimaryKeyConstraint("study", "reader", name=op.f("pk_drafts")),
    )
    _create_readings()
    op.create_table(
        "reveals",
        sa.Column("study", RowId, nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("revealed_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_reveals_study")),
        sa.PrimaryKeyConstraint("study", "reader", name=op.f("pk_reveals")),
    )


def downgrade() -> None:
    """Refused once the desk was in use. The exposure of other labels follows from the reports, as in the upgrade."""
    connection = op.get_bind()
    if any(connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) for table in ("users", "readings", "reveals")):
        raise NotImplementedError("users and readings of the desk would be lost: restore the backup from before the upgrade")
    for table in ("reveals", "readings", "drafts", "api_tokens", "users"):
        op.drop_table(table)
    op.execute("ALTER TABLE labels DROP COLUMN exposure")  # with its check


def _add_exposure() -> None:
    """A label that was stated after a report had been delivered is possibly exposed."""
    column = f"exposure VARCHAR(16) DEFAULT 'none' NOT NULL CONSTRAINT ck_labels_exposure CHECK ({EXPOSURES})"
    op.execute(f"ALTER TABLE labels ADD COLUMN {column}")
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER labels_no_update")
        op.execute(SET_EXPOSURE)
        op.execute(REFUSE_UPDATES)
    else:
        op.execute("ALTER TABLE labels DISABLE TRIGGER labels_append_only")
        op.execute(SET_EXPOSURE)
        op.execute("ALTER TABLE labels ENABLE TRIGGER labels_append_only")


def _create_readings() -> None:
    op.create_table(
        "readings",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("study", RowId, nullable=False),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("skip_reason", sa.String(length=64), server_default="", nullable=False),
        sa.Column("states", sa.JSON(), nullable=False),
        sa.Column("points", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), server_default="", nullable=False),
        sa.Column("exposure", sa.String(length=16), nullable=False),
        sa.Column("read_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(EXPOSURES, name=op.f("ck_readings_exposure")),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_readings_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_readings")),
        sa.UniqueConstraint("reader", "idempotency_key", name=op.f("uq_readings_reader_idempotency_key")),
    )
    op.create_index("ix_readings_study", "readings", ["study", "reader"])
