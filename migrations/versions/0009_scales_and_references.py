"""Predictions say on which scale they are and what their rank refers to; versions have a scale for each finding; stops of reports.

Learnt findings of earlier versions become likelihood bands. Findings that were not learnt become "not assessed" until the version
has a reference distribution; `radclipd` then gives their studies one new revision. The rows of predictions are written anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

from adapters.catalog.sql_time import UtcDateTime, now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax", "Consolidation",
    "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
LISTED = ", ".join(f"'{finding}'" for finding in FINDINGS)
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
COLUMNS = (
    ("scale", "VARCHAR(16) NOT NULL"),
    ("likelihood", "FLOAT"),
    ("percentile", "FLOAT"),
    ("excess", "FLOAT"),
    ("reference", "INTEGER"),
    ("reason", "VARCHAR(16) DEFAULT '' NOT NULL"),
)
CHECKS = {
    "score": "score BETWEEN 0 AND 1",
    "likelihood": "likelihood BETWEEN 0 AND 1",
    "percentile": "percentile BETWEEN 0 AND 1",
    "assessed_has_a_likelihood": "(decision = 'not assessed') = (likelihood IS NULL)",
    "not_assessed_says_why": "(decision = 'not assessed') = (reason <> '')",
    "scale": "scale IN ('probability', 'band', 'rank')",
    "reason": "reason IN ('', 'no reference', 'stopped', 'age', 'age unknown', 'withdrawn')",
    "finding": f"finding IN ({LISTED})",
    "decision": "decision IN ('present', 'absent', 'undetermined', 'not assessed')",
}
OLD_CHECKS = {
    "decision": "decision IN ('present', 'absent', 'undetermined')",
    "probability": "probability BETWEEN 0 AND 1",
    "finding": f"finding IN ({LISTED})",
}
INDEXES = {
    "ix_predictions_present": (("predicted_at",), "decision = 'present'"),
    "ix_predictions_scored": (("version", "study", "predicted_at"), "finding = 'Atelectasis'"),
}
NO_REFERENCE_INDEX = ("ix_predictions_no_reference", ("version", "study", "reason"), "reason = 'no reference'")
LEARNT = "learnt_findings_0009"
"""Temporary table: version, finding, log-odds of its operating point."""
BOUNDED = "CASE WHEN p.score < 0.000001 THEN 0.000001 WHEN p.score > 0.999999 THEN 0.999999 ELSE p.score END"
TOLD = f"""
    CASE WHEN l.finding IS NULL THEN 'not assessed' ELSE p.decision END AS decision,
    CASE WHEN l.finding IS NULL THEN 'rank' ELSE 'band' END AS scale,
    CASE WHEN l.finding IS NULL THEN NULL ELSE p.score END AS likelihood,
    CASE WHEN l.finding IS NULL THEN NULL ELSE LN({BOUNDED} / (1 - {BOUNDED})) - l.point END AS excess,
    CASE WHEN l.finding IS NULL THEN 'no reference' ELSE '' END AS reason"""


def upgrade() -> None:
    _add_scales()
    _create_tables()
    _list_learnt_findings()
    if op.get_bind().dialect.name == "postgresql":
        _change_predictions()
    else:
        _rebuild_predictions()
    name, columns, condition = NO_REFERENCE_INDEX
    op.create_index(
        name, "predictions", list(columns), if_not_exists=True, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition)
    )
    op.drop_table(LEARNT)


def _add_scales() -> None:
    op.add_column("model_versions", sa.Column("scales", sa.JSON(), server_default="{}", nullable=False))
    op.add_column("reports", sa.Column("withdrawal", sa.Text(), server_default="", nullable=False))
    versions = sa.table("model_versions", sa.column("number"), sa.column("card", sa.JSON()), sa.column("scales", sa.JSON()))
    for number, card in op.get_bind().execute(sa.select(versions.c.number, versions.c.card)).all():
        learnt = card.get("learning", {}).get("findings", [])
        scales = dict.fromkeys(learnt, "band")
        op.execute(sa.update(versions).where(versions.c.number == number).values(scales=scales))


def _create_tables() -> None:
    op.create_table(
        "reference_distributions",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.Column("priors", sa.JSON(), nullable=False),
        sa.Column("call_rates", sa.JSON(), nullable=False),
        sa.Column("separation", sa.Float(), nullable=False),
        sa.Column("made_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint("studies > 0", name=op.f("ck_reference_distributions_studies")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_reference_distributions_version")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_reference_distributions")),
    )
    op.create_table(
        "reference_scores",
        sa.Column("reference", sa.Integer(), nullable=False),
        sa.Column("view", sa.String(length=8), nullable=False),
        sa.Column("scores", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["reference"], ["reference_distributions.number"], name=op.f("fk_reference_scores_reference")),
        sa.PrimaryKeyConstraint("reference", "view", name=op.f("pk_reference_scores")),
    )
    op.create_table(
        "report_stops",
        sa.Column("id", RowId, autoincrement=True, nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("source", sa.String(length=128), server_default="", nullable=False),
        sa.Column("stopped_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("resumed_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(f"finding IN ('', {LISTED})", name=op.f("ck_report_stops_finding")),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_report_stops_says_why")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report_stops")),
    )
    is_open = sa.text("resumed_at IS NULL")
    op.create_index(
        "uq_report_stops_finding", "report_stops", ["finding"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )


def _list_learnt_findings() -> None:
    """Fill the temporary table from the versions' cards and thresholds."""
    op.create_table(LEARNT, sa.Column("version", sa.Integer()), sa.Column("finding", sa.String(32)), sa.Column("point", sa.Float()))
    names = ("number", "card", "thresholds")
    versions = sa.table("model_versions", *(sa.column(name, sa.JSON() if name != "number" else sa.Integer()) for name in names))
    rows = [
        {"version": number, "finding": finding, "point": _log_odds(float(thresholds[finding]))}
        for number, card, thresholds in op.get_bind().execute(sa.select(*versions.c)).all()
        for finding in card.get("learning", {}).get("findings", [])
    ]
    if rows:
        op.bulk_insert(sa.table(LEARNT, sa.column("version"), sa.column("finding"), sa.column("point")), rows)


