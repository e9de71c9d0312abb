"""How the daemon stands, in figures: what the metrics tell. Two short reading transactions, one for each part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, literal_column, select, text

from adapters.catalog.backfills import by_kind
from adapters.catalog.jobs import DONE, QUARANTINED, RUNNING, WAITING, SqlJobs
from adapters.catalog.sql_time import now
from adapters.catalog.tables import circuits, instances, jobs, labels, model_versions, reports, requests, studies
from adapters.catalog.versions import SqlVersions
from pipeline.backfill import PRIORITY as BROUGHT
from pipeline.domain import JobKind, JobState, LabelState, ReportState, StudyState, VersionState
from pipeline.figures import Archive, Gain, Line, Round, Stage
from pipeline.learn import BACKGROUND_PRIORITY, LearnResult
from pipeline.work import FAULT

NO_REASON = "other"
"""Of a job that was set aside before reasons were kept."""
ROUNDS = 20
"""The newest rounds of learning that are looked at: one that runs, and the last that came to its end."""
LEARNS: ColumnElement[bool] = jobs.c.kind == literal_column(f"'{JobKind.LEARN.value}'")
SET_ASIDE: ColumnElement[bool] = jobs.c.state == literal_column(f"'{JobState.QUARANTINED.value}'")
"""Written out, not parameters: only so does SQLite see that a partial index serves."""
OF_VERSION = {
    VersionState.REJECTED: LearnResult.REJECTED,
    VersionState.CANDIDATE: LearnResult.WAITING,
    VersionState.SERVING: LearnResult.PROMOTED,
    VersionState.RETIRED: LearnResult.PROMOTED,
}
"""What became of a round of which only the version tells: one that was learnt by hand."""


class SqlStanding:
    """Reads both parts of what `pipeline.figures` describes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def line(self) -> Line:
        """Read what changes by the second; every query has an index, or a table of a few rows."""
        serving = SqlVersions(self._connection).serving()
        since = self._connection.scalar(select(model_versions.c.served_at).where(model_versions.c.state == "serving"))
        rounds = self._rows(select(jobs).where(LEARNS).order_by(jobs.c.id.desc()).limit(ROUNDS))
        learnt = self._learnt_last()
        return Line(
            jobs=self._jobs(),
            oldest_due_seconds=SqlJobs(self._connection).oldest_due_seconds(before=BACKGROUND_PRIORITY),
            quarantined=self._quarantined(),
            resting=self._connection.scalars(select(circuits.c.destination).where(circuits.c.open_until > now())).all(),
            versions=self._counts(model_versions.c.state, VersionState),
            serving=serving.number if serving else None,
            serving_since=since,
            marking=serving.marking if serving else "",
            stage=next(filter(None, map(_stage, rounds)), None),
            last_round=_last_round(rounds, learnt),
            gains=_gains(learnt["compared"]) if learnt else (),
        )

    def archive(self) -> Archive:
        """Count what has come together; a pass over each table."""
        said = select(labels.c.finding, labels.c.state, func.count()).where(labels.c.state.is_not(None))
        unread = ~exists().where(labels.c.study == requests.c.study, labels.c.state.is_not(None))
        rescoring = self._connection.execute(text("SELECT studies, scored FROM v_rescoring")).one_or_none()
        waiting = jobs.c.kind == JobKind.SCORE.value, jobs.c.state == WAITING, jobs.c.priority == BROUGHT
        brought = select(func.count()).select_from(jobs).where(*waiting)
        return Archive(
            studies=self._counts(studies.c.state, StudyState),
            reports=self._counts(reports.c.state, ReportState),
            instances=self._connection.scalar(select(func.count()).select_from(instances)) or 0,
            statements={
                (finding, LabelState(state)): n
                for finding, state, n in self._connection.execute(said.group_by(labels.c.finding, labels.c.state))
            },
            open_requests=self._connection.scalar(select(func.count()).select_from(requests).where(unread)) or 0,
            rescoring=(rescoring.studies, rescoring.scored) if rescoring else None,
            backfills=by_kind(self._connection),
            backfilled_unscored=self._connection.scalar(brought) or 0,
        )

    def _jobs(self) -> dict[tuple[JobKind, JobState], int]:
        open_ones = jobs.c.state.in_((WAITING, RUNNING, QUARANTINED))
        query = select(jobs.c.kind, jobs.c.state, func.count()).where(open_ones).group_by(jobs.c.kind, jobs.c.state)
        return {(JobKind(kind), JobState(state)): n for kind, state, n in self._connection.execute(query)}

    def _quarantined(self) -> dict[tuple[JobKind, str], int]:
        fault = func.coalesce(jobs.c.payload[FAULT].as_string(), NO_REASON)
        query = select(jobs.c.kind, fault, func.count()).where(SET_ASIDE).group_by(jobs.c.kind, fault)
        return {(JobKind(kind), word): n for kind, word, n in self._connection.execute(query)}

    def _learnt_last(self) -> RowMapping | None:
        compared = model_versions.c.card[("learning", "comparisons")].label("compared")
        learnt = select(model_versions.c.state, model_versions.c.created_at, compared).where(
            model_versions.c.label_fingerprint != ""
        )
        return next(iter(self._rows(learnt.order_by(model_versions.c.number.desc()).limit(1))), None)

    def _counts(self, column: Any, word: Callable[[str], Any]) -> dict[Any, int]:
        return {word(state): n for state, n in self._connection.execute(select(column, func.count()).group_by(column))}

    def _rows(self, query: Select[Any]) -> list[RowMapping]:
        return list(self._connection.execute(query).mappings())


def _stage(job: RowMapping) -> Stage | None:
    """What a job that runs has noted in this try; a note of a try before it says nothing."""
    noted = job["payload"]
    if job["state"] != RUNNING or noted.get("lease") != job["lease_token"]:
        return None
    done, total = int(noted["done"]), int(noted["total"])
    return Stage(str(noted["stage"]), done, total, float(noted["seconds"]) / done * (total - done) if done else None)


def _last_round(rounds: Iterable[RowMapping], learnt: RowMapping | None) -> Round | None:
    """The later of the last job that came to its end and the last version: who learns by hand leaves no job."""
    found = [
        Round(str(job["payload"]["result"]), job["finished_at"])
        for job in rounds
        if job["state"] == DONE and "result" in job["payload"]
    ]
    if learnt is not None:
        found.append(Round(OF_VERSION[VersionState(learnt["state"])].value, learnt["created_at"]))
    return max(found, key=lambda one: one.ended_at, default=None)


def _gains(compared: Any) -> list[Gain]:
    """Of comparisons as the card keeps them; one without figures had too few cases."""
    return [
        Gain(
            against="zero-shot" if one["against"] == "zero-shot" else "serving",
            sample="monitoring" if one["monitoring"] else "labels",
            gain=one["candidate"] - one["other"],
            lower=one["lower"],
            upper=one["upper"],
        )
        for one in compared or ()
        if None not in (one["candidate"], one["other"], one["lower"], one["upper"])
    ]
