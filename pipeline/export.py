"""export: studies -> a research set without identity: images, and tables of studies, instances, labels and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.consensus import labels_in_force
from pipeline.domain import AuditEvent, Label, StoredInstance
from pipeline.errors import PermanentError
from pipeline.ports.desk import ViewRows
from pipeline.ports.erasure import ErasingTransaction
from pipeline.ports.services import ImageStore
from pipeline.pseudonyms import date_shift, export_pseudonym, export_uid, shift_date

EXPORT = "export"
"""Action of the audit event of an exported study."""
MAX_AGE_YEARS = 89
"""An older patient's age is told as this one plus one: few people are as old."""
SOURCES = ("csv", "cli", "sr", "kos", "desk")
"""Routes of labels; others are names that a person gave."""
Row = Mapping[str, Any]

TABLES: Mapping[str, Sequence[str]] = {
    "instances": (
        *("patient_id", "study_instance_uid", "series_instance_uid", "sop_instance_uid", "file", "study_date", "patient_sex"),
        *("patient_age", "modality", "view_position", "rows", "columns"),
    ),
    "labels": ("patient_id", "study_instance_uid", "finding", "state", "reader", "source", "exposure", "stated_on"),
    "predictions": (
        *("patient_id", "study_instance_uid", "finding", "version", "score", "probability", "percentile", "decision", "scale"),
    ),
    "left_out": ("patient_id", "study_instance_uid", "reason"),
}
"""Table -> its columns. `file` is a path below the export's folder."""


class NotExportable(PermanentError):
    """An image that the policy keeps out of exports, or one that cannot be read."""


class Deidentifier(Protocol):
    """A stored DICOM file -> a de-identified one."""

    def deidentify(self, content: bytes, key: bytes) -> bytes:
        """Return the file under the pseudonyms of the patient's key. NotExportable."""


class ExportWriter(Protocol):
    """The folder of an export."""

    @property
    def directory(self) -> str:
        """Its absolute path."""

    def write_image(self, patient: str, study: str, instance: str, content: bytes) -> str:
        """Write an image whole or not at all; return its path below the folder. OutOfResources."""

    def write_tables(self, tables: Mapping[str, Sequence[Row]]) -> None:
        """Write the tables. OutOfResources."""


class ExportTransaction(ErasingTransaction, Protocol):
    """One unit of work of an export."""

    @property
    def views(self) -> ViewRows: ...

    def pseudonym_keys(self, study_instance_uids: Collection[str]) -> Mapping[str, bytes]:
        """Return study -> key of its patient's pseudonyms."""