def _log_odds(share: float) -> float:
    bounded = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def _change_predictions() -> None:
    """PostgreSQL: constraints are dropped first, columns added, rows told, constraints made."""
    for name in OLD_CHECKS:
        op.drop_constraint(op.f(f"ck_predictions_{name}"), "predictions")
    op.execute("ALTER TABLE predictions RENAME COLUMN probability TO score")
    op.execute(
        "ALTER TABLE predictions " + ", ".join(f"ADD COLUMN {name} {kind.replace(' NOT NULL', '')}" for name, kind in COLUMNS)
    )
    op.execute(
        f"UPDATE predictions SET decision = t.decision, scale = t.scale, likelihood = t.likelihood, excess = t.excess,"
        f" reason = t.reason FROM (SELECT p.study, p.version, p.finding, {TOLD} FROM predictions p"
        f" LEFT JOIN {LEARNT} l ON l.version = p.version AND l.finding = p.finding) t"
        " WHERE t.study = predictions.study AND t.version = predictions.version AND t.finding = predictions.finding"
    )
    op.execute("ALTER TABLE predictions ALTER COLUMN scale SET NOT NULL, ALTER COLUMN reason SET NOT NULL")
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"ck_predictions_{name}"), "predictions", condition)
    op.create_foreign_key(op.f("fk_predictions_reference"), "predictions", "reference_distributions", ["reference"], ["number"])


