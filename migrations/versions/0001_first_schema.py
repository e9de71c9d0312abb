"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FINDINGS = (
    "'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation',"
    " 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'"
)

APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER labels_no_update BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END",
        "CREATE TRIGGER labels_no_delete BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END",
        # REPLACE removes rows without a DELETE.
        "CREATE TRIGGER labels_no_replace BEFORE INSERT ON labels"
        " WHEN EXISTS (SELECT 1 FROM labels WHERE id = NEW.id OR revokes = NEW.revokes)"
        " BEGIN SELECT RAISE(ABORT, 'labels are append-only: UNIQUE constraint'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION labels_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'labels are append-only'; END $$",
        "CREATE TRIGGER labels_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON labels"
        " FOR EACH STATEMENT EXECUTE FUNCTION labels_refuse()",
    ),
}


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=128), nullable=False),
        sa.CheckConstraint("outcome IN ('done', 'refused', 'failed')", name=op.f("ck_audit_events_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_index(op.f("ix_audit_events_at"), "audit_events", ["at"], unique=False)
    op.create_table(
        "circuits",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("open_until", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_circuits")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
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
        sa.CheckConstraint("kind IN ('score', 'report', 'send')", name=op.f("ck_jobs_kind")),
        sa.CheckConstraint("state IN ('waiting', 'running', 'done', 'quarantined')", name=op.f("ck_jobs_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["kind", "priority", "run_at", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "kind", "finished_at"], unique=False)
    op.create_index(
        "uq_jobs_running",
        "jobs",
        ["kind", "subject"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "uq_jobs_waiting",
        "jobs",
        ["kind", "subject"],
        unique=True,
        sqlite_where=sa.text("state = 'waiting'"),
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "model_versions",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("base", sa.String(length=128), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("marking", sa.String(length=64), server_default="", nullable=False),
        sa.Column("calibrated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("label_fingerprint", sa.String(length=64), server_default="", nullable=False),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.Column("band", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("served_at", UtcDateTime(), nullable=True),
        sa.Column("retired_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("state <> 'rejected' OR reason <> ''", name=op.f("ck_model_versions_rejected_says_why")),
        sa.CheckConstraint("state IN ('candidate', 'serving', 'retired', 'rejected')", name=op.f("ck_model_versions_state")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("device_uid", name=op.f("uq_model_versions_device_uid")),
    )
    op.create_index(
        "uq_model_versions_serving",
        "model_versions",
        ["state"],
        unique=True,
        sqlite_where=sa.text("state = 'serving'"),
        postgresql_where=sa.text("state = 'serving'"),
    )
    op.create_table(
        "patients",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("patient_key", sa.String(length=300), nullable=False),
        sa.Column("patient_id", sa.String(length=128), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=128), nullable=False),
        sa.Column("patient_sex", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patients")),
        sa.UniqueConstraint("patient_key", name=op.f("uq_patients_patient_key")),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("study_time", sa.String(length=16), nullable=False),
        sa.Column("study_description", sa.String(length=128), nullable=False),
        sa.Column("patient_age", sa.String(length=4), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("revision", sa.Integer(), server_default="0", nullable=False),
        sa.Column("instance_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("released", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("received_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("last_received_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("state <> 'ignored' OR reason <> ''", name=op.f("ck_studies_ignored_says_why")),
        sa.CheckConstraint("state IN ('arriving', 'settled', 'scored', 'reported', 'ignored')", name=op.f("ck_studies_state")),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_studies_revision")),
        sa.ForeignKeyConstraint(["patient"], ["patients.id"], name=op.f("fk_studies_patient")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_studies_study_instance_uid")),
    )
    op.create_index(op.f("ix_studies_accession_number"), "studies", ["accession_number"], unique=False)
    op.create_index(
        "ix_studies_arriving",
        "studies",
        ["last_received_at"],
        unique=False,
        sqlite_where=sa.text("state = 'arriving'"),
        postgresql_where=sa.text("state = 'arriving'"),
    )
    op.create_index(op.f("ix_studies_patient"), "studies", ["patient"], unique=False)
    op.create_table(
        "labels",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("reader", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("asked_because", sa.String(length=64), server_default="", nullable=False),
        sa.Column("selection_probability", sa.Float(), nullable=True),
        sa.Column("revokes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
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
    op.create_index(op.f("ix_labels_study"), "labels", ["study"], unique=False)
    op.create_table(
        "predictions",
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("predicted_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("decision IN ('present', 'absent', 'undetermined')", name=op.f("ck_predictions_decision")),
        sa.CheckConstraint("probability BETWEEN 0 AND 1", name=op.f("ck_predictions_probability")),
        sa.CheckConstraint(f"finding IN ({FINDINGS})", name=op.f("ck_predictions_finding")),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_predictions_study")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_predictions_version")),
        sa.PrimaryKeyConstraint("study", "version", "finding", name=op.f("pk_predictions")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
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
        sa.CheckConstraint("state <> 'sent' OR sent_at IS NOT NULL", name=op.f("ck_reports_sent_has_a_time")),
        sa.CheckConstraint("state IN ('pending', 'built', 'sent', 'refused')", name=op.f("ck_reports_state")),
        sa.CheckConstraint("state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name=op.f("ck_reports_built_has_bytes")),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_reports_study")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_reports_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_reports_sop_instance_uid")),
        sa.UniqueConstraint("study", "version", "revision", name=op.f("uq_reports_study_version_revision")),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("series_description", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_series_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("study", "series_instance_uid", name=op.f("uq_series_study_series_instance_uid")),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("file_key", sa.String(length=128), nullable=False),
        sa.Column("file_sha256", sa.String(length=64), nullable=False),
        sa.Column("file_size", sa.BigInteger(), nullable=False),
        sa.Column("sender_ae_title", sa.String(length=64), nullable=False),
        sa.Column("sender_address", sa.String(length=64), nullable=False),
        sa.Column("called_ae_title", sa.String(length=64), nullable=False),
        sa.Column("received_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("file_size > 0", name=op.f("ck_instances_file_size")),
        sa.ForeignKeyConstraint(["series"], ["series.id"], name=op.f("fk_instances_series")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instances_sop_instance_uid")),
    )
    op.create_index(op.f("ix_instances_file_sha256"), "instances", ["file_sha256"], unique=False)
    op.create_index(op.f("ix_instances_series"), "instances", ["series"], unique=False)
    op.create_table(
        "image_scores",
        sa.Column("instance", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("scores", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name=op.f("fk_image_scores_instance")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_image_scores_version")),
        sa.PrimaryKeyConstraint("instance", "version", name=op.f("pk_image_scores")),
        sa.CheckConstraint("length(scores) = 56", name=op.f("ck_image_scores_scores")),
        sqlite_with_rowid=False,
    )
    for statement in APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("audit_events")
    op.drop_table("circuits")
    op.drop_table("jobs")
    op.drop_table("reports")
    op.drop_table("labels")
    op.drop_table("predictions")
    op.drop_table("image_scores")
    op.drop_table("instances")
    op.drop_table("series")
    op.drop_table("studies")
    op.drop_table("patients")
    op.drop_table("model_versions")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION labels_refuse()")
