"""Ports of catalog, image store, scorer, trainer, report writer and archive. Adapters and `tests/builders/fakes` implement them.

A `Transaction` is all or nothing: leaving its `with` block normally commits, an exception rolls back. All times are by the
catalog's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

from pipeline.domain import (
    AuditEvent,
    Comparison,
    Document,
    Image,
    InstanceDifference,
    ModelVersion,
    Prediction,
    ReaderDocument,
    Report,
    Scores,
    StoredFile,
    StoredInstance,
    Study,
    TrainingSet,
    VersionState,
    VisibleObject,
)
from pipeline.ports.backfill import Backfills
from pipeline.ports.deliveries import Deliveries
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.jobs import Circuits, Jobs
from pipeline.ports.labels import Labels, ReaderDocuments, Requests, SecondReadings
from pipeline.ports.retention import Retention
from pipeline.ports.studies import References, Reports, ReportStops, Revisions, ScoreRows, Studies, Thumbnails
from pipeline.statements import StudyStatement

Buffer = bytes | bytearray | memoryview


class Versions(Protocol):
    """Model versions."""

    def serving(self) -> ModelVersion | None:
        """Return the serving version, or None."""

    def find(self, number: int) -> ModelVersion | None:
        """Return the version, or None."""

    def all(self) -> list[ModelVersion]:
        """Return every version, oldest first."""

    def next_number(self) -> int:
        """Return the number of the next version."""

    def add(self, version: ModelVersion) -> None:
        """Insert a version in the state it carries."""

    def previously_serving(self) -> ModelVersion | None:
        """Return the retired version that served most recently, or None."""

    def put_state(self, number: int, state: VersionState, *, reason: str) -> None:
        """Write the state and reason of a version other than the serving one."""

    def serve(self, number: int) -> None:
        """Make this version the serving one, and retire the one that serves now."""


class Transaction(Protocol):
    """One unit of work."""

    @property
    def studies(self) -> Studies: ...
    @property
    def revisions(self) -> Revisions: ...
    @property
    def retention(self) -> Retention: ...
    @property
    def scores(self) -> ScoreRows: ...
    @property
    def thumbnails(self) -> Thumbnails: ...
    @property
    def references(self) -> References: ...
    @property
    def reports(self) -> Reports: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def stops(self) -> ReportStops: ...
    @property
    def versions(self) -> Versions: ...
    @property
    def jobs(self) -> Jobs: ...
    @property
    def circuits(self) -> Circuits: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def second_readings(self) -> SecondReadings: ...
    @property
    def reader_documents(self) -> ReaderDocuments: ...
    @property
    def backfills(self) -> Backfills: ...

    def now(self) -> datetime:
        """Return the time of the catalog's clock, to the millisecond."""

    def audit(self, event: AuditEvent) -> None:
        """Append to the audit table."""


class Catalog(Protocol):
    """The catalog. OutOfResources where it is unreachable or stays locked."""

    def begin(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that only reads."""


class IncomingFile(Protocol):
    """An incoming file: temporary until `commit`, complete and durable after it."""

    @property
    def file(self) -> StoredFile:
        """Key, checksums and size of the bytes written so far."""

    def write(self, content: Buffer) -> None:
        """Append. OutOfResources where the disk refuses the write."""

    def open(self) -> BinaryIO:
        """Open the bytes written so far for reading, from the start."""

    def commit(self) -> StoredFile:
        """Fsync, rename into place over any existing file, fsync the folder. OutOfResources as `write`."""

    def discard(self) -> None:
        """Delete the temporary file; no effect after `commit`."""


class InstanceComparison(Protocol):
    """Tells whether a file of a known SOP Instance UID holds the stored instance.

    The same instance: equal stored values of the pixels, whatever the header; of a document equal elements other than those of
    patient and study.
    """

    def compare(self, stored: StoredFile, incoming: IncomingFile) -> InstanceDifference | None:
        """Return what differs; None where it is another instance, or it cannot be told. OutOfResources: not now."""

    def digest(self, file: StoredFile | IncomingFile) -> str:
        """Return the SHA-256, hex, of the stored values of the pixels, alike for every lossless encoding; "" where there is none.

        OutOfResources where it cannot be told now.
        """


class ImageStore(Protocol):
    """Durable files, named by their own SHA-256."""

    def open_incoming(self) -> IncomingFile:
        """Open a new incoming file. OutOfResources where the disk refuses the write."""

    def file_of(self, content: bytes) -> StoredFile:
        """Return the result of `write`, without writing."""

    def write(self, content: bytes) -> StoredFile:
        """Write, fsync, rename into place, fsync the folder. Idempotent. OutOfResources where the disk refuses the write."""

    def write_unclaimed(self, content: bytes, owner: str) -> StoredFile:
        """Write as `write` does. Until `mark_claimed` the file is listed as one that no row of the catalog names yet."""

    def mark_claimed(self, file: StoredFile, owner: str) -> None:
        """Take the file off that list: a row of its owner names it, or it is removed."""

    def list_unclaimed(self, *, older_than_seconds: float) -> list[tuple[StoredFile, str]]:
        """Return the unclaimed files that were written longer ago, each with its owner, a SOP Instance UID."""

    def read(self, file: StoredFile) -> bytes:
        """Return the content. PermanentError where the file is missing, or its size or checksum differs."""

    def exists(self, file: StoredFile) -> bool:
        """Tell whether the file is in place with the right size."""

    def remove(self, file: StoredFile) -> None:
        """Remove the file. No error where it is missing."""

    def free_bytes(self) -> int:
        """Return the free space of the store's file system, bytes."""


class DocumentReader(Protocol):
    """SR or KOS to labels."""

    def read(self, content: bytes) -> Document:
        """Return the document's labels, or the reason why there are none. Never raises, whatever the bytes."""


class Scorer(Protocol):
    """A loaded model version."""

    @property
    def version(self) -> ModelVersion: ...

    @property
    def input_transform(self) -> InputTransform:
        """Image -> model input. Both score the same."""

    def score_cached(self, instances: Sequence[StoredInstance]) -> Mapping[str, Scores]:
        """Return SOPInstanceUID -> float32 [14] of those instances whose activations are cached, computed without their pixels."""

    def score(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance] = ()) -> Scores:
        """Return float32 [N, 14] in 0..1 for N images of any size, or for their model inputs.

        With their `instances`, their activations are cached for later versions; a failure of the cache is not raised.
        """

    def thumbnails(self, images: Sequence[Image | ModelInput]) -> Sequence[bytes]:
        """Return the thumbnail of each image: uint8 [THUMBNAIL_SIDE^2], the mean grey value of each tile."""

    def uncached(self, instances: Sequence[StoredInstance]) -> Sequence[StoredInstance]:
        """Return those instances that are not in the activation cache, though there is room for them."""

    def cache_activations(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance]) -> None:
        """Cache the activations of N images without scoring them."""

    @property
    def cache_capacity(self) -> int:
        """The approximate capacity of the activation cache, in images; 0: no cache."""


