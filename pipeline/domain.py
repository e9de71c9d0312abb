"""The nouns: study, instance, image, label, model version, prediction, report, job.

Frozen dataclasses and enums without behaviour, except properties of a single value. No library but numpy.
Attributes that are DICOM elements carry the element's keyword (PS3.6) in snake case. Times are aware datetimes in UTC by the
catalog's clock, unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import priorities

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
"""A reader's entry for a study without any of the 14 findings: each of them is absent."""

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""Values of training targets. UNKNOWN (not labelled, uncertain, or not to be learnt) takes part in no loss and no measure."""

Scores = npt.NDArray[np.float32]
"""float32 [14] or [N, 14], each in 0..1, in the order of FINDINGS."""

Image = npt.NDArray[np.float32]
"""float32 [H, W] in 0..1, presentation polarity fixed: bone is bright."""


class StudyState(StrEnum):
    """Position of a study on the fast line."""

    ARRIVING = "arriving"  # more instances may arrive
    SETTLED = "settled"  # complete; a score job exists
    SCORED = "scored"  # predictions committed; a report job exists, unless the study is not reported
    REPORTED = "reported"  # the archive has accepted the SR of the newest revision, and answered to each of its visible objects
    IGNORED = "ignored"  # no image to score; `Study.reason` says why


class InstanceState(StrEnum):
    """Whether the image store holds the file of an instance."""

    STORED = "stored"
    DELETING = "deleting"  # retention is deleting the file: it may exist or not
    DELETED = "deleted"  # by retention; the archive has the instance


class ConflictResolution(StrEnum):
    """Decision of a person on a conflict."""

    STORED = "stored"  # the stored file stays, the received one is deleted
    RECEIVED = "received"  # the received file takes the place of the stored one


class JobKind(StrEnum):
    """Steps of the pipeline that a worker runs from the queue."""

    SCORE = "score"  # subject: StudyInstanceUID
    REPORT = "report"  # subject: StudyInstanceUID; payload: version, revision; or as SEND of a reader's document
    SEND = "send"  # subject: SOPInstanceUID of the report, of a visible object, or of a reader's document
    LABEL = "label"  # subject: SOPInstanceUID of a received SR or KOS
    LEARN = "learn"  # subject: `learn.ALL_LABELS`


class JobState(StrEnum):
    """State of a job. A failed attempt returns to WAITING with its error, due after a back-off."""

    WAITING = "waiting"
    RUNNING = "running"  # leased: lease_token and lease_until are set
    DONE = "done"
    QUARANTINED = "quarantined"  # not tried again until a person retries it


class VersionState(StrEnum):
    """State of a ModelVersion."""

    CANDIDATE = "candidate"
    SERVING = "serving"  # at most one version
    RETIRED = "retired"  # has served
    REJECTED = "rejected"  # `ModelVersion.reason` says why


class ReportState(StrEnum):
    """State of one SR instance, or of one visible object."""

    PENDING = "pending"  # row and UIDs exist, the file does not
    BUILT = "built"  # the file is in the image store
    SENT = "sent"  # the archive has accepted the report: Success, a warning or a duplicate
    REFUSED = "refused"  # the archive refused it permanently; `Report.status` holds the answer


class DeliveryMode(StrEnum):
    """`report.deliver` of the configuration: whether reports leave."""

    NONE = "none"  # studies are scored, and reports are noted, not built
    SHADOW = "shadow"  # reports are built and kept, and nothing leaves
    ALL = "all"  # reports are sent, except those of the silent share


class WithheldReason(StrEnum):
    """Why a built report is kept and not sent."""

    SHADOW = "shadow"  # `report.deliver` was not "all"
    SILENT = "silent share"  # the study belongs to the silent share, drawn by patient


class DeliveryState(StrEnum):
    """State of one object on its way to one destination."""

    WAITING = "waiting"  # to be sent, or to be sent again
    SENT = "sent"  # the destination has accepted it: Success, a warning or a duplicate
    COMMITTED = "committed"  # the destination has taken over the safekeeping: storage commitment, PS3.4 annex J
    VERIFIED = "verified"  # the destination was asked for it later, and holds it
    REFUSED = "refused"  # for good; `status` holds the reason


class VisibleKind(StrEnum):
    """Kind of a visible object: what a viewer shows beside the SR."""

    TEXT = "text"  # Basic Text SR: statement, summary, list of findings
    CARD = "card"  # Secondary Capture: the film small, the findings and the statement in the pixels


class Decision(StrEnum):
    """Statement of a report on a finding (PS3.16 CID 240)."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"
    NOT_ASSESSED = "not assessed"  # no statement: `Prediction.reason` says why


