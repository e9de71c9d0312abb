"""standing: how the daemon stands, in figures that name no patient and no reader. What the metrics tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.domain import JobKind, JobState, LabelState, ReportState, StudyState, VersionState


@dataclass(frozen=True, slots=True)
class LearningStage:
    """What a round of learning is at: `done` of `total`, and the seconds that this stage will still take; None: not known yet."""

    name: str
    done: int
    total: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class LearningRound:
    """A round of learning that came to its end. `result` is a `learn.LearnResult`."""

    result: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class LearningGain:
    """By how much the version that was learnt last ranks better than another, in mean AUC; `lower`, `upper`: 95 %.

    `against`: "zero-shot", or "serving" for the version that served then. `sample`: "labels", or "monitoring", the random one.
    """

    against: str
    sample: str
    gain: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillFigures:
    """What backfills from one kind of source have done. From which sources is not told: the path of a folder may name a patient.

    A parcel is a study of an archive, or some files of a folder; the last word on each counts.
    """

    days: int = 0  # of which there is no more to come
    done: int = 0  # parcels that were taken in
    failed: int = 0  # parcels that cannot be had
    taken: int = 0  # instances that came with them
    refused: int = 0  # instances
    bytes: int = 0
    coming: int = 0  # studies of which more is to come
    fetched: int = 0  # studies that have come
    last_at: datetime | None = None  # when the last word on a parcel was said

    def __add__(self, other: BackfillFigures) -> BackfillFigures:
        ends = [end for end in (self.last_at, other.last_at) if end is not None]
        counts = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "last_at"}
        return BackfillFigures(**counts, last_at=max(ends, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFigures:
    """What changes by the second. Jobs that are done are forgotten after a while, so they are not counted."""

    jobs: Mapping[tuple[JobKind, JobState], int]
    oldest_due_seconds: Mapping[JobKind, float]  # of jobs that do not stand behind arrivals on purpose
    quarantined: Mapping[tuple[JobKind, str], int]  # kind, reason
    open_circuits: Collection[str]  # archives that are left alone after failures
    versions: Mapping[VersionState, int]
    serving: int | None
    serving_since: datetime | None
    notice: str  # of the serving version
    stage: LearningStage | None  # of a round of learning that runs
    last_round: LearningRound | None
    gains: Collection[LearningGain]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFigures:
    """What has come together over the years; counting it takes the longer the more there is."""

    studies: Mapping[StudyState, int]
    reports: Mapping[ReportState, int]
    instances: int
    statements: Mapping[tuple[str, LabelState], int]  # of readers: finding, state; also those that were revoked since
    open_requests: int  # studies that the worklist asked for and nobody has read yet
    rescoring: tuple[int, int] | None  # reported studies, and how many of them the serving version has scored
    backfills: Mapping[str, BackfillFigures]  # by the kind of source
    backfilled_unscored: int  # studies that a backfill brought and that wait for their scores
