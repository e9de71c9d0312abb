"""figures: the state of the daemon in numbers, for metrics. No figure names a patient or a reader."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.domain import Decision, DeliveryState, JobKind, JobState, LabelState, ReportState, StudyState, VersionState


@dataclass(frozen=True, slots=True)
class LearningStage:
    """The current stage of a running round of learning."""

    name: str
    done: int  # units of work done, of `total`
    total: int
    seconds_left: float | None  # estimate for this stage; None: not known yet


@dataclass(frozen=True, slots=True)
class LearningRound:
    """A finished round of learning."""

    result: str  # a `learn.LearnResult`
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class LearningGain:
    """The gain of the newest trained version over another version, in mean AUC."""

    against: str  # "zero-shot", or "serving": the version that served at the time
    sample: str  # "labels": the training cases, held out; "monitoring": the random monitoring sample
    gain: float
    lower: float  # bounds of the 95 % interval
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillFigures:
    """Totals of backfills from one kind of source. Sources are not named: the path of a folder may name a patient.

    A unit is a study of an archive or a few files of a folder; its last result counts.
    """

    days: int = 0  # days without anything left to import
    done: int = 0  # imported units
    failed: int = 0  # units that failed permanently
    stored: int = 0  # instances stored with these units
    refused: int = 0  # instances refused
    bytes: int = 0  # of stored instances
    pending: int = 0  # studies of which more instances are expected
    fetched: int = 0  # studies imported completely
    last_at: datetime | None = None  # time of the newest unit result

    def __add__(self, other: BackfillFigures) -> BackfillFigures:
        ends = [end for end in (self.last_at, other.last_at) if end is not None]
        counts = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "last_at"}
        return BackfillFigures(**counts, last_at=max(ends, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """Figures that change by the second. Done jobs are not counted, because they are purged after a while."""

    jobs: Mapping[tuple[JobKind, JobState], int]  # without DONE
    oldest_due_seconds: Mapping[JobKind, float]  # age of the oldest due job with a priority below priorities.LEARN
    quarantined: Mapping[tuple[JobKind, str], int]  # by kind of job and kind of error
    open_circuits: Collection[str]  # names of the archives
    versions: Mapping[VersionState, int]
    serving: int | None  # number of the serving version
    serving_since: datetime | None
    notice: str  # of the serving version, see ModelVersion.notice
    reference: int | None  # number of the serving version's reference distribution
    stops: Collection[str]  # findings whose reporting is stopped; "": all of them
    stage: LearningStage | None  # None: no round of learning runs
    last_round: LearningRound | None
    gains: Collection[LearningGain]  # of the newest trained version


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFigures:
    """Totals over the whole archive. The cost of counting grows with the archive."""

    studies: Mapping[StudyState, int]
    ignored: Mapping[str, int]  # ignored studies by reason; a study with several reasons counts for each
    reports: Mapping[ReportState, int]
    deliveries: Mapping[DeliveryState, int]
    decisions: Mapping[tuple[str, Decision], int]  # by finding, of the newest studies that the serving version has scored
    instances: int
    labels: Mapping[tuple[str, LabelState], int]  # labels by finding and state, including revoked ones
    open_requests: int  # studies that the worklist asked for and that have no label yet
    rescoring: tuple[int, int] | None  # reported studies, and those of them that the serving version has scored
    backfills: Mapping[str, BackfillFigures]  # by kind of source
    backfilled_unscored: int  # backfilled studies that wait for their scores
