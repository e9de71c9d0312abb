"""The rows of the fake catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from pipeline.domain import (
    AuditEvent,
    Conflict,
    Delivery,
    Job,
    Label,
    ModelVersion,
    Prediction,
    ReaderDocument,
    ReferenceDistribution,
    Report,
    Request,
    Scores,
    StoredFile,
    StoredInstance,
    Study,
    VisibleObject,
)
from pipeline.ports.backfill import BackfillCounts
from pipeline.thumbnails import ImageReference


@dataclass
class JobRow:
    job: Job
    lease_until: datetime | None = None
    finished_at: datetime | None = None


@dataclass
class DeliveryRow:
    delivery: Delivery
    report: str  # SOPInstanceUID
    transaction_uid: str = ""
    checked_at: datetime | None = None


@dataclass
class BackfillRows:
    days: dict[str, set[date]] = field(default_factory=dict)
    units: dict[tuple[str, str], tuple[str, BackfillCounts, str]] = field(default_factory=dict)  # change tag, counts, error
    studies: dict[str, datetime | None] = field(default_factory=dict)  # study -> end of its backfill; None: under way


@dataclass
class CatalogTables:
    """All rows. A transaction works on a copy and puts it back when it commits."""

    studies: dict[str, Study] = field(default_factory=dict)
    released: set[str] = field(default_factory=set)
    instances: dict[str, StoredInstance] = field(default_factory=dict)
    files_deleted: set[str] = field(default_factory=set)  # studies
    former_files: dict[str, list[StoredFile]] = field(default_factory=dict)  # by instance
    conflicts: dict[int, Conflict] = field(default_factory=dict)
    scores: dict[tuple[str, int], Scores] = field(default_factory=dict)
    thumbnails: dict[str, tuple[bytes, float | None]] = field(default_factory=dict)  # with their distances
    image_reference: ImageReference | None = None
    predictions: dict[tuple[str, int], list[Prediction]] = field(default_factory=dict)
    references: dict[int, ReferenceDistribution] = field(default_factory=dict)
    stops: dict[str, str] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    report_created: dict[str, datetime] = field(default_factory=dict)
    visible_objects: dict[str, VisibleObject] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], DeliveryRow] = field(default_factory=dict)  # by SOPInstanceUID and destination
    first_sent: dict[str, datetime] = field(default_factory=dict)  # by study
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    retired: list[int] = field(default_factory=list)  # versions in the order of their retirement
    jobs: dict[int, JobRow] = field(default_factory=dict)
    circuits: dict[str, tuple[int, datetime | None]] = field(default_factory=dict)
    audit: list[AuditEvent] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    requests: dict[str, Request] = field(default_factory=dict)
    second_readings: list[Request] = field(default_factory=list)
    reader_documents: dict[str, ReaderDocument] = field(default_factory=dict)
    backfills: BackfillRows = field(default_factory=BackfillRows)