class Scorers(Protocol):
    """Loads model versions."""

    def load(self, version: ModelVersion) -> Scorer:
        """Return the loaded version; the same object for the same version. NoWeights, WeightsRejected."""


StageCallback = Callable[[str, int, int], None]
"""Called between two steps of long work with the stage, its finished steps and their total. May wait, or raise to stop the work: no
part of it is committed then."""


class Candidate(Protocol):
    """A trained and measured version, before it is in the catalog."""

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """Comparisons with zero-shot, and with the serving version where that is another one."""

    def stage_files(self) -> AbstractContextManager[Callable[[int], ModelVersion]]:
        """Write the version's files to a temporary folder. The context's value publishes them under a version number, atomically,
        and returns the version's row. Unpublished files are deleted when the context ends. OutOfResources."""


class Trainer(Protocol):
    """Training set -> candidate."""

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> Candidate:
        """Train from the base weights of the serving version, and measure. The same training set gives the same weights.

        NoWeights, WeightsRejected; PermanentError where the readable images leave no finding to learn.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """Circuit breaker of an archive."""

    threshold: int = 3  # consecutive failures that open the circuit
    open_seconds: float = 30.0  # time for which the circuit stays open


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """The content of an SR."""

    report: Report
    study: Study
    version: ModelVersion
    predictions: Sequence[Prediction]  # [14] in the order of FINDINGS
    statement: StudyStatement  # what is told of the predictions
    evidence: Sequence[StoredInstance]  # scored images, in the study's order
    predecessor: Report | None = None  # report that this one supersedes


class ReportWriter(Protocol):
    """Report content -> SR file, and the files of its visible objects."""

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        """Return the pending report with its derived UIDs."""

    def write(self, content: ReportContent) -> bytes:
        """Return a DICOM file. ReportImpossible where the headers do not allow an SR."""

    def pending_visible(self, content: ReportContent) -> Sequence[VisibleObject]:
        """Return the pending visible objects that the configuration asks for, with their derived UIDs."""

    def write_visible(self, content: ReportContent, visible: VisibleObject, predecessor: VisibleObject | None) -> bytes:
        """Return a DICOM file. ReportImpossible as `write`. `predecessor`: the object that `visible` names as its own."""


class ReaderDocumentWriter(Protocol):
    """What a reader has said -> SR file."""

    def write_document(self, document: ReaderDocument, images: Sequence[StoredInstance]) -> bytes:
        """Return a DICOM file. `images`: the frontal images of the study. ReportImpossible as `ReportWriter.write`."""


class InstanceCounter(Protocol):
    """Counts the instances that an archive holds of a study."""

    @property
    def name(self) -> str: ...

    def count_instances(self, study_instance_uid: str, *, limit_seconds: float) -> int | None:
        """C-FIND NumberOfStudyRelatedInstances (PS3.4 C.6.2.1), within `limit_seconds`; None where the archive states no count.

        RefusedByArchive, ArchiveUnreachable.
        """


class Archive(InstanceCounter, Protocol):
    """The PACS."""

    def store(self, content: bytes) -> str:
        """C-STORE one DICOM file; return the status in words. RefusedByArchive, ArchiveBusy, ArchiveUnreachable."""

    def echo(self) -> None:
        """C-ECHO. ArchiveUnreachable."""
