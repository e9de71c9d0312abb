"""What the steps need of the outside, as Protocols. Adapters implement them; `tests/builders/fakes.py` too.

A `Transaction` is all or nothing: leaving its `with` block normally commits, an exception rolls back. All times are the
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
    ModelVersion,
    Prediction,
    Report,
    Scores,
    StoredFile,
    StoredInstance,
    Study,
    TrainingSet,
    VersionState,
)
from pipeline.ports.backfill import Backfills
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.jobs import Circuits, Jobs
from pipeline.ports.labels import Labels, Requests
from pipeline.ports.studies import Reports, ScoreRows, Studies

Buffer = bytes | bytearray | memoryview


class Versions(Protocol):
    """Model versions."""

    def serving(self) -> ModelVersion | None:
        """Return the version that serves, or None."""

    def find(self, number: int) -> ModelVersion | None:
        """Return the version, or None."""

    def all(self) -> list[ModelVersion]:
        """Return every version, oldest first."""

    def next_number(self) -> int:
        """Return the number that the next version will have."""

    def add(self, version: ModelVersion) -> None:
        """Insert a version in the state it carries."""

    def previously_serving(self) -> ModelVersion | None:
        """Return the retired version that served last, or None."""

    def put_state(self, number: int, state: VersionState, *, reason: str) -> None:
        """Write the state and reason of a version that does not serve."""

    def serve(self, number: int) -> None:
        """Make this version the serving one and retire the one that served."""


class Transaction(Protocol):
    """One unit of work."""

    @property
    def studies(self) -> Studies: ...
    @property
    def scores(self) -> ScoreRows: ...
    @property
    def reports(self) -> Reports: ...
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
    def backfills(self) -> Backfills: ...

    def now(self) -> datetime:
        """Return this moment by the catalog's clock, to the millisecond."""

    def audit(self, event: AuditEvent) -> None:
        """Append to the audit table."""


class Catalog(Protocol):
    """The catalog. OutOfResources when it cannot be reached or stays locked."""

    def begin(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that may write."""

    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction that only reads."""


class IncomingFile(Protocol):
    """A file on its way in: whole and durable once it is kept, and nothing before."""

    @property
    def file(self) -> StoredFile:
        """What has been written so far, as it would be kept."""

    def write(self, content: Buffer) -> None:
        """Write on. OutOfResources when the disk will not take it."""

    def open(self) -> BinaryIO:
        """Read what has been written so far, from the start."""

    def commit(self) -> StoredFile:
        """Fsync, rename into place, fsync the folder, whatever stood there. OutOfResources as above."""

    def discard(self) -> None:
        """Leave nothing behind, unless it was kept."""


class ImageStore(Protocol):
    """Durable files, named by their own SHA-256."""

    def open_incoming(self) -> IncomingFile:
        """Begin a file. OutOfResources when the disk will not take it."""

    def file_of(self, content: bytes) -> StoredFile:
        """Return what `write` would return, without writing."""

    def write(self, content: bytes) -> StoredFile:
        """Write, fsync, rename into place, fsync the folder. Idempotent. OutOfResources when the disk will not take it."""

    def read(self, file: StoredFile) -> bytes:
        """Return the content. Refused when the file is missing, or not what was written: its size or its checksum differs."""

    def exists(self, file: StoredFile) -> bool:
        """Say whether the file is in place with the right size."""

    def remove(self, file: StoredFile) -> None:
        """Remove the file; a missing one is not an error."""

    def free_bytes(self) -> int:
        """Return the free space of the store's file system, bytes."""


class DocumentReader(Protocol):
    """SR or KOS to labels."""

    def read(self, content: bytes) -> Document:
        """Return what the document says, or why nothing of it counts. Never raises, whatever the bytes are."""


class Scorer(Protocol):
    """A loaded model version."""

    @property
    def version(self) -> ModelVersion: ...

    @property
    def input_transform(self) -> InputTransform:
        """Image -> model input. Both score the same."""

    def score_cached(self, instances: Sequence[StoredInstance]) -> Mapping[str, Scores]:
        """Return SOPInstanceUID -> float32 [14] of those films that it can score by what was kept of them, without their pixels."""

    def score(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance] = ()) -> Scores:
        """Return float32 [N, 14] in 0..1 for N images of any size, or for their model inputs.

        Where it is told of which films they are, it keeps what a later version needs to score them; a failure of that is none here.
        """

    def uncached(self, instances: Sequence[StoredInstance]) -> Sequence[StoredInstance]:
        """Return those films of which nothing is kept though there is room for it."""

    def cache_activations(self, images: Sequence[Image | ModelInput], instances: Sequence[StoredInstance]) -> None:
        """Keep of N films with these images what `score` would."""

    @property
    def cache_capacity(self) -> int:
        """Of how many films something can be kept at a time, about; 0 where it keeps nothing."""


class Scorers(Protocol):
    """Where loaded versions come from."""

    def load(self, version: ModelVersion) -> Scorer:
        """Return the loaded version; the same object as long as the version stays. NoWeights, WeightsRejected."""


StageCallback = Callable[[str, int, int], None]
"""Hears what is under way, how much of it is done, and how much there is. May wait, or raise to stop: nothing is half done."""


class Candidate(Protocol):
    """A version that was learnt and measured, and that nobody knows of yet."""

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """With zero-shot, and with the serving version where that is another."""

    def stage_files(self) -> AbstractContextManager[Callable[[int], ModelVersion]]:
        """Write its files aside. What is given puts them in their place, whole, under a number and returns the version's row.

        Files that were not put in their place are gone when the context ends. OutOfResources.
        """


class Trainer(Protocol):
    """Labelled studies to a candidate."""

    def train(self, training_set: TrainingSet, on_progress: StageCallback) -> Candidate:
        """Learn from the base of the serving version and measure. Same course, same weights.

        NoWeights, WeightsRejected; PermanentError where the films that can be read leave nothing to learn.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitPolicy:
    """When to leave an archive alone: after `threshold` failures in a row, for `open_seconds`."""

    threshold: int = 3
    open_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """Everything an SR says. `evidence` are the scored images, first one first; `predictions` are in the order of FINDINGS."""

    report: Report
    study: Study
    version: ModelVersion
    predictions: Sequence[Prediction]
    evidence: Sequence[StoredInstance]
    predecessor: Report | None = None


class ReportWriter(Protocol):
    """Predictions to the bytes of an SR."""

    def pending_report(self, study_instance_uid: str, version: int, revision: int) -> Report:
        """Return the pending report with its derived UIDs."""

    def write(self, content: ReportContent) -> bytes:
        """Return a DICOM file. ReportImpossible where the headers do not allow one."""


class InstanceCounter(Protocol):
    """Who can tell how many instances a study has."""

    def count_instances(self, study_instance_uid: str) -> int | None:
        """C-FIND NumberOfStudyRelatedInstances (PS3.4 C.6.2.1); None where the archive cannot tell or be reached."""


class Archive(InstanceCounter, Protocol):
    """The PACS."""

    @property
    def name(self) -> str: ...

    def store(self, content: bytes) -> str:
        """C-STORE one DICOM file; return the status in words. RefusedByArchive, ArchiveBusy, ArchiveUnreachable."""

    def echo(self) -> None:
        """C-ECHO. ArchiveUnreachable."""
