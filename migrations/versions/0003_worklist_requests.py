"""Requests of the worklist: the study, the reason, and the probability with which it was chosen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

FINDINGS = (
    "'', 'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax',"
    " 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'"
)
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END",
        "CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'requests are append-only'); END",
        # REPLACE removes rows without a DELETE.
        "CREATE TRIGGER requests_no_replace BEFORE INSERT ON requests"
        " WHEN EXISTS (SELECT 1 FROM requests WHERE id = NEW.id OR study = NEW.study)"
        " BEGIN SELECT RAISE(ABORT, 'requests are append-only: UNIQUE constraint'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION requests_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'requests are append-only'; END $$",
        "CREATE TRIGGER requests_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON requests"
        " FOR EACH STATEMENT EXECUTE FUNCTION requests_refuse()",
    ),
}


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("study", RowId, nullable=False),
        sa.Column("asked_because", sa.String(length=64), nullable=False),
        sa.Column("finding", sa.String(length=32), server_default="", nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("selection_probability", sa.Float(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(f"finding IN ({FINDINGS})", name=op.f("ck_requests_finding")),
        sa.CheckConstraint("asked_because <> ''", name=op.f("ck_requests_says_why")),
        sa.CheckConstraint(
            "selection_probability > 0 AND selection_probability <= 1", name=op.f("ck_requests_selection_probability")
        ),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_requests_study")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_requests_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        sa.UniqueConstraint("study", name=op.f("uq_requests_study")),
    )
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("requests")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION requests_refuse()")
