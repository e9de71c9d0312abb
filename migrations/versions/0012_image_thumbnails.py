"""Images have a thumbnail and a distance from the archive's reference; studies with a doubtful label are read a second time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapters.catalog.sql_time import UtcDateTime, now

FINDINGS = (
    "'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia', 'Pneumothorax', 'Consolidation',"
    " 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening', 'Hernia'"
)

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_thumbnails",
        sa.Column("instance", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("pixels", sa.LargeBinary, nullable=False),
        sa.Column("distance", sa.Float),
        sa.ForeignKeyConstraint(["instance"], ["instances.id"], name="fk_image_thumbnails_instance"),
        sa.PrimaryKeyConstraint("instance", name="pk_image_thumbnails"),
        sa.CheckConstraint("length(pixels) = 196", name="ck_image_thumbnails_pixels"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_image_thumbnails_unmeasured",
        "image_thumbnails",
        ["instance"],
        sqlite_where=sa.text("distance IS NULL"),
        postgresql_where=sa.text("distance IS NULL"),
    )
    op.create_table(
        "image_references",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("pixels", sa.LargeBinary, nullable=False),
        sa.Column("distance_limit", sa.Float, nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_image_references"),
        sa.CheckConstraint("number = 1", name="ck_image_references_number"),
    )
    op.create_table(
        "second_readings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("study", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("requested_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name="fk_second_readings_study"),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name="fk_second_readings_version"),
        sa.PrimaryKeyConstraint("id", name="pk_second_readings"),
        sa.UniqueConstraint("study", name="uq_second_readings_study"),
        sa.CheckConstraint(f"finding IN ({FINDINGS})", name="ck_second_readings_finding"),
    )


def downgrade() -> None:
    op.drop_table("second_readings")
    op.drop_table("image_references")
    op.drop_table("image_thumbnails")
