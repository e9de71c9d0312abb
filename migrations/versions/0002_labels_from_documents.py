"""Labels have the time of their statement and its document. Job kinds `label` (read a document) and `learn`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KIND_CONDITION = "kind IN ('score', 'report', 'send', 'label', 'learn')"
FINDINGS = (
    "'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation',"
    " 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'"
)
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = (  # SQLite; PostgreSQL keeps the trigger of the first schema
    "CREATE TRIGGER labels_no_update BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END",
    "CREATE TRIGGER labels_no_delete BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END",
    # REPLACE removes rows without a DELETE.
    "CREATE TRIGGER labels_no_replace BEFORE INSERT ON labels"
    " WHEN EXISTS (SELECT 1 FROM labels WHERE id = NEW.id OR revokes = NEW.revokes)"
    " OR (NEW.state IS NOT NULL AND EXISTS (SELECT 1 FROM labels WHERE document <> '' AND document = NEW.document"
    " AND study = NEW.study AND finding = NEW.finding AND reader = NEW.reader AND state IS NOT NULL))"
    " BEGIN SELECT RAISE(ABORT, 'labels are append-only: UNIQUE constraint'); END",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # which cannot alter a constraint or add a column with a computed default
        _rebuild_labels()
        _rebuild_jobs()
    else:
        op.add_column("labels", sa.Column("stated_at", UtcDateTime(), nullable=False, server_default=now()))
        op.add_column("labels", sa.Column("document", sa.String(length=64), nullable=False, server_default=""))
        op.execute("ALTER TABLE labels DISABLE TRIGGER labels_append_only")
        op.execute("UPDATE labels SET stated_at = created_at")
        op.execute("ALTER TABLE labels ENABLE TRIGGER labels_append_only")
        op.drop_constraint(op.f("ck_jobs_kind"), "jobs", type_="check")
        op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", KIND_CONDITION)
    stated = sa.text("document <> '' AND state IS NOT NULL")
    op.create_index(
        "uq_labels_document",
        "labels",
        ["document", "study", "finding", "reader"],
        unique=True,
        sqlite_where=stated,
        postgresql_where=stated,
    )


def downgrade() -> None:
    raise NotImplementedError("labels would lose the time of their statement: restore the backup from before the upgrade")


def _rebuild_labels() -> None:
    op.create_table(
        "labels_0002",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("study", RowId, nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("asked_because", sa.String(length=64), server_default="", nullable=False),
        sa.Column("selection_probability", sa.Float(), nullable=True),
        sa.Column("revokes", RowId, nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("stated_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("document", sa.String(length=64), server_default="", nullable=False),
        sa.CheckConstraint("state IN ('present', 'absent', 'uncertain')", name=op.f("ck_labels_state")),
        sa.CheckConstraint(
            "selection_probability > 0 AND selection_probability <= 1", name=op.f("ck_labels_selection_probability")
        ),
        sa.CheckConstraint(f"finding IN ({FINDINGS})", name=op.f("ck_labels_finding")),
        sa.CheckConstraint("state IS NOT NULL OR revokes IS NOT NULL", name=op.f("ck_labels_says_something")),
        sa.ForeignKeyConstraint(
            ["revokes", "study", "finding"],
            ["labels.id", "labels.study", "labels.finding"],
            name=op.f("fk_labels_revokes_study_finding"),
        ),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_labels_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
        sa.UniqueConstraint("revokes", name=op.f("uq_labels_revokes")),
        sa.UniqueConstraint("id", "study", "finding", name=op.f("uq_labels_id_study_finding")),
    )
    columns = "id, study, finding, state, reader, source, asked_because, selection_probability, revokes, created_at"
    op.execute(f"INSERT INTO labels_0002 ({columns}, stated_at) SELECT {columns}, created_at FROM labels ORDER BY id")
    op.drop_table("labels")  # its triggers are dropped with it
    op.rename_table("labels_0002", "labels")
    op.create_index(op.f("ix_labels_study"), "labels", ["study"], unique=False)
    for statement in APPEND_ONLY:
        op.execute(statement)


def _rebuild_jobs() -> None:
    op.create_table(
        "jobs_0002",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), server_default="waiting", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="100", nullable=False),
        sa.Column("run_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.String(length=128), server_default="", nullable=False),
        sa.Column("lease_token", sa.String(length=32), server_default="", nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_running_is_leased")),
        sa.CheckConstraint(KIND_CONDITION, name=op.f("ck_jobs_kind")),
        sa.CheckConstraint("state IN ('waiting', 'running', 'done', 'quarantined')", name=op.f("ck_jobs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.execute("INSERT INTO jobs_0002 SELECT * FROM jobs ORDER BY id")
    op.drop_table("jobs")
    op.rename_table("jobs_0002", "jobs")
    waiting, running = sa.text("state = 'waiting'"), sa.text("state = 'running'")
    op.create_index("ix_jobs_due", "jobs", ["kind", "priority", "run_at", "id"], unique=False, sqlite_where=waiting)
    op.create_index("ix_jobs_state", "jobs", ["state", "kind", "finished_at"], unique=False)
    op.create_index("uq_jobs_running", "jobs", ["kind", "subject"], unique=True, sqlite_where=running)
    op.create_index("uq_jobs_waiting", "jobs", ["kind", "subject"], unique=True, sqlite_where=waiting)