class ExportCatalog(Protocol):
    """The catalog as an export sees it."""

    def begin(self) -> AbstractContextManager[ExportTransaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[ExportTransaction]:
        """Open a transaction that only reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChoice:
    """The studies to export."""

    studies: Sequence[str] = ()  # empty: all
    labelled: bool = False  # only studies with a label in force


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Numbers of an export."""

    directory: str
    patients: int
    studies: int
    images: int
    labels: int
    predictions: int
    left_out: Mapping[str, int]  # reason -> images


def export(
    choice: ExportChoice,
    *,
    catalog: ExportCatalog,
    images: ImageStore,
    deidentifier: Deidentifier,
    writer: ExportWriter,
    source: str,
) -> ExportResult:
    """Write the studies' images and rows. Each study is an audit event before its first image is written.

    The same study has the same pseudonyms in every export, until its patient is forgotten. PermanentError for an unknown study.
    """
    with catalog.begin() as tx:
        labels = labels_in_force(tx.labels.all())
        studies = _choose_studies(choice, labels, tx)
        keys = tx.pseudonym_keys(studies)
        tx.erasures.add_export(writer.directory)
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    reasons: Counter[str] = Counter()
    for study in studies:
        with catalog.begin() as tx:
            instances = tx.studies.instances(study)
            predictions = tx.views.select("v_predictions", where={"study_instance_uid": study}, order=["finding"])
            tx.audit(AuditEvent(EXPORT, "done", study, f"{len(instances)} instances to {writer.directory}", source))
        one = _StudyExport(study, keys[study], images, deidentifier, writer)
        tables["instances"] += one.write_images(instances)
        tables["predictions"] += one.describe_predictions(predictions)
        tables["left_out"] += one.left_out
        reasons.update(row["reason"] for row in one.left_out)
    readers = {name: f"reader-{number}" for number, name in enumerate(sorted({label.reader for label in labels}), start=1)}
    tables["labels"] = [
        _describe_label(label, keys[label.study_instance_uid], readers) for label in labels if label.study_instance_uid in keys
    ]
    writer.write_tables(tables)
    return ExportResult(
        directory=writer.directory,
        patients=len({export_pseudonym(key) for key in keys.values()}),
        studies=len(studies),
        images=len(tables["instances"]),
        labels=len(tables["labels"]),
        predictions=len(tables["predictions"]),
        left_out=dict(reasons),
    )


def _choose_studies(choice: ExportChoice, labels: Sequence[Label], tx: ExportTransaction) -> list[str]:
    labelled = {label.study_instance_uid for label in labels}
    if choice.studies:
        known = tx.studies.patient_keys(choice.studies)
        if missing := len(set(choice.studies) - known.keys()):
            raise PermanentError(f"{missing} of {len(choice.studies)} studies are not in the catalog", hint="radclipd studies")
        chosen: Collection[str] = choice.studies
    elif choice.labelled:
        chosen = labelled
    else:
        chosen = list(_list_studies(tx))
    return sorted(set(chosen) & labelled if choice.labelled else set(chosen))


def _list_studies(tx: ExportTransaction) -> Iterator[str]:
    """Yield the UIDs of all studies, by pages."""
    key, after = "study_instance_uid", ""
    while page := tx.views.select("v_studies", [key], order=[key], after=(key, after), limit=1000):
        yield from (row[key] for row in page)
        after = page[-1][key]


class _StudyExport:
    """The export of one study."""

    def __init__(self, study: str, key: bytes, images: ImageStore, deidentifier: Deidentifier, writer: ExportWriter) -> None:
        self.study, self.key, self.images, self.deidentifier, self.writer = study, key, images, deidentifier, writer
        self.left_out: list[Row] = []

    @property
    def _names(self) -> dict[str, str]:
        return {"patient_id": export_pseudonym(self.key), "study_instance_uid": export_uid(self.key, self.study)}

    def write_images(self, instances: Sequence[StoredInstance]) -> list[Row]:
        """Write the images; return their rows. Those that are left out stand in `left_out`."""
        rows: list[Row] = []
        for instance in instances:
            if not instance.header.has_pixels:
                continue
            try:
                content = self.deidentifier.deidentify(self.images.read(instance.file), self.key)
            except PermanentError as error:
                self.left_out.append(
                    {**self._names, "reason": str(error) if isinstance(error, NotExportable) else type(error).__name__}
                )
                continue
            rows.append(self._describe_image(instance, content))
        return rows

    def _describe_image(self, instance: StoredInstance, content: bytes) -> Row:
        header, uid = instance.header, export_uid(self.key, instance.header.sop_instance_uid)
        path = self.writer.write_image(self._names["patient_id"], self._names["study_instance_uid"], uid, content)
        return {
            **self._names,
            "series_instance_uid": export_uid(self.key, header.series_instance_uid),
            "sop_instance_uid": uid,
            "file": path,
            "study_date": shift_date(header.study_date, date_shift(self.key)),
            "patient_sex": header.patient_sex if header.patient_sex in ("M", "F", "O") else "",
            "patient_age": limit_age(header.patient_age),
            "modality": header.modality,
            "view_position": header.view_position if header.view_position in ("PA", "AP", "LL", "RL") else "",
            "rows": header.rows,
            "columns": header.columns,
        }

    def describe_predictions(self, predictions: Sequence[Row]) -> list[Row]:
        """Return the rows of the study's predictions."""
        columns = [column for column in TABLES["predictions"] if column not in self._names]
        return [{**self._names, **{column: row[column] for column in columns}} for row in predictions]


def _describe_label(label: Label, key: bytes, readers: Mapping[str, str]) -> Row:
    return {
        "patient_id": export_pseudonym(key),
        "study_instance_uid": export_uid(key, label.study_instance_uid),
        "finding": label.finding,
        "state": label.state,
        "reader": readers[label.reader],
        "source": label.source if label.source in SOURCES else "other",
        "exposure": label.exposure,
        "stated_on": shift_date(f"{label.stated_at:%Y%m%d}", date_shift(key)),
    }


def limit_age(age: str) -> str:
    """Return an age of VR AS in years, at most MAX_AGE_YEARS + 1; "" for any other."""
    years = age[:3]
    return f"{min(int(years), MAX_AGE_YEARS + 1):03d}Y" if years.isdecimal() and age[3:] == "Y" else ""