class Scale(StrEnum):
    """Meaning of a version's score of a finding."""

    PROBABILITY = "probability"  # learnt from enough positive studies: the score is a calibrated probability
    BAND = "band"  # learnt from few positive studies: the score is told as a likelihood band, never as a percentage
    RANK = "rank"  # not learnt (zero-shot): only the rank among the hospital's own studies has a meaning


class NotAssessedReason(StrEnum):
    """Why a finding is not assessed."""

    NO_REFERENCE = "no reference"  # too few studies scored for a reference distribution
    STOPPED = "stopped"  # reporting is stopped for this finding, or for all
    AGE = "age"  # the patient's age lies outside the scope
    AGE_UNKNOWN = "age unknown"  # the scope has an age and the header states none
    WITHDRAWN = "withdrawn"  # the report that told it was recalled


class LabelState(StrEnum):
    """Statement of a reader on a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


class LabelExposure(StrEnum):
    """Whether a reader had seen the model's result on the study when the reader made a statement."""

    NONE = "none"  # no report of the study had been delivered, and the desk had not shown the result
    POSSIBLE = "possible"  # a report had been delivered; nobody knows whether the reader saw it
    SEEN = "seen"  # the desk had shown the result to this reader


class UserRole(StrEnum):
    """Permissions of a user of the desk."""

    VIEWER = "viewer"  # reads every page, without the patient's identity
    READER = "reader"  # labels, and sees the patient's identity
    OPERATOR = "operator"  # retries jobs, sends again, promotes versions
    ADMINISTRATOR = "administrator"  # everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The elements of one instance's data set that the catalog keeps. Absent elements are '' or None. No name, no birth date."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_sex: str = ""
    patient_age: str = ""  # AS: as stated, else from birth date and study date
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
    anatomic_region_code: str = ""  # first AnatomicRegionSequence item, CodeValue
    anatomic_region_meaning: str = ""  # first AnatomicRegionSequence item, CodeMeaning
    image_type: tuple[str, ...] = ()
    presentation_intent_type: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    samples_per_pixel: int | None = None
    has_pixels: bool = False  # the data set has pixel data, or a damaged element may hide them
    conversion_type: str = ""

    @property
    def patient_key(self) -> str:
        """The patient's identity, for grouping. Without a PatientID every study is its own patient: strangers must never merge."""
        if self.patient_id:
            return f"{self.patient_id}\\{self.issuer_of_patient_id}"
        return f"study:{self.study_instance_uid}"


@dataclass(frozen=True, slots=True)
class PixelSpacing:
    """Distance of the centres of two pixels, mm."""

    row: float  # of one row to the next
    column: float  # of one column to the next
    at_detector: bool  # at the front of the detector: a structure of the patient is smaller


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the image store."""

    key: str  # path below the store's root
    sha256: str  # of the whole file, hex
    size: int  # bytes
    xxh3: str = field(default="", compare=False)  # XXH3-128, hex: verifies a read in 1/30 of the time of SHA-256; "": not recorded


@dataclass(frozen=True, slots=True)
class Sender:
    """The origin of an instance."""

    ae_title: str  # of the peer
    address: str  # of the peer: host, folder or URL
    called_ae_title: str  # AE title that the peer called


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An Instance of the catalog: its header and its file."""

    header: Header
    file: StoredFile
    received_at: datetime
    state: InstanceState = InstanceState.STORED
    revision: int = 0  # number of files that took the place of an earlier one
    pixels_sha256: str = ""  # digest of the content of a deleted file, see `ports.services.InstanceComparison`; "": none


