"""The tables. Constraints enforce the rules; the comment beside each states its rule.

Times are UTC, by the database's own clock. No patient names, no birth dates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from adapters.catalog.sql_time import UtcDateTime, now
from pipeline.domain import (
    FINDINGS,
    ConflictResolution,
    Decision,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    LabelExposure,
    LabelState,
    NotAssessedReason,
    ReportState,
    Scale,
    StudyState,
    UserRole,
    VersionState,
    VisibleKind,
    WithheldReason,
)
from pipeline.thumbnails import THUMBNAIL_SIDE

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UID = String(64)  # PS3.5 section 9.1
SHA256 = String(64)
RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only in an INTEGER PRIMARY KEY


def _check_one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Return the constraint that a column holds one of these values: those of an enum, or FINDINGS."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _restrict_index(condition: str) -> dict[str, Any]:
    """Return the arguments of a partial index: the rows that fulfil the condition."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _build_created_at() -> Column[object]:
    return Column("created_at", UtcDateTime(), nullable=False, server_default=now())


def _build_primary_key() -> Column[int]:
    return Column("id", RowId, primary_key=True, autoincrement=True)


patients = Table(
    "patients",
    metadata,
    _build_primary_key(),
    Column("patient_key", String(300), nullable=False, unique=True),  # one row per PatientID and issuer; none: one per study
    Column("patient_id", String(128), nullable=False, index=True),
    Column("issuer_of_patient_id", String(128), nullable=False),
    Column("patient_sex", String(16), nullable=False),
    _build_created_at(),
)

