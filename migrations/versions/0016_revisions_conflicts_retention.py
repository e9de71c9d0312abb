"""Instances have a state and revisions; conflicts of instances; studies whose files retention has deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATES = "state IN ('stored', 'deleting', 'deleted')"


def upgrade() -> None:
    op.add_column("studies", sa.Column("files_deleted_at", UtcDateTime()))
    state = f"VARCHAR(16) DEFAULT 'stored' NOT NULL CONSTRAINT ck_instances_state CHECK ({STATES})"
    op.execute(f"ALTER TABLE instances ADD COLUMN state {state}")
    op.add_column("instances", sa.Column("revision", sa.Integer(), server_default="0", nullable=False))
    op.add_column("instances", sa.Column("pixels_sha256", sa.String(length=64), server_default="", nullable=False))
    _create_partial_index("ix_instances_deleting", "instances", ["id", "state"], "state = 'deleting'")
    _create_revisions()
    _create_conflicts()


def downgrade() -> None:
    deleted = op.get_bind().scalar(sa.text("SELECT COUNT(*) FROM instances WHERE state <> 'stored'"))
    if deleted:
        raise NotImplementedError(f"{deleted} deleted files would count as lost: restore the backup from before the upgrade")
    op.drop_table("instance_conflicts")
    op.drop_table("instance_revisions")
    op.drop_index("ix_instances_deleting", "instances")
    for column in ("pixels_sha256", "revision", "state"):
        op.drop_column("instances", column)
    op.drop_column("studies", "files_deleted_at")


def _create_revisions() -> None:
    op.create_table(
        "instance_revisions",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("instance", RowId, nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("difference", sa.Text(), nullable=False),
        *_build_file_columns(),
        sa.Column("state", sa.String(length=16), server_default="stored", nullable=False),
        sa.Column("replaced_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(STATES, name=op.f("ck_instance_revisions_state")),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_instance_revisions_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance_revisions")),
    )
    op.create_index(op.f("ix_instance_revisions_instance"), "instance_revisions", ["instance"])
    op.create_index(op.f("ix_instance_revisions_file_sha256"), "instance_revisions", ["file_sha256"])
    _create_partial_index("ix_instance_revisions_undeleted", "instance_revisions", ["replaced_at"], "state <> 'deleted'")


def _create_conflicts() -> None:
    op.create_table(
        "instance_conflicts",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("instance", RowId, nullable=False),
        sa.Column("header", sa.JSON(), nullable=False),
        *_build_file_columns(),
        sa.Column("sender_ae_title", sa.String(length=64), nullable=False),
        sa.Column("sender_address", sa.String(length=64), nullable=False),
        sa.Column("called_ae_title", sa.String(length=64), nullable=False),
        sa.Column("received_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("resolution", sa.String(length=16), server_default="", nullable=False),
        sa.Column("resolved_at", UtcDateTime()),
        sa.CheckConstraint("resolution IN ('', 'stored', 'received')", name=op.f("ck_instance_conflicts_resolution")),
        sa.CheckConstraint("(resolution = '') = (resolved_at IS NULL)", name=op.f("ck_instance_conflicts_resolved_has_a_time")),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_instance_conflicts_instance")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance_conflicts")),
        sa.UniqueConstraint("instance", "file_sha256", name=op.f("uq_instance_conflicts_instance_file_sha256")),
    )
    op.create_index(op.f("ix_instance_conflicts_file_sha256"), "instance_conflicts", ["file_sha256"])
    _create_partial_index("ix_instance_conflicts_open", "instance_conflicts", ["id"], "resolution = ''")


def _build_file_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("file_key", sa.String(length=128), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("file_size", sa.BigInteger(), nullable=False),
        sa.Column("file_xxh3", sa.String(length=32), server_default="", nullable=False),
    ]


def _create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, if_not_exists=True, sqlite_where=where, postgresql_where=where)
