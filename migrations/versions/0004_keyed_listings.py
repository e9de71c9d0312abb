"""Indexes for every listing and documented query, however large the archive; autovacuum of the queue starts early.

On PostgreSQL `schema.upgrade` has built the indexes and run BEFOREHAND already, while others read and wrote: here only their names
are compared.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("ix_patients_patient_id", "patients", ("patient_id",), ""),
    ("ix_studies_study_date", "studies", ("study_date",), ""),
    ("ix_studies_last_received_at", "studies", ("last_received_at",), ""),
    ("ix_studies_unreported", "studies", ("id",), "state <> 'reported'"),
    ("ix_instances_received_at", "instances", ("received_at",), ""),
    ("ix_predictions_present", "predictions", ("predicted_at",), "decision = 'present'"),
    ("ix_predictions_scored", "predictions", ("version", "study", "predicted_at"), "finding = 'Atelectasis'"),
    ("ix_labels_document", "labels", ("document",), ""),
    ("ix_labels_reader", "labels", ("reader", "id"), ""),
    ("ix_labels_statement", "labels", ("study", "finding", "reader", "stated_at", "id", "state"), ""),
    ("ix_reports_created_at", "reports", ("created_at",), ""),
    ("ix_reports_unsent", "reports", ("created_at",), "state <> 'sent'"),
    ("ix_jobs_quarantined", "jobs", ("kind", "subject"), "state = 'quarantined'"),
    ("ix_jobs_done", "jobs", ("finished_at",), "state = 'done'"),
    ("ix_jobs_learn", "jobs", ("id",), "kind = 'learn'"),
    ("ix_jobs_by_state", "jobs", ("state", "id", "kind"), ""),
)
STORAGE_PARAMETERS = (
    # Each row of the queue changes three times and is soon done: with a fifth of a large table dead every claim would be slow.
    ("jobs", "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"),
    # The row of a study changes with each of its instances and at each step.
    ("studies", "fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"),
    ("reports", "autovacuum_vacuum_scale_factor = 0.05"),
)
"""PostgreSQL."""
FILL_REVISIONS = """
UPDATE studies SET revision = (SELECT MAX(p.revision) FROM predictions p WHERE p.study = studies.id)
WHERE revision = 0 AND EXISTS (SELECT 1 FROM predictions p WHERE p.study = studies.id)"""
"""The views find the latest predictions by the study's revision, which is 0 in a catalog that was filled by other means."""
BEFOREHAND = (FILL_REVISIONS,)
"""PostgreSQL, outside the transaction that locks views and tables: a pass over all studies takes long."""


def upgrade() -> None:
    for name, table, columns, condition in INDEXES:
        where = sa.text(condition) if condition else None
        op.create_index(name, table, list(columns), if_not_exists=True, sqlite_where=where, postgresql_where=where)
    op.drop_index("ix_labels_study", "labels")
    op.drop_index("ix_jobs_state", "jobs")
    if op.get_bind().dialect.name == "postgresql":
        for table, settings in STORAGE_PARAMETERS:
            op.execute(f"ALTER TABLE {table} SET ({settings})")
    else:
        op.execute(FILL_REVISIONS)


def downgrade() -> None:
    op.create_index("ix_labels_study", "labels", ["study"])
    op.create_index("ix_jobs_state", "jobs", ["state", "kind", "finished_at"])
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    if op.get_bind().dialect.name == "postgresql":
        for table, settings in STORAGE_PARAMETERS:
            op.execute(f"ALTER TABLE {table} RESET ({', '.join(one.split(' = ')[0] for one in settings.split(', '))})")