def _rebuild_predictions() -> None:
    """SQLite, which cannot change a constraint."""
    driver = op.get_bind().connection.driver_connection
    driver.create_function("LN", 1, math.log, deterministic=True)  # type: ignore[union-attr]  # some builds of SQLite lack it
    extra: list[SchemaItem] = [
        sa.Column("scale", sa.String(length=16), nullable=False),
        sa.Column("likelihood", sa.Float()),
        sa.Column("percentile", sa.Float()),
        sa.Column("excess", sa.Float()),
        sa.Column("reference", sa.Integer()),
        sa.Column("reason", sa.String(length=16), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["reference"], ["reference_distributions.number"], name=op.f("fk_predictions_reference")),
    ]
    _create_predictions("predictions_0009", "score", CHECKS, extra)
    op.execute(
        "INSERT INTO predictions_0009 (study, version, finding, score, decision, revision, predicted_at, scale, likelihood, excess,"
        " reason) SELECT study, version, finding, score, decision, revision, predicted_at, scale, likelihood, excess, reason FROM"
        f" (SELECT p.study, p.version, p.finding, p.score, p.revision, p.predicted_at, {TOLD}"
        " FROM (SELECT study, version, finding, probability AS score, decision, revision, predicted_at FROM predictions) p"
        f" LEFT JOIN {LEARNT} l ON l.version = p.version AND l.finding = p.finding)"
    )
    _replace_predictions("predictions_0009")


def _create_predictions(name: str, score: str, checks: dict[str, str], extra: Sequence[SchemaItem]) -> None:
    op.create_table(
        name,
        sa.Column("study", RowId, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("finding", sa.String(length=32), nullable=False),
        sa.Column(score, sa.Float(), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("predicted_at", UtcDateTime(), server_default=now(), nullable=False),
        *extra,
        *(sa.CheckConstraint(condition, name=op.f(f"ck_predictions_{check}")) for check, condition in checks.items()),
        sa.ForeignKeyConstraint(["study"], ["studies.id"], name=op.f("fk_predictions_study")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.number"], name=op.f("fk_predictions_version")),
        sa.PrimaryKeyConstraint("study", "version", "finding", name=op.f("pk_predictions")),
        sqlite_with_rowid=False,
    )


def _replace_predictions(name: str) -> None:
    op.drop_table("predictions")
    op.rename_table(name, "predictions")
    for index, (columns, condition) in INDEXES.items():
        op.create_index(index, "predictions", list(columns), sqlite_where=sa.text(condition))


def _write_as_restored(condition: str) -> str:
    """Return a condition as PostgreSQL keeps it after a dump was restored, so that a downgrade gives the schema of the dump."""
    column, _, values = condition.partition(" IN ")
    if not values:
        return condition
    listed = ", ".join(f"{value}::character varying::text" for value in values.strip("()").split(", "))
    return f"{column}::text = ANY (ARRAY[{listed}])"


def downgrade() -> None:
    op.drop_index(NO_REFERENCE_INDEX[0], "predictions")
    decision = "CASE WHEN decision = 'not assessed' THEN 'undetermined' ELSE decision END"
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("fk_predictions_reference"), "predictions")
        for name in CHECKS:
            op.drop_constraint(op.f(f"ck_predictions_{name}"), "predictions")
        op.execute(f"UPDATE predictions SET decision = {decision} WHERE decision = 'not assessed'")
        op.execute("ALTER TABLE predictions " + ", ".join(f"DROP COLUMN {name}" for name, _ in COLUMNS))
        op.execute("ALTER TABLE predictions RENAME COLUMN score TO probability")
        for name, condition in OLD_CHECKS.items():
            op.create_check_constraint(op.f(f"ck_predictions_{name}"), "predictions", _write_as_restored(condition))
    else:
        _create_predictions("predictions_0008", "probability", OLD_CHECKS, [])
        op.execute(
            "INSERT INTO predictions_0008 (study, version, finding, probability, decision, revision, predicted_at)"
            f" SELECT study, version, finding, score, {decision}, revision, predicted_at FROM predictions"
        )
        _replace_predictions("predictions_0008")
    for table in ("report_stops", "reference_scores", "reference_distributions"):
        op.drop_table(table)
    op.drop_column("reports", "withdrawal")
    op.drop_column("model_versions", "scales")
