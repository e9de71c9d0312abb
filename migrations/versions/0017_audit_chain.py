"""The audit table is append-only and a hash chain; patients have keys of pseudonyms, and rows of erased patients may be deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATEMENTS = ("labels", "requests")
REFUSAL = "audit_events are append-only"

KEPT = " AND ".join(f"NEW.{column} = OLD.{column}" for column in ("id", "at", "action", "outcome", "source"))
LINKED = (
    "OLD.position IS NULL AND NEW.position IS NOT NULL AND NEW.subject = OLD.subject AND NEW.detail = OLD.detail"
    " AND (OLD.patient = '' OR NEW.patient = OLD.patient)"
)
ERASED = (
    "OLD.position IS NOT NULL AND NEW.position = OLD.position AND NEW.chain_sha256 = OLD.chain_sha256"
    " AND NEW.content_sha256 = OLD.content_sha256 AND NEW.patient = OLD.patient"
    " AND NEW.subject = '' AND NEW.detail = '' AND NEW.salt = ''"
)
ALLOWED_UPDATE = f"{KEPT} AND (({LINKED}) OR ({ERASED}))"
"""An event gets its link once, and loses subject and detail when its patient is forgotten. The chain holds their digest."""

AUDIT_TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events WHEN NOT ({ALLOWED_UPDATE})"
        f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END",
        f"CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END",
        # REPLACE removes rows without a DELETE.
        "CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events"
        " WHEN EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id OR position = NEW.position)"
        f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}: UNIQUE constraint'); END",
    ),
    "postgresql": (
        f"CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$",
        f"CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events FOR EACH ROW WHEN (NOT ({ALLOWED_UPDATE}))"
        " EXECUTE FUNCTION audit_events_refuse()",
        "CREATE TRIGGER audit_events_no_delete BEFORE DELETE OR TRUNCATE ON audit_events"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()",
    ),
}


def _build_delete_triggers(table: str, dialect: str) -> tuple[str, ...]:
    """Return the statements that let rows of a study be deleted only while its patient is being erased."""
    erased = "EXISTS (SELECT 1 FROM erasures e JOIN studies s ON s.patient = e.patient WHERE s.id = OLD.study)"
    if dialect == "sqlite":
        return (
            f"DROP TRIGGER {table}_no_delete",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {erased}"
            f" BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END",
        )
    return (
        f"DROP TRIGGER {table}_append_only ON {table}",
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR TRUNCATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
        f"CREATE FUNCTION {table}_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN IF {erased} THEN RETURN OLD; END IF; RAISE EXCEPTION '{table} are append-only'; END $$",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuse_delete()",
    )


def _build_former_triggers(table: str, dialect: str) -> tuple[str, ...]:
    if dialect == "sqlite":
        return (
            f"DROP TRIGGER {table}_no_delete",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END",
        )
    return (
        f"DROP TRIGGER {table}_no_delete ON {table}",
        f"DROP FUNCTION {table}_refuse_delete()",
        f"DROP TRIGGER {table}_append_only ON {table}",
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
    )


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    _create_tables()
    op.add_column("audit_events", sa.Column("patient", sa.String(length=32), server_default="", nullable=False))
    op.add_column("audit_events", sa.Column("salt", sa.String(length=32), server_default="", nullable=False))
    op.add_column("audit_events", sa.Column("content_sha256", sa.String(length=64), server_default="", nullable=False))
    op.add_column("audit_events", sa.Column("position", sa.BigInteger(), nullable=True))
    op.add_column("audit_events", sa.Column("chain_sha256", sa.String(length=64), server_default="", nullable=False))
    op.create_index("uq_audit_events_position", "audit_events", ["position"], unique=True)
    op.create_index("ix_audit_events_patient", "audit_events", ["patient"])
    unlinked = sa.text("position IS NULL")
    op.create_index(
        "ix_audit_events_unlinked", "audit_events", ["id", "position"], sqlite_where=unlinked, postgresql_where=unlinked
    )
    for statement in AUDIT_TRIGGERS[dialect]:
        op.execute(statement)
    for table in STATEMENTS:
        for statement in _build_delete_triggers(table, dialect):
            op.execute(statement)


def _create_tables() -> None:
    op.create_table(
        "pseudonym_keys",
        sa.Column("patient", RowId, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(key) = 32", name=op.f("ck_pseudonym_keys_key")),
        sa.ForeignKeyConstraint(["patient"], ["patients.id"], name=op.f("fk_pseudonym_keys_patient")),
        sa.PrimaryKeyConstraint("patient", name=op.f("pk_pseudonym_keys")),
    )
    op.create_table(
        "erasures",
        sa.Column("patient", RowId, nullable=False),
        sa.Column("begun_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["patient"], ["patients.id"], name=op.f("fk_erasures_patient")),
        sa.PrimaryKeyConstraint("patient", name=op.f("pk_erasures")),
    )
    op.create_table(
        "exports",
        sa.Column("directory", sa.String(length=1024), nullable=False),
        sa.Column("made_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("directory", name=op.f("pk_exports")),
    )
    op.create_table(
        "audit_deliveries",
        sa.Column("destination", sa.String(length=255), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_audit_deliveries")),
    )


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for table in STATEMENTS:
        for statement in _build_former_triggers(table, dialect):
            op.execute(statement)
    if dialect == "sqlite":
        for name in ("no_update", "no_delete", "no_replace"):
            op.execute(f"DROP TRIGGER audit_events_{name}")
    else:
        for name in ("no_update", "no_delete"):
            op.execute(f"DROP TRIGGER audit_events_{name} ON audit_events")
        op.execute("DROP FUNCTION audit_events_refuse()")
    for index in ("ix_audit_events_unlinked", "ix_audit_events_patient", "uq_audit_events_position"):
        op.drop_index(index, table_name="audit_events")
    for column in ("chain_sha256", "position", "content_sha256", "salt", "patient"):
        op.drop_column("audit_events", column)
    for table in ("audit_deliveries", "exports", "erasures", "pseudonym_keys"):
        op.drop_table(table)
