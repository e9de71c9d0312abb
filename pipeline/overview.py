"""overview: one study, and the daemon, on one screen: for the study page and `radclipd show`, for `radclipd status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf, sqrt
from typing import Any

from pipeline.domain import FINDINGS, Decision, JobKind, JobState, StudyState
from pipeline.errors import PermanentError
from pipeline.figures import ArchiveFigures, QueueFigures
from pipeline.ports.desk import DeskTransaction
from pipeline.report import ReportPolicy, tell_newest
from pipeline.statements import StudyStatement

ViewRow = Mapping[str, Any]
"""A row of a promised view, by column."""
MAX_ROWS = 500
MAX_EVENTS = 30
MAX_LINEAGE_ROWS = 5000
LINEAGE_COLUMNS = (
    "revision",
    "version",
    "version_name",
    "finding",
    "decision",
    "scale",
    "probability",
    "band",
    "percentile",
    "operating_point",
)
MAX_ERRORS = 5
DAYS_OF_GROWTH = 7.0
"""Arrivals of this time give the rate at which the disk fills."""


NEWEST_STUDIES = 200
"""Studies whose shares of present findings are compared with those of the studies before."""
MAX_DEVIATION = 3.5
"""Standard errors between two shares that count as drift: by chance in one of 150 looks at 14 findings."""
STEPS = {
    "scored": JobKind.SCORE,
    "reported": JobKind.REPORT,
    "delivered": JobKind.SEND,
    "labels read": JobKind.LABEL,
    "learnt": JobKind.LEARN,
}
"""Steps of the flow that are jobs."""


@dataclass(frozen=True, slots=True)
class FlowStep:
    """A step of the flow: what waits for it, for how long, and what it has done. None: not recorded."""

    name: str
    waiting: int
    running: int
    oldest_seconds: float | None  # age of the oldest that waits
    last_hour: int | None
    last_day: int | None


@dataclass(frozen=True, slots=True)
class FindingDrift:
    """A finding that is present in another share of the newest studies than of those before, by the same version."""

    finding: str
    share: float  # of the newest NEWEST_STUDIES
    share_before: float  # of the studies before


@dataclass(frozen=True, slots=True)
class StudyOverview:
    """What the catalog knows of one study: rows of the promised views."""

    study: ViewRow  # v_studies; the patient's identity among it
    instances: Sequence[ViewRow]
    statement: StudyStatement | None  # what is told of it; None: not scored
    labels: Sequence[ViewRow]  # oldest first
    readings: Sequence[ViewRow]  # at the desk, oldest first
    request: ViewRow | None
    earlier: Sequence[ViewRow]  # v_lineage: the predictions of each report, by image
    reports: Sequence[ViewRow]  # newest first
    jobs: Sequence[ViewRow]  # newest first
    events: Sequence[ViewRow]  # audit, newest first


@dataclass(frozen=True, slots=True)
class DaemonOverview:
    """The state of the daemon."""

    now: datetime
    arrived: Mapping[str, int]  # studies of the last 24 hours by state
    flow: Sequence[FlowStep]  # in the order of a study's way
    drift: Sequence[FindingDrift]
    queue: QueueFigures
    archive: ArchiveFigures
    bytes_per_day: float  # of the last DAYS_OF_GROWTH
    errors: Sequence[ViewRow]  # the last failed and refused audit events, newest first
    new_labels: int  # since the newest version that learnt from labels


def find_study_uid(name: str, tx: DeskTransaction) -> str:
    """Return the StudyInstanceUID of a UID or an accession number. PermanentError where it names no study, or several."""
    if tx.studies.find(name) is not None:
        return name
    found = tx.studies.uids_by_accession_number([name]).get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise PermanentError(f"{len(found)} studies have this accession number", hint="name the study by its Study Instance UID")
    raise PermanentError("there is no such study in the catalog", hint="radclipd studies lists the newest")


def describe_study(study_instance_uid: str, tx: DeskTransaction, policy: ReportPolicy) -> StudyOverview:
    """Return everything that the catalog knows of one study. PermanentError where it does not know it."""
    where = {"study_instance_uid": study_instance_uid}
    found = tx.views.select("v_studies", where=where, limit=1)
    if not found:
        raise PermanentError("there is no such study in the catalog", hint="radclipd studies lists the newest")
    instances = tx.views.select("v_instances", where=where, order=["series_number", "instance_number"], limit=MAX_ROWS)
    reports = tx.views.select("v_reports", where=where, order=["-created_at"], limit=MAX_ROWS)
    subjects = [study_instance_uid, *(row["sop_instance_uid"] for row in (*instances, *reports))]
    requests = tx.views.select("v_worklist", where=where, limit=1)
    return StudyOverview(
        study=found[0],
        instances=instances,
        statement=tell_newest(tx, study_instance_uid, policy),
        labels=tx.views.select("v_labels", where=where, order=["id"], limit=MAX_ROWS),
        readings=tx.views.select("v_readings", where=where, order=["id"], limit=MAX_ROWS),
        request=requests[0] if requests else None,
        earlier=tx.views.select("v_lineage", LINEAGE_COLUMNS, where=where, limit=MAX_LINEAGE_ROWS) if reports else [],
        reports=reports,
        jobs=tx.views.select("v_jobs", where={"subject": subjects}, order=["-id"], limit=MAX_EVENTS),
        events=tx.views.select("v_audit", where={"subject": subjects}, order=["-id"], limit=MAX_EVENTS),
    )


def describe_daemon(tx: DeskTransaction) -> DaemonOverview:
    """Return the state of the daemon. It counts the archive: a pass over its tables."""
    now = tx.now()
    arrived = tx.views.count("v_studies", "state", after=("last_received_at", now - timedelta(days=1)))
    queue, archive = tx.figures.current_figures(), tx.figures.archive_figures()
    errors = tx.views.select("v_audit", where={"outcome": ["failed", "refused"]}, order=["-id"], limit=MAX_ERRORS)
    return DaemonOverview(
        now=now,
        arrived=arrived,
        flow=_describe_flow(tx, queue, archive, now),
        drift=find_drift(tx.figures.newest_decisions(studies=NEWEST_STUDIES), archive.decisions),
        queue=queue,
        archive=archive,
        bytes_per_day=tx.figures.received_bytes(since=now - timedelta(days=DAYS_OF_GROWTH)) / DAYS_OF_GROWTH,
        errors=errors,
        new_labels=_count_new_labels(tx),
    )


def _describe_flow(tx: DeskTransaction, queue: QueueFigures, archive: ArchiveFigures, now: datetime) -> list[FlowStep]:
    hour, day = now - timedelta(hours=1), now - timedelta(days=1)
    received = [sum(tx.views.count("v_studies", "state", after=("last_received_at", since)).values()) for since in (hour, day)]
    last_hour, last_day = (tx.figures.finished_jobs(since=since) for since in (hour, day))
    arriving, settled = (archive.studies.get(state, 0) for state in (StudyState.ARRIVING, StudyState.SETTLED))
    steps = [
        FlowStep("arriving", arriving, 0, _find_oldest_seconds(tx, StudyState.ARRIVING, now), *received),
        FlowStep("settled", settled, 0, _find_oldest_seconds(tx, StudyState.SETTLED, now), None, None),
    ]
    for name, kind in STEPS.items():
        waiting, running = (queue.jobs.get((kind, state), 0) for state in (JobState.WAITING, JobState.RUNNING))
        age = queue.oldest_due_seconds.get(kind)
        steps.append(FlowStep(name, waiting, running, age, last_hour.get(kind, 0), last_day.get(kind, 0)))
    return steps


def _find_oldest_seconds(tx: DeskTransaction, state: StudyState, now: datetime) -> float | None:
    """Return the time since the study in this state that has waited longest received its last instance."""
    column = "last_received_at"
    found = tx.views.select("v_studies", [column], where={"state": state}, order=[column], limit=1)
    return (now - found[0][column]).total_seconds() if found else None


def find_drift(newest: Mapping[tuple[str, Decision], int], all_of: Mapping[tuple[str, Decision], int]) -> list[FindingDrift]:
    """Return the findings whose share of PRESENT differs between the newest studies and the others among `all_of`.

    The test of two proportions with a pooled standard error, at MAX_DEVIATION. Fewer than NEWEST_STUDIES on either side: none.
    """
    drifting = []
    for finding in FINDINGS:
        count, total = (sum(of.get((finding, decision), 0) for decision in Decision) for of in (newest, all_of))
        before = total - count
        if min(count, before) < NEWEST_STUDIES:
            continue
        present = newest.get((finding, Decision.PRESENT), 0)
        present_before = all_of.get((finding, Decision.PRESENT), 0) - present
        share, share_before, pooled = present / count, present_before / before, (present + present_before) / total
        error = sqrt(pooled * (1 - pooled) * (1 / count + 1 / before)) or inf
        if abs(share - share_before) > MAX_DEVIATION * error:
            drifting.append(FindingDrift(finding, share, share_before))
    return drifting


def _count_new_labels(tx: DeskTransaction) -> int:
    learnt = max((int(version.card.get("learning", {}).get("newest_label", 0)) for version in tx.versions.all()), default=0)
    return sum(tx.views.count("v_labels", "state", after=("id", learnt)).values())
