"""The nouns: what a study, an image, a prediction, a report and a job are.

Frozen dataclasses and enums only. No behaviour beyond what a value knows of itself, no library but numpy.
Attributes that are DICOM elements carry the element's keyword (PS3.6) in snake case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The 14 findings of ChestX-ray14, in the order of its label table (Wang et al., CVPR 2017). Every score vector has this order."""

NO_FINDING = "No Finding"
"""What a reader writes who sees none of the 14: every one of them is absent."""

Scores = npt.NDArray[np.float32]
"""float32 [14] or [N, 14], each in 0..1, in the order of FINDINGS."""

Image = npt.NDArray[np.float32]
"""float32 [H, W] in 0..1, presentation polarity fixed: bone is bright."""


class StudyState(StrEnum):
    """Where a study stands on the fast line."""

    ARRIVING = "arriving"  # images may still come
    SETTLED = "settled"  # complete; a score job exists
    SCORED = "scored"  # predictions committed; a report job exists
    REPORTED = "reported"  # the archive has accepted the SR of the newest revision
    IGNORED = "ignored"  # nothing here to score; `reason` says why


class JobKind(StrEnum):
    """The steps that wait for a worker."""

    SCORE = "score"  # subject: StudyInstanceUID
    REPORT = "report"  # subject: StudyInstanceUID; payload: version, revision
    SEND = "send"  # subject: SOPInstanceUID of the report
    LABEL = "label"  # subject: SOPInstanceUID of a document that came in
    LEARN = "learn"  # subject: `learn.ALL_LABELS`


class JobState(StrEnum):
    """A failed try goes back to WAITING with its error and is due later."""

    WAITING = "waiting"
    RUNNING = "running"  # leased: lease_token and lease_until are set
    DONE = "done"
    QUARANTINED = "quarantined"  # will not be tried again until a person says so


class VersionState(StrEnum):
    """The life of a ModelVersion."""

    CANDIDATE = "candidate"
    SERVING = "serving"  # at most one
    RETIRED = "retired"
    REJECTED = "rejected"  # `reason` says why


class ReportState(StrEnum):
    """The life of one SR instance."""

    PENDING = "pending"  # row and UID exist, bytes do not yet
    BUILT = "built"  # bytes are in the image store
    SENT = "sent"  # the archive answered Success
    REFUSED = "refused"  # the archive refused it for good; `status` says how