studies = Table(
    "studies",
    metadata,
    _build_primary_key(),
    Column("study_instance_uid", UID, nullable=False, unique=True),  # a study is known by its UID
    Column("patient", ForeignKey("patients.id"), nullable=False, index=True),
    Column("accession_number", String(64), nullable=False, index=True),
    Column("study_date", String(8), nullable=False, index=True),
    Column("study_time", String(16), nullable=False),
    Column("study_description", String(128), nullable=False),
    Column("patient_age", String(4), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("instance_count", Integer, nullable=False, server_default="0"),
    Column("released", Boolean, nullable=False, server_default=text("false")),
    Column("received_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("last_received_at", UtcDateTime(), nullable=False, server_default=now(), index=True),
    Column("silent", Boolean),  # of the silent share, whose reports are never sent; NULL: not drawn yet
    Column("files_deleted_at", UtcDateTime()),  # NULL: the store holds the study's images
    _check_one_of("state", StudyState),
    CheckConstraint("state <> 'ignored' OR reason <> ''", name="ignored_says_why"),
    CheckConstraint("revision >= 0", name="revision"),
    Index("ix_studies_unreported", "id", **_restrict_index("state <> 'reported'")),  # few of a large archive
    Index("ix_studies_arriving", "last_received_at", **_restrict_index("state = 'arriving'")),
)

series = Table(
    "series",
    metadata,
    _build_primary_key(),
    Column("series_instance_uid", UID, nullable=False),
    Column("study", ForeignKey("studies.id"), nullable=False),
    Column("modality", String(16), nullable=False),
    Column("series_number", BigInteger),
    Column("series_description", String(128), nullable=False),
    UniqueConstraint("study", "series_instance_uid"),  # a series stands once in its study
)

instances = Table(
    "instances",
    metadata,
    _build_primary_key(),
    Column("sop_instance_uid", UID, nullable=False, unique=True),  # an instance is known by its UID, whichever study it names
    Column("series", ForeignKey("series.id"), nullable=False, index=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("instance_number", BigInteger),
    Column("header", JSON, nullable=False),  # the rest of pipeline.domain.Header
    Column("file_key", String(128), nullable=False),
    Column("file_sha256", SHA256, nullable=False, index=True),
    Column("file_size", BigInteger, nullable=False),
    Column("file_xxh3", String(32), nullable=False, server_default=""),  # "": stored by a release without this checksum
    Column("sender_ae_title", String(64), nullable=False),
    Column("sender_address", String(64), nullable=False),
    Column("called_ae_title", String(64), nullable=False),
    Column("received_at", UtcDateTime(), nullable=False, server_default=now(), index=True),
    Column("state", String(16), nullable=False, server_default=InstanceState.STORED.value),
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("pixels_sha256", SHA256, nullable=False, server_default=""),  # of a deleted file, to know it again; "": not known
    CheckConstraint("file_size > 0", name="file_size"),
    _check_one_of("state", InstanceState),
    Index("ix_instances_deleting", "id", "state", **_restrict_index("state = 'deleting'")),  # few, for seconds
)

instance_revisions = Table(
    "instance_revisions",  # the files whose place another file of the same instance has taken
    metadata,
    _build_primary_key(),
    Column("instance", ForeignKey("instances.id"), nullable=False, index=True),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("difference", Text, nullable=False),  # of the file that took the place; without a value of an element
    Column("file_key", String(128), nullable=False),
    Column("file_sha256", SHA256, nullable=False, index=True),
    Column("file_size", BigInteger, nullable=False),
    Column("file_xxh3", String(32), nullable=False, server_default=""),
    Column("state", String(16), nullable=False, server_default=InstanceState.STORED.value),
    Column("replaced_at", UtcDateTime(), nullable=False, server_default=now()),
    _check_one_of("state", InstanceState),
    Index("ix_instance_revisions_undeleted", "replaced_at", **_restrict_index("state <> 'deleted'")),
)

instance_conflicts = Table(
    "instance_conflicts",
    metadata,
    _build_primary_key(),
    Column("instance", ForeignKey("instances.id"), nullable=False),
    Column("header", JSON, nullable=False),  # pipeline.domain.Header of the received file; {} once it is resolved
    Column("file_key", String(128), nullable=False),
    Column("file_sha256", SHA256, nullable=False, index=True),
    Column("file_size", BigInteger, nullable=False),
    Column("file_xxh3", String(32), nullable=False, server_default=""),
    Column("sender_ae_title", String(64), nullable=False),
    Column("sender_address", String(64), nullable=False),
    Column("called_ae_title", String(64), nullable=False),
    Column("received_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("resolution", String(16), nullable=False, server_default=""),  # "": open
    Column("resolved_at", UtcDateTime()),
    _check_one_of("resolution", ("", *ConflictResolution)),
    CheckConstraint("(resolution = '') = (resolved_at IS NULL)", name="resolved_has_a_time"),
    UniqueConstraint("instance", "file_sha256"),  # a file sent again is the same conflict
    Index("ix_instance_conflicts_open", "id", **_restrict_index("resolution = ''")),  # few
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("name", String(128), nullable=False),
    Column("base", String(128), nullable=False),
    Column("weights_sha256", SHA256, nullable=False),
    Column("device_uid", UID, nullable=False, unique=True),  # every version is a device of its own
    Column("notice", String(64), nullable=False, server_default=""),
    Column("calibrated", Boolean, nullable=False, server_default=text("false")),
    Column("label_fingerprint", String(64), nullable=False, server_default=""),
    Column("thresholds", JSON, nullable=False),
    Column("undetermined_margin", Float, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("card", JSON, nullable=False),
    _build_created_at(),
    Column("served_at", UtcDateTime()),
    Column("retired_at", UtcDateTime()),
    Column("scales", JSON, nullable=False, server_default="{}"),  # finding -> Scale; a missing finding: rank
    _check_one_of("state", VersionState),
    CheckConstraint("state <> 'rejected' OR reason <> ''", name="rejected_says_why"),
    Index("uq_model_versions_serving", "state", unique=True, **_restrict_index("state = 'serving'")),  # at most one version serves
)

image_scores = Table(
    "image_scores",
    metadata,
    Column("instance", ForeignKey("instances.id"), primary_key=True),
    Column("version", ForeignKey("model_versions.number"), primary_key=True),
    Column("scores", LargeBinary, nullable=False),  # float32 little-endian [14], in the order of FINDINGS
    _build_created_at(),
    CheckConstraint(f"length(scores) = {4 * len(FINDINGS)}", name="scores"),  # a score for every finding
    sqlite_with_rowid=False,  # millions of short rows, found only by key: one B-tree instead of two
)

image_thumbnails = Table(
    "image_thumbnails",
    metadata,
    Column("instance", ForeignKey("instances.id"), primary_key=True),
    Column("pixels", LargeBinary, nullable=False),  # uint8 [THUMBNAIL_SIDE^2]
    Column("distance", Float),  # from the reference, in units of its limit; NULL: not measured
    CheckConstraint(f"length(pixels) = {THUMBNAIL_SIDE**2}", name="pixels"),
    Index("ix_image_thumbnails_unmeasured", "instance", **_restrict_index("distance IS NULL")),  # few
    sqlite_with_rowid=False,  # as image_scores
)

image_references = Table(
    "image_references",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("pixels", LargeBinary, nullable=False),  # uint8 [M, THUMBNAIL_SIDE^2]
    Column("distance_limit", Float, nullable=False),
    _build_created_at(),
    CheckConstraint("number = 1", name="number"),  # there is one for good: distances do not change
)

reference_distributions = Table(
    "reference_distributions",  # append-only: a prediction names the distribution that its rank refers to
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version", ForeignKey("model_versions.number"), nullable=False),
    Column("studies", Integer, nullable=False),
    Column("priors", JSON, nullable=False),
    Column("call_rates", JSON, nullable=False),
    Column("separation", Float, nullable=False),
    Column("made_at", UtcDateTime(), nullable=False, server_default=now()),
    CheckConstraint("studies > 0", name="studies"),
)

reference_scores = Table(
    "reference_scores",
    metadata,
    Column("reference", ForeignKey("reference_distributions.number"), primary_key=True),
    Column("view", String(8), primary_key=True),  # "": the studies of all views
    Column("scores", LargeBinary, nullable=False),  # float32 little-endian [n, 14], each column ascending
)

predictions = Table(
    "predictions",
    metadata,
    Column("study", ForeignKey("studies.id"), primary_key=True),  # one prediction per study, version and finding
    Column("version", ForeignKey("model_versions.number"), primary_key=True),
    Column("finding", String(32), primary_key=True),
    Column("score", Float, nullable=False),
    Column("decision", String(16), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("predicted_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("scale", String(16), nullable=False),
    Column("likelihood", Float),
    Column("percentile", Float),
    Column("excess", Float),
    Column("reference", ForeignKey("reference_distributions.number")),
    Column("reason", String(16), nullable=False, server_default=""),
    CheckConstraint("score BETWEEN 0 AND 1", name="score"),  # NaN is none
    CheckConstraint("likelihood BETWEEN 0 AND 1", name="likelihood"),
    CheckConstraint("percentile BETWEEN 0 AND 1", name="percentile"),
    CheckConstraint("(decision = 'not assessed') = (likelihood IS NULL)", name="assessed_has_a_likelihood"),
    CheckConstraint("(decision = 'not assessed') = (reason <> '')", name="not_assessed_says_why"),
    _check_one_of("scale", Scale),
    _check_one_of("reason", ("", *NotAssessedReason)),
    _check_one_of("finding", FINDINGS),
    _check_one_of("decision", Decision),
    Index(
        "ix_predictions_present", "predicted_at", **_restrict_index("decision = 'present'")
    ),  # what was found of late: a small share
    Index(
        "ix_predictions_no_reference", "version", "study", "reason", **_restrict_index("reason = 'no reference'")
    ),  # waiting for a rank
    Index(
        "ix_predictions_scored", "version", "study", "predicted_at", **_restrict_index(f"finding = '{FINDINGS[0]}'")
    ),  # one for all
    sqlite_with_rowid=False,  # as image_scores
)

labels = Table(
    "labels",  # append-only: triggers refuse UPDATE and DELETE
    metadata,
    _build_primary_key(),
    Column("study", ForeignKey("studies.id"), nullable=False),
    Column("finding", String(32), nullable=False),
    Column("state", String(16)),  # none: a withdrawal
    Column("reader", String(64), nullable=False),
    Column("source", String(64), nullable=False),
    Column("selection_reason", String(64), nullable=False, server_default=""),
    Column("selection_probability", Float),
    Column("revokes", RowId, unique=True),  # a label is revoked by a later row, once
    _build_created_at(),
    Column("stated_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("document", UID, nullable=False, server_default=""),
    Column("exposure", String(16), nullable=False, server_default=LabelExposure.NONE.value),
    _check_one_of("exposure", LabelExposure),
    _check_one_of("finding", FINDINGS),
    _check_one_of("state", LabelState),
    CheckConstraint("state IS NOT NULL OR revokes IS NOT NULL", name="says_something"),  # present, absent, uncertain; or withdrawn
    UniqueConstraint("id", "study", "finding"),
    # What revokes a label speaks of the same study and finding.
    ForeignKeyConstraint(["revokes", "study", "finding"], ["labels.id", "labels.study", "labels.finding"]),
    CheckConstraint("selection_probability > 0 AND selection_probability <= 1", name="selection_probability"),
    Index(
        "uq_labels_document",  # a document says a thing once, however often it arrives
        "document",
        "study",
        "finding",
        "reader",
        unique=True,
        **_restrict_index("document <> '' AND state IS NOT NULL"),
    ),
    Index("ix_labels_document", "document"),
    Index("ix_labels_reader", "reader", "id"),
    Index("ix_labels_statement", "study", "finding", "reader", "stated_at", "id", "state"),  # has the same reader spoken since?
)

requests = Table(
    "requests",  # append-only, as labels
    metadata,
    _build_primary_key(),
    Column("study", ForeignKey("studies.id"), nullable=False, unique=True),  # a study is requested once
    Column("selection_reason", String(64), nullable=False),
    Column("finding", String(32), nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("selection_probability", Float, nullable=False),
    Column("version", ForeignKey("model_versions.number"), nullable=False),
    Column("requested_at", UtcDateTime(), nullable=False, server_default=now()),
    _check_one_of("finding", ("", *FINDINGS)),
    CheckConstraint("selection_reason <> ''", name="says_why"),
    CheckConstraint("selection_probability > 0 AND selection_probability <= 1", name="selection_probability"),
)

second_readings = Table(
    "second_readings",
    metadata,
    _build_primary_key(),
    Column("study", ForeignKey("studies.id"), nullable=False, unique=True),  # a study is read again once
    Column("finding", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("version", ForeignKey("model_versions.number"), nullable=False),
    Column("requested_at", UtcDateTime(), nullable=False, server_default=now()),
    _check_one_of("finding", FINDINGS),
)

reports = Table(
    "reports",
    metadata,
    _build_primary_key(),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("series_instance_uid", UID, nullable=False),
    Column("study", ForeignKey("studies.id"), nullable=False),
    Column("version", ForeignKey("model_versions.number"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("sop_class_uid", UID, nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("predecessor", UID),
    Column("file_key", String(128)),
    Column("file_sha256", SHA256),
    Column("file_size", BigInteger),
    Column("status", Text, nullable=False, server_default=""),
    _build_created_at(),
    Column("built_at", UtcDateTime()),
    Column("sent_at", UtcDateTime()),
    Column("withdrawal", Text, nullable=False, server_default=""),  # why the report is withdrawn: it says so and nothing else
    Column("withheld", String(16), nullable=False, server_default=""),  # why it is kept and not sent
    UniqueConstraint("study", "version", "revision"),  # a revision is reported once
    _check_one_of("state", ReportState),
    _check_one_of("withheld", ("", *WithheldReason)),
    CheckConstraint("withheld = '' OR state <> 'sent'", name="withheld_is_not_sent"),
    CheckConstraint("state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name="built_has_bytes"),
    CheckConstraint("state <> 'sent' OR sent_at IS NOT NULL", name="sent_has_a_time"),
    Index("ix_reports_created_at", "created_at"),
    Index("ix_reports_unsent", "created_at", **_restrict_index("state <> 'sent'")),
)

draw_keys = Table(
    "draw_keys",
    metadata,
    Column("purpose", String(16), primary_key=True),
    Column("key", SHA256, nullable=False),  # random, hex: the key of a keyed hash
    _build_created_at(),
)

visible_objects = Table(
    "visible_objects",
    metadata,
    _build_primary_key(),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("series_instance_uid", UID, nullable=False),
    Column("report", ForeignKey("reports.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("sop_class_uid", UID, nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("predecessor", UID),
    Column("file_key", String(128)),
    Column("file_sha256", SHA256),
    Column("file_size", BigInteger),
    Column("status", Text, nullable=False, server_default=""),
    _build_created_at(),
    Column("built_at", UtcDateTime()),
    Column("sent_at", UtcDateTime()),
    UniqueConstraint("report", "kind"),  # a report has one text, one card
    _check_one_of("kind", VisibleKind),
    _check_one_of("state", ReportState),
    CheckConstraint("state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name="built_has_bytes"),
    CheckConstraint("state <> 'sent' OR sent_at IS NOT NULL", name="sent_has_a_time"),
)


deliveries = Table(  # an object is not deleted where a destination is done with it: the row is the proof
    "deliveries",
    metadata,
    _build_primary_key(),
    Column("report", ForeignKey("reports.id"), nullable=False, index=True),  # that the object is, or accompanies
    Column("sop_instance_uid", UID, nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("status", Text, nullable=False, server_default=""),
    Column("sendings", Integer, nullable=False, server_default="0"),  # since the object was last proven to be there
    Column("transaction_uid", UID, nullable=False, server_default=""),  # of the requested storage commitment
    _build_created_at(),
    Column("sent_at", UtcDateTime()),
    Column("committed_at", UtcDateTime()),
    Column("verified_at", UtcDateTime()),
    Column("checked_at", UtcDateTime()),  # when the destination was last asked
    UniqueConstraint("sop_instance_uid", "destination"),  # an object is on its way to a destination once
    _check_one_of("state", DeliveryState),
    CheckConstraint("state NOT IN ('sent', 'committed', 'verified') OR sent_at IS NOT NULL", name="sent_has_a_time"),
    CheckConstraint("state <> 'committed' OR committed_at IS NOT NULL", name="committed_has_a_time"),
    CheckConstraint("state <> 'verified' OR verified_at IS NOT NULL", name="verified_has_a_time"),
    Index("ix_deliveries_unproven", "sent_at", **_restrict_index("state = 'sent'")),
    Index("ix_deliveries_transaction", "transaction_uid", **_restrict_index("transaction_uid <> ''")),
)

report_stops = Table(
    "report_stops",  # the history of `radclipd reports stop` and `resume`
    metadata,
    _build_primary_key(),
    Column("finding", String(32), nullable=False),  # "": all of them
    Column("reason", Text, nullable=False),
    Column("source", String(128), nullable=False, server_default=""),
    Column("stopped_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("resumed_at", UtcDateTime()),
    _check_one_of("finding", ("", *FINDINGS)),
    CheckConstraint("reason <> ''", name="says_why"),
    Index("uq_report_stops_finding", "finding", unique=True, **_restrict_index("resumed_at IS NULL")),  # stopped once at a time
)

jobs = Table(
    "jobs",
    metadata,
    _build_primary_key(),
    Column("kind", String(16), nullable=False),
    Column("subject", UID, nullable=False),
    Column("payload", JSON, nullable=False),
    Column("state", String(16), nullable=False, server_default=JobState.WAITING.value),
    Column("priority", Integer, nullable=False, server_default="100"),
    Column("run_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("worker", String(128), nullable=False, server_default=""),
    Column("lease_token", String(32), nullable=False, server_default=""),
    Column("lease_until", UtcDateTime()),
    Column("error", Text, nullable=False, server_default=""),
    _build_created_at(),
    Column("finished_at", UtcDateTime()),
    _check_one_of("kind", JobKind),
    _check_one_of("state", JobState),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_is_leased"),
    Index(
        "uq_jobs_waiting", "kind", "subject", unique=True, **_restrict_index("state = 'waiting'")
    ),  # at most one job of a kind and subject waits
    Index(
        "uq_jobs_running", "kind", "subject", unique=True, **_restrict_index("state = 'running'")
    ),  # at most one job of a kind and subject runs
    Index("ix_jobs_quarantined", "kind", "subject", **_restrict_index("state = 'quarantined'")),
    Index("ix_jobs_due", "kind", "priority", "run_at", "id", **_restrict_index("state = 'waiting'")),
    Index("ix_jobs_done", "finished_at", **_restrict_index("state = 'done'")),  # purged after work.keep_done_days
    Index("ix_jobs_learn", "id", **_restrict_index("kind = 'learn'")),  # a few among very many
    Index("ix_jobs_by_state", "state", "id", "kind"),  # lists, newest first, and counts
)

circuits = Table(
    "circuits",
    metadata,
    Column("destination", String(64), primary_key=True),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("open_until", UtcDateTime()),
)

backfills = Table(
    "backfills",
    metadata,
    _build_primary_key(),
    Column("source", String(255), nullable=False, unique=True),  # a source has one row, by its name
    Column("begun_at", UtcDateTime(), nullable=False, server_default=now()),
)

backfill_days = Table(
    "backfill_days",
    metadata,
    Column("backfill", ForeignKey("backfills.id"), primary_key=True),
    Column("day", String(8), primary_key=True),  # YYYYMMDD: all studies of this day are imported
    Column("done_at", UtcDateTime(), nullable=False, server_default=now()),
)

backfill_units = Table(
    "backfill_units",
    metadata,
    Column("backfill", ForeignKey("backfills.id"), primary_key=True),  # the last result of a unit replaces the one before
    Column("key", String(64), primary_key=True),
    Column("mark", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("instances", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("error", Text, nullable=False, server_default=""),
    Column("finished_at", UtcDateTime(), nullable=False, server_default=now()),
    _check_one_of("state", ("done", "failed")),
    CheckConstraint("(state = 'failed') = (error <> '')", name="failed_says_why"),
    sqlite_with_rowid=False,
)

backfilled_studies = Table(
    "backfilled_studies",
    metadata,
    Column("study_instance_uid", UID, primary_key=True),  # inserted before the study's first instance: no foreign key
    Column("backfill", ForeignKey("backfills.id"), nullable=False),
    Column("brought_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("ended_at", UtcDateTime()),  # NULL: the backfill is still bringing it
    sqlite_with_rowid=False,
)

pseudonym_keys = Table(
    "pseudonym_keys",  # made on first use; deleted with the patient, after which no pseudonym can be told from a random number
    metadata,
    Column("patient", ForeignKey("patients.id"), primary_key=True),
    Column("key", LargeBinary, nullable=False),
    CheckConstraint("length(key) = 32", name="key"),
)

erasures = Table(
    "erasures",  # patients that `radclipd forget` is erasing: triggers let their labels and requests go
    metadata,
    Column("patient", ForeignKey("patients.id"), primary_key=True),
    Column("begun_at", UtcDateTime(), nullable=False, server_default=now()),
)

exports = Table(
    "exports",  # folders of `radclipd export`, from which a forgotten patient is removed
    metadata,
    Column("directory", String(1024), primary_key=True),
    Column("made_at", UtcDateTime(), nullable=False, server_default=now()),
)

audit_events = Table(
    "audit_events",  # append-only: triggers let an event get its link, and lose its content when its patient is forgotten
    metadata,
    _build_primary_key(),
    Column("at", UtcDateTime(), nullable=False, server_default=now(), index=True),
    Column("action", String(32), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("subject", String(128), nullable=False, index=True),
    Column("detail", Text, nullable=False),
    Column("source", String(128), nullable=False),
    Column("patient", String(32), nullable=False, server_default="", index=True),  # pseudonym; "": no patient's
    Column("salt", String(32), nullable=False, server_default=""),  # of content_sha256
    Column("content_sha256", String(64), nullable=False, server_default=""),  # of subject and detail
    Column("position", BigInteger),  # in the chain, from 1 without a gap; none: not linked yet
    Column("chain_sha256", String(64), nullable=False, server_default=""),  # of this event and of its predecessor's digest
    CheckConstraint("outcome IN ('done', 'refused', 'failed')", name="outcome"),
    Index("uq_audit_events_position", "position", unique=True),
    Index("ix_audit_events_unlinked", "id", "position", **_restrict_index("position IS NULL")),  # those of the last seconds
)

audit_deliveries = Table(
    "audit_deliveries",
    metadata,
    Column("destination", String(255), primary_key=True),
    Column("position", BigInteger, nullable=False),  # of the last event that the destination has
    Column("delivered_at", UtcDateTime(), nullable=False, server_default=now()),
)

users = Table(
    "users",
    metadata,
    _build_primary_key(),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("password_hash", String(256), nullable=False),
    Column("session_key", String(64), nullable=False),  # a new one ends the sessions of the former one
    Column("disabled", Boolean, nullable=False, server_default=text("false")),
    _build_created_at(),
    _check_one_of("role", UserRole),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    _build_primary_key(),
    Column("user_name", ForeignKey("users.name"), nullable=False, index=True),
    Column("token_sha256", SHA256, nullable=False, unique=True),  # the token itself is stored nowhere
    _build_created_at(),
)

drafts = Table(
    "drafts",
    metadata,
    Column("study", ForeignKey("studies.id"), primary_key=True),  # a reader has one draft of a study
    Column("reader", String(64), primary_key=True),
    Column("content", JSON, nullable=False),  # states, points and comment of pipeline.domain.Draft
    Column("updated_at", UtcDateTime(), nullable=False, server_default=now()),
)

readings = Table(
    "readings",
    metadata,
    _build_primary_key(),
    Column("study", ForeignKey("studies.id"), nullable=False),
    Column("reader", String(64), nullable=False),
    Column("idempotency_key", String(64), nullable=False),
    Column("skip_reason", String(64), nullable=False, server_default=""),
    Column("states", JSON, nullable=False),
    Column("points", JSON, nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    Column("exposure", String(16), nullable=False),
    Column("read_at", UtcDateTime(), nullable=False, server_default=now()),
    Column("is_repeat", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("reader", "idempotency_key"),  # a reading sent twice is stored once
    _check_one_of("exposure", LabelExposure),
    Index("ix_readings_study", "study", "reader"),
)

reveals = Table(
    "reveals",  # the desk has shown the model's result on a study to a reader
    metadata,
    Column("study", ForeignKey("studies.id"), primary_key=True),
    Column("reader", String(64), primary_key=True),
    Column("revealed_at", UtcDateTime(), nullable=False, server_default=now()),
)

reader_documents = Table(
    "reader_documents",
    metadata,
    _build_primary_key(),
    Column("reading", ForeignKey("readings.id"), nullable=False, unique=True),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("file_key", String(128)),
    Column("file_sha256", SHA256),
    Column("file_size", BigInteger),
    Column("status", Text, nullable=False, server_default=""),
    _build_created_at(),
    Column("built_at", UtcDateTime()),
    Column("sent_at", UtcDateTime()),
    _check_one_of("state", ReportState),
    CheckConstraint("state IN ('pending', 'refused') OR file_sha256 IS NOT NULL", name="built_has_bytes"),
)

TABLES: Iterable[Table] = metadata.sorted_tables