@dataclass(frozen=True, slots=True)
class InstanceDifference:
    """The difference of two files that hold the same instance."""

    text: str  # in words, without a value of an element
    is_encoding_only: bool = False  # equal elements: another transfer syntax or another encoding of the same content


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A file that takes the place of the stored file of the same instance."""

    header: Header
    file: StoredFile
    sender: Sender
    difference: str  # in words, without a value of an element


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A received file beside the stored file of another instance with the same SOP Instance UID, until a person decides."""

    number: int  # identity
    sop_instance_uid: str
    study_instance_uid: str  # of the stored instance
    header: Header  # of the received file
    file: StoredFile  # the received file
    sender: Sender
    received_at: datetime
    resolution: ConflictResolution | None = None  # None: open


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One examination in the catalog."""

    study_instance_uid: str
    state: StudyState
    reason: str = ""  # of IGNORED, in words
    revision: int = 0  # grows by 1 with each set of predictions; the report of a revision names its predecessor
    instances: int = 0  # number of stored instances
    received_at: datetime  # first instance
    last_received_at: datetime  # newest instance
    accession_number: str = ""
    study_date: str = ""  # DA as received, YYYYMMDD
    patient_key: str = ""  # see Header.patient_key
    silent: bool | None = None  # it belongs to the silent share, whose reports are never sent; None: not drawn yet


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """Immutable weights and their origin."""

    number: int  # identity, counted from 1
    state: VersionState
    name: str
    base: str  # name of the base encoder's weights
    weights_sha256: str  # of the base encoder's weights, hex
    device_uid: str  # Device UID of the version in reports
    notice: str = ""  # "UNTRAINED", "demo model, phantoms only": shown wherever a result of this version is shown
    scales: dict[str, Scale] = field(default_factory=dict)  # finding -> meaning of its score; a missing finding: RANK
    label_fingerprint: str = ""  # `rules.labels_fingerprint` of the labels it was trained on; "": none
    thresholds: dict[str, float] = field(default_factory=dict)  # finding -> its operating point, of PROBABILITY and BAND
    undetermined_margin: float = 0.0  # log-odds below the operating point down to which a finding is undetermined
    reason: str = ""  # of the state, in words
    card: dict[str, Any] = field(default_factory=dict)  # JSON: architecture, weights, preprocessing, prompts, recipe, measures, ...

    @property
    def calibrated(self) -> bool:
        """Whether every score is a probability."""
        return len(self.scales) == len(FINDINGS) and set(self.scales.values()) == {Scale.PROBABILITY}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The result of one finding in one study."""

    finding: str
    score: float  # 0..1; `scale` says what it means
    decision: Decision
    scale: Scale = Scale.RANK
    likelihood: float | None = None  # 0..1: the probability, or that of the prior and the rank; None: not assessed
    percentile: float | None = None  # 0..1: share of the reference studies below, of RANK; None: another scale, or not assessed
    excess: float | None = None  # log-odds of the likelihood above its own operating point; None: not assessed
    reference: int | None = None  # number of the ReferenceDistribution, of RANK
    reason: NotAssessedReason | None = None  # of NOT_ASSESSED


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceDistribution:
    """Zero-shot scores of the hospital's own studies, frozen: what a rank refers to. Belongs to one version, never changes.

    Prior and call rate are frozen with it, so a prediction that names its distribution says all that decided it.
    """

    number: int  # identity, counted from 1
    version: int  # number of the ModelVersion that scored the studies
    studies: int  # number of studies
    made_at: datetime
    scores: Mapping[str, Scores]  # view ("" is all studies, "AP", "PA") -> float32 [n, 14], each column ascending
    priors: Mapping[str, float]  # finding -> stated prevalence
    call_rates: Mapping[str, float]  # finding -> largest share of studies in which it may be called
    separation: float  # assumed distance of present and absent studies, in standard deviations of the normal score


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One reader's statement on one finding in one study. Immutable; a later label may revoke or supersede it."""

    id: int = 0  # ascending, assigned by the catalog; 0: not stored yet
    study_instance_uid: str
    finding: str
    state: LabelState | None  # None: a withdrawal, which only revokes
    reader: str
    source: str  # route into the catalog: "csv", "cli", "sr", "kos", ...
    stated_at: datetime  # time of the reader's statement, not of its import
    selection_reason: str = ""  # an `acquisition.SelectionReason`, or a reason given with the label; "": not requested
    selection_probability: float | None = None  # probability with which the worklist chose the study, in (0, 1]
    document: str = ""  # SOPInstanceUID of the SR or KOS that contains the statement
    revokes: int | None = None  # id of the revoked label
    exposure: LabelExposure = LabelExposure.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatement:
    """One reader's statement on one study at one time: a row of a table, or a document."""

    findings: Mapping[str, LabelState]  # findings without an entry stay unknown
    reader: str
    source: str  # as Label.source
    study_instance_uid: str = ""  # "": the study is named by its accession number
    accession_number: str = ""
    stated_at: datetime | None = None  # None: the time of the import
    selection_reason: str = ""  # as Label.selection_reason
    selection_probability: float | None = None  # as Label.selection_probability
    document: str = ""  # as Label.document
    row: int = 0  # row of the table, counted as a spreadsheet does: the header is row 1
    exposure: LabelExposure | None = None  # None: POSSIBLE where a report had been delivered before, else NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The labels of one SR or KOS."""

    readings: tuple[ReaderStatement, ...] = ()
    replaces: tuple[str, ...] = ()  # SOPInstanceUIDs of earlier versions of this document
    reason: str = ""  # why the document gives no labels, in words; "": it gives labels
    unclear: int = 0  # findings that the document mentions and does not state clearly: they get no label


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person who logs in at the desk. The name is the reader of the labels that the person gives there."""

    name: str
    role: UserRole
    password_hash: str  # argon2id, in PHC string format; the password is stored nowhere
    session_key: str  # random; sessions of another key are over
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A reader's unfinished statement on one study at the desk: kept with each key, and gone with the reading."""

    study_instance_uid: str
    reader: str
    states: Mapping[str, LabelState] = field(default_factory=dict)  # by finding; others are not stated
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # place of a finding: column, row of the film, pixels
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskReading:
    """A finished statement of a reader at the desk, or a skipped study. Immutable. Its states are labels, too."""

    study_instance_uid: str
    reader: str
    idempotency_key: str  # random, of the browser: the same reading sent twice is stored once
    skip_reason: str = ""  # "": labelled
    states: Mapping[str, LabelState] = field(default_factory=dict)
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # as Draft.points
    comment: str = ""
    exposure: LabelExposure = LabelExposure.NONE
    is_repeat: bool = False  # the film came to its reader a second time: it measures the reader, and its states are no labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderDocument:
    """What a reader has said at the desk, on its way to the archive as an SR of a person."""

    sop_instance_uid: str
    study_instance_uid: str
    reader: str
    states: Mapping[str, LabelState]
    points: Mapping[str, tuple[float, float]]  # as Draft.points
    comment: str
    stated_at: datetime
    state: ReportState
    file: StoredFile | None = None
    predecessor: str | None = None  # SOPInstanceUID of the reader's document before, on the same study


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A study that the worklist asks readers to label. At most one request per study, immutable."""

    study_instance_uid: str
    selection_reason: str  # an `acquisition.SelectionReason`
    finding: str = ""  # finding searched for, or in dispute between two versions; "": none in particular
    reason: str = ""  # the reason for readers, in words
    selection_probability: float  # probability with which the worklist chose the study, in (0, 1]
    version: int  # number of the version whose predictions the choice used
    requested_at: datetime  # time of the request


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One labelled study of a training set."""

    study_instance_uid: str
    patient_key: str  # cross-validation and comparisons split by patient
    instance: StoredInstance  # the study's first frontal image
    targets: tuple[int, ...]  # [14] PRESENT, ABSENT or UNKNOWN, in the order of FINDINGS
    selection_probability: float | None = None  # as Label.selection_probability, of the study's first label
    votes: tuple[int, ...] = ()  # [14] readers that agree with a target less those that disagree; (): one reader
    weights: tuple[float, ...] = ()  # [14] of each target in training, above 0 and up to 1; (): 1
    measured: tuple[int, ...] = ()  # [14] the targets by labels of exposure NONE alone, to measure versions on; (): `targets`

    @property
    def measured_targets(self) -> tuple[int, ...]:
        """[14]: the targets that versions are measured on."""
        return self.measured or self.targets


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The complete input of a round of learning."""

    examples: tuple[TrainingExample, ...]  # in order of StudyInstanceUID
    findings: tuple[str, ...]  # findings with enough positives and negatives to be learnt
    unlabelled_instances: tuple[StoredInstance, ...]  # images of the archive, used without labels
    serving: ModelVersion  # the version that serves when the round begins
    label_fingerprint: str  # `rules.labels_fingerprint` of `examples`
    newest_label_id: int = 0  # highest Label.id in the catalog when the set was built
    required_confidence: float = 0.9  # smallest Comparison.not_inferior with which the gate promotes
    monitoring_examples: tuple[TrainingExample, ...] = ()  # random sample for measuring; none of its patients is in `examples`


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate against another version on the same cases, of patients that neither version was trained on."""

    against: str  # the other version in words, such as "zero-shot"
    cases: int
    patients: int
    candidate: float  # mean AUC over the findings; NaN: undefined
    other: float  # mean AUC of the other version; NaN: undefined
    lower: float  # lower bound of the 95 % interval of candidate - other, bootstrap over patients
    upper: float  # upper bound of that interval
    better: float  # share (0..1) of bootstrap samples in which the candidate is not worse
    not_inferior: float  # share (0..1) of bootstrap samples in which the candidate is worse by less than the gate's margin
    standard_error: float = 0.0  # of candidate - other
    worse: tuple[str, ...] = ()  # findings whose whole 95 % interval lies below 0
    new: tuple[str, ...] = ()  # findings that only the candidate has learnt: left out of the means, judged by themselves
    worse_groups: tuple[str, ...] = ()  # groups of patients in which the candidate is certainly worse, such as "sex F"
    monitoring: bool = False  # True: cases of the random monitoring sample; False: training cases, each patient held out


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One SR instance. Its UIDs derive from study, version and revision, so building it again gives the same object."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    version: int  # number of the version whose predictions it reports
    revision: int  # revision of the study that it reports
    state: ReportState
    file: StoredFile | None = None  # None: PENDING
    sop_class_uid: str = ""
    predecessor: str | None = None  # SOPInstanceUID of the report that this one supersedes
    status: str = ""  # last answer of the archive
    withdrawal: str = ""  # why the study's reports are withdrawn: this one says so; "": it tells findings
    withheld: WithheldReason | None = None  # why it is not sent; None: it is, or will be

    @property
    def reaches_archive(self) -> bool:
        """Whether the archive holds it or is about to receive it."""
        return self.state in (ReportState.BUILT, ReportState.SENT) and self.withheld is None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleObject:
    """One object that accompanies the SR of a report and that viewers show. Its UIDs derive as those of the report do."""

    sop_instance_uid: str
    series_instance_uid: str
    report: str  # SOPInstanceUID of the report that it accompanies
    kind: VisibleKind
    state: ReportState
    file: StoredFile | None = None  # None: PENDING
    sop_class_uid: str = ""
    predecessor: str | None = None  # SOPInstanceUID of the object of the same kind that this one supersedes
    status: str = ""  # last answer of the archive

    @property
    def reaches_archive(self) -> bool:
        """Whether the archive holds it or is about to receive it, where its report does."""
        return self.state in (ReportState.BUILT, ReportState.SENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One object on its way to one destination."""

    id: int  # in the order of the first sending
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    destination: str  # AE title
    state: DeliveryState
    status: str = ""  # last answer of the destination, or what was found
    sendings: int = 0  # since the object was last proven to be there
    sent_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step that waits for a worker, or that a worker runs."""

    id: int
    kind: JobKind
    subject: str  # identity of the step's object, see JobKind
    due_at: datetime  # earliest time of the next attempt
    payload: dict[str, Any] = field(default_factory=dict)  # JSON: the step's arguments and notes
    state: JobState = JobState.WAITING
    attempts: int = 0  # attempts begun so far
    lease_token: str = ""  # random, new with each claim; "": not claimed
    error: str = ""  # of the last attempt
    priority: int = priorities.ARRIVED  # see `priorities`; lower numbers run first


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry of the audit table."""

    action: str  # "receive", "score", "label", "promote", ...
    outcome: str  # "done" | "refused" | "failed"
    subject: str = ""  # a UID or "version N"; "": none in particular
    detail: str = ""  # in words; never a patient's name, id or birth date
    source: str = ""  # the user, peer or folder that caused the action
    patient: str = ""  # pseudonym of the subject's patient; "": found when the event is linked to the chain


class Receipt(StrEnum):
    """Result of receiving an instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the identical file again: Success, nothing written
    SAME_INSTANCE = "same_instance"  # the stored instance in another encoding: Success, the first file stays
    REVISED = "revised"  # the stored instance with another header: this file takes the place of the stored one
    CONFLICT = "conflict"  # another instance under the same SOP Instance UID: kept beside the stored one for a person
    LATE = "late"  # stored, and its study is ARRIVING again
    OWN_REPORT = "own_report"  # an SR or a visible object written by this software: catalogued, never scored