class Decision(StrEnum):
    """What the report says of a finding (PS3.16 CID 240)."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


class LabelState(StrEnum):
    """What a reader says of a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the catalog keeps of one instance's data set. Absent elements are '' or None. No name, no birth date."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    accession_number: str = ""
    study_date: str = ""  # DA as received, YYYYMMDD
    study_time: str = ""  # TM as received
    study_description: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part_examined: str = ""
    protocol_name: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    instance_number: int | None = None
    view_position: str = ""
    view_code: str = ""  # first ViewCodeSequence item, CodeValue
    view_code_meaning: str = ""
    anatomic_region_meaning: str = ""  # first AnatomicRegionSequence item, CodeMeaning
    image_type: tuple[str, ...] = ()
    presentation_intent_type: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    samples_per_pixel: int | None = None
    has_pixels: bool = False
    conversion_type: str = ""

    @property
    def patient_key(self) -> str:
        """Who this is, for grouping. Without a PatientID every study is its own patient: strangers must never merge."""
        if self.patient_id:
            return f"{self.patient_id}\\{self.issuer_of_patient_id}"
        return f"study:{self.study_instance_uid}"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the image store: `key` is its path below the store's root, `sha256` that of the whole file.

    `xxh3`: its XXH3-128, by which whoever reads it sees damage in a thirtieth of the time; "" where nobody has noted it.
    """

    key: str
    sha256: str
    size: int
    xxh3: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An Instance of the catalog: its header, its file, and whether it is one of our own reports."""

    header: Header
    file: StoredFile
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent something: the peer's AE title and address, and the AE title it called."""

    ae_title: str
    address: str
    called_ae_title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One examination as the catalog knows it."""

    study_instance_uid: str
    state: StudyState
    reason: str = ""
    revision: int = 0  # grows with each set of predictions; the report of a revision names its predecessor
    instances: int = 0
    received_at: datetime
    last_received_at: datetime
    accession_number: str = ""
    study_date: str = ""
    patient_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """Immutable weights and how they came to be. `number` is its identity; exactly one version serves.

    `card` is JSON-able: architecture, weights (name, sha256), preprocessing, prompts, recipe, measures, library versions.
    `thresholds` maps finding -> probability at or above which it is present. `band` is the half-width below the threshold
    and above it within which it is undetermined.
    """

    number: int
    state: VersionState
    name: str
    base: str
    weights_sha256: str
    device_uid: str
    notice: str = ""  # "UNTRAINED", "demo model, phantoms only": shown wherever a result of this version shows
    calibrated: bool = False
    label_fingerprint: str = ""
    thresholds: dict[str, float] = field(default_factory=dict)
    undetermined_margin: float = 0.0
    reason: str = ""
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Probability (or, of an uncalibrated version, certainty) of one finding in one study."""

    finding: str
    probability: float
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One reader's statement on one finding in one study. Never changed; a later one may revoke it or speak in its place."""

    id: int = 0  # given by the catalog, growing; 0 before that
    study_instance_uid: str
    finding: str
    state: LabelState | None  # None: a withdrawal, which revokes and says nothing itself
    reader: str
    source: str  # "csv", "cli", "sr", "kos", ...: how it came in
    stated_at: datetime  # when the reader said it, not when the catalog heard of it
    selection_reason: str = ""  # why this study was put before the reader, in the worklist's words; "": nobody asked
    selection_probability: float | None = None  # with which the worklist chose it, above 0 up to 1
    document: str = ""  # SOPInstanceUID of the SR or KOS that says it
    revokes: int | None = None  # id of the earlier statement that no longer holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatement:
    """What one reader says of one study at one time: a row of a table, or a document. Findings not mentioned stay unknown."""

    findings: Mapping[str, LabelState]
    reader: str
    source: str
    study_instance_uid: str = ""  # a table may name the study by its accession number instead
    accession_number: str = ""
    stated_at: datetime | None = None  # None: when the catalog hears of it
    selection_reason: str = ""
    selection_probability: float | None = None
    document: str = ""
    row: int = 0  # of a table, counted as a spreadsheet does


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What an SR or KOS of the archive gives as labels: its readings, or the reason in words why there are none."""

    readings: tuple[ReaderStatement, ...] = ()
    replaces: tuple[str, ...] = ()  # SOPInstanceUIDs of the documents that this one is a later version of
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A study that the worklist put before the readers: why, and how likely it was to be chosen. Once a study, never changed."""

    study_instance_uid: str
    selection_reason: str  # the kind of reason, a word of `selection.SelectionReason`
    finding: str = ""  # that a positive is looked for of, or that opinions differ on; "": none in particular
    reason: str = ""  # the reason in words
    selection_probability: float  # above 0 up to 1
    version: int  # whose predictions it was chosen by
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One labelled study as the trainer gets it: whose it is, one frontal film, and what is known of each finding.

    `targets`: 14 times 1 (present), 0 (absent) or -1 (unknown, or not to be learnt), in the order of FINDINGS.
    """

    study_instance_uid: str
    patient_key: str
    instance: StoredInstance
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """All that a round of learning rests on. `lessons` are in order of StudyInstanceUID; `findings` have enough of both kinds.

    `background`: films of the archive, whose labels, if any, are not looked at. `monitored`: labelled studies that were drawn by
    lot to measure with, of patients of whom nothing is in `lessons`.
    """

    examples: tuple[TrainingExample, ...]
    findings: tuple[str, ...]
    unlabelled_instances: tuple[StoredInstance, ...]
    serving: ModelVersion
    label_fingerprint: str
    newest_label_id: int = 0  # id of the last statement that was looked at
    monitoring_examples: tuple[TrainingExample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate and another version on the same cases, neither of which had seen the patients.

    `monitoring`: the cases are those of the monitoring sample, drawn by lot; else those that were learnt from, with each patient
    held out.

    `candidate` and `other` are mean AUCs over the findings; NaN where undefined. `lower` and `upper` bound their difference at
    95 % over resamples of patients, `better` is the share (0..1) of resamples in which the candidate is not worse. `worse`:
    findings whose whole interval lies below 0.
    """

    against: str
    cases: int
    patients: int
    candidate: float
    other: float
    lower: float
    upper: float
    better: float
    worse: tuple[str, ...] = ()
    monitoring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One SR instance sent or to be sent. Its UIDs are derived, so building it again gives the same object."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    version: int
    revision: int
    state: ReportState
    file: StoredFile | None = None
    sop_class_uid: str = ""
    predecessor: str | None = None  # SOPInstanceUID of the report that this one follows
    status: str = ""  # last word of the archive


ARRIVAL_PRIORITY = 100
"""Priority of a job that somebody waits for. What can wait has a higher number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step waiting for, or in the hands of, a worker. `due_at`: since when, or when, it may be done."""

    id: int
    kind: JobKind
    subject: str
    due_at: datetime
    payload: dict[str, Any] = field(default_factory=dict)
    state: JobState = JobState.WAITING
    attempts: int = 0
    lease_token: str = ""
    error: str = ""
    priority: int = ARRIVAL_PRIORITY


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something a person may ask about later. `detail` never holds a patient's name, id or birth date."""

    action: str
    outcome: str  # "done" | "refused" | "failed"
    subject: str = ""
    detail: str = ""
    source: str = ""


class Receipt(StrEnum):
    """What became of a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the very same file again: Success, nothing written
    LATE = "late"  # stored, and its settled study is open again
    OWN_REPORT = "own_report"  # one of our SRs coming back: catalogued, never scored
