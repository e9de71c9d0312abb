"""The figures that the metrics show. Two short read transactions, one for each part of `pipeline.figures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, exists, func, literal_column, select, text

from adapters.catalog.backfills import totals_by_kind
from adapters.catalog.jobs import DONE, QUARANTINED, RUNNING, WAITING, SqlJobs
from adapters.catalog.references import SqlReferences
from adapters.catalog.report_stops import SqlReportStops
from adapters.catalog.scores import IS_FIRST_FINDING
from adapters.catalog.sql_time import now
from adapters.catalog.tables import (
    circuits,
    deliveries,
    instances,
    jobs,
    labels,
    model_versions,
    predictions,
    reports,
    requests,
    studies,
)
from adapters.catalog.versions import SqlVersions
from pipeline import priorities
from pipeline.domain import Decision, DeliveryState, JobKind, JobState, LabelState, ReportState, StudyState, VersionState
from pipeline.figures import ArchiveFigures, LearningGain, LearningRound, LearningStage, QueueFigures
from pipeline.learn import LearnResult
from pipeline.rules import split_reasons
from pipeline.work import ERROR_KIND_KEY

UNKNOWN_REASON = "other"
"""Reason of a job that was quarantined by a release that stored none."""
DECIDED_STUDIES = 1000
"""Newest studies whose decisions are counted."""
MAX_ROUNDS = 20
"""Newest learn jobs that are read, to find the running round and the last finished one."""
IS_LEARN_JOB: ColumnElement[bool] = jobs.c.kind == literal_column(f"'{JobKind.LEARN.value}'")
IS_DONE = text(f"state = '{JobState.DONE.value}'")
IS_QUARANTINED: ColumnElement[bool] = jobs.c.state == literal_column(f"'{JobState.QUARANTINED.value}'")
"""Literals, not parameters: SQLite uses a partial index only for a literal condition."""
RESULT_OF_STATE = {
    VersionState.REJECTED: LearnResult.REJECTED,
    VersionState.CANDIDATE: LearnResult.WAITING,
    VersionState.SERVING: LearnResult.PROMOTED,
    VersionState.RETIRED: LearnResult.PROMOTED,
}
"""Result of a round without a job, by the state of its version: `radclipd learn` run by a person."""


class SqlFigures:
    """Reads the figures that `pipeline.figures` describes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def current_figures(self) -> QueueFigures:
        """Return the figures that change by the second. Every query has an index, or reads a table of a few rows."""
        serving = SqlVersions(self._connection).serving()
        since = self._connection.scalar(select(model_versions.c.served_at).where(model_versions.c.state == "serving"))
        rounds = self._fetch_rows(select(jobs).where(IS_LEARN_JOB).order_by(jobs.c.id.desc()).limit(MAX_ROUNDS))
        trained = self._find_last_trained_version()
        return QueueFigures(
            jobs=self._count_open_jobs(),
            oldest_due_seconds=SqlJobs(self._connection).oldest_due_seconds(before=priorities.LEARN),
            quarantined=self._count_quarantined(),
            open_circuits=self._connection.scalars(select(circuits.c.destination).where(circuits.c.open_until > now())).all(),
            versions=self._count_states(model_versions.c.state, VersionState),
            serving=serving.number if serving else None,
            serving_since=since,
            notice=serving.notice if serving else "",
            reference=SqlReferences(self._connection).current_number(serving.number) if serving else None,
            stops=list(SqlReportStops(self._connection).current()),
            stage=next(filter(None, map(_read_stage, rounds)), None),
            last_round=_find_last_round(rounds, trained),
            gains=_build_gains(trained["comparisons"]) if trained else (),
        )

    def archive_figures(self) -> ArchiveFigures:
        """Return the counts of the archive. Each takes a pass over its table."""
        statements = select(labels.c.finding, labels.c.state, func.count()).where(labels.c.state.is_not(None))
        unread = ~exists().where(labels.c.study == requests.c.study, labels.c.state.is_not(None))
        rescoring = self._connection.execute(text("SELECT studies, scored FROM v_rescoring")).one_or_none()
        waiting = jobs.c.kind == JobKind.SCORE.value, jobs.c.state == WAITING, jobs.c.priority == priorities.BACKFILL
        unscored = select(func.count()).select_from(jobs).where(*waiting)
        return ArchiveFigures(
            studies=self._count_states(studies.c.state, StudyState),
            ignored=self._count_ignored(),
            reports=self._count_states(reports.c.state, ReportState),
            decisions=self.newest_decisions(studies=DECIDED_STUDIES),
            deliveries=self._count_states(deliveries.c.state, DeliveryState),
            instances=self._connection.scalar(select(func.count()).select_from(instances)) or 0,
            labels={
                (finding, LabelState(state)): n
                for finding, state, n in self._connection.execute(statements.group_by(labels.c.finding, labels.c.state))
            },
            open_requests=self._connection.scalar(select(func.count()).select_from(requests).where(unread)) or 0,
            rescoring=(rescoring.studies, rescoring.scored) if rescoring else None,
            backfills=totals_by_kind(self._connection),
            backfilled_unscored=self._connection.scalar(unscored) or 0,
        )

    def newest_decisions(self, *, studies: int) -> dict[tuple[str, Decision], int]:
        """Return the decisions by finding on the newest `studies` that the serving version has scored."""
        serving = SqlVersions(self._connection).serving()
        if serving is None:
            return {}
        of_version = predictions.c.version == serving.number
        newest = select(predictions.c.study).where(of_version, IS_FIRST_FINDING).order_by(predictions.c.study.desc())
        studies_of = newest.limit(studies).subquery()
        query = (
            select(predictions.c.finding, predictions.c.decision, func.count())
            .join(studies_of, predictions.c.study == studies_of.c.study)
            .where(of_version)
            .group_by(predictions.c.finding, predictions.c.decision)
        )
        return {(finding, Decision(decision)): count for finding, decision, count in self._connection.execute(query)}

    def _count_open_jobs(self) -> dict[tuple[JobKind, JobState], int]:
        open_ones = jobs.c.state.in_((WAITING, RUNNING, QUARANTINED))
        query = select(jobs.c.kind, jobs.c.state, func.count()).where(open_ones).group_by(jobs.c.kind, jobs.c.state)
        return {(JobKind(kind), JobState(state)): n for kind, state, n in self._connection.execute(query)}

    def finished_jobs(self, *, since: datetime) -> dict[JobKind, int]:
        """Return the jobs of each kind that were done since then."""
        on_sqlite = self._connection.dialect.name == "sqlite"  # may choose ix_jobs_by_state, with every done job, on its own
        source = text("jobs INDEXED BY ix_jobs_done") if on_sqlite else jobs
        kind: ColumnElement[str] = literal_column("kind")
        is_recent = literal_column("finished_at", jobs.c.finished_at.type) > since
        query = select(kind, func.count()).select_from(source).where(IS_DONE, is_recent).group_by(kind)
        return {JobKind(kind): count for kind, count in self._connection.execute(query)}

    def received_bytes(self, *, since: datetime) -> int:
        """Return the size of the files that were received since then, bytes."""
        return int(self._connection.scalar(select(func.sum(instances.c.file_size)).where(instances.c.received_at > since)) or 0)

    def _count_ignored(self) -> dict[str, int]:
        """Return the ignored studies by reason. Many studies share an explanation, so the database counts those."""
        query = select(studies.c.reason, func.count()).where(studies.c.state == StudyState.IGNORED.value).group_by(studies.c.reason)
        counts: Counter[str] = Counter()
        for explanation, count in self._connection.execute(query):
            counts.update(dict.fromkeys(split_reasons(explanation), count))
        return dict(counts)

    def _count_quarantined(self) -> dict[tuple[JobKind, str], int]:
        fault = func.coalesce(jobs.c.payload[ERROR_KIND_KEY].as_string(), UNKNOWN_REASON)
        query = select(jobs.c.kind, fault, func.count()).where(IS_QUARANTINED).group_by(jobs.c.kind, fault)
        return {(JobKind(kind), word): n for kind, word, n in self._connection.execute(query)}

    def _find_last_trained_version(self) -> RowMapping | None:
        comparisons = model_versions.c.card[("learning", "comparisons")].label("comparisons")
        trained = select(model_versions.c.state, model_versions.c.created_at, comparisons).where(
            model_versions.c.label_fingerprint != ""
        )
        return next(iter(self._fetch_rows(trained.order_by(model_versions.c.number.desc()).limit(1))), None)

    def _count_states(self, column: Any, word: Callable[[str], Any]) -> dict[Any, int]:
        return {word(state): n for state, n in self._connection.execute(select(column, func.count()).group_by(column))}

    def _fetch_rows(self, query: Select[Any]) -> list[RowMapping]:
        return list(self._connection.execute(query).mappings())


def _read_stage(job: RowMapping) -> LearningStage | None:
    """Return the progress that a running job has noted in its current attempt; None where it has noted none."""
    noted = job["payload"]
    if job["state"] != RUNNING or noted.get("lease") != job["lease_token"]:
        return None
    done, total = int(noted["done"]), int(noted["total"])
    return LearningStage(str(noted["stage"]), done, total, float(noted["seconds"]) / done * (total - done) if done else None)


def _find_last_round(rounds: Iterable[RowMapping], trained_version: RowMapping | None) -> LearningRound | None:
    """Return the later of the last finished job and the last version: a round that a person runs leaves no job."""
    found = [
        LearningRound(str(job["payload"]["result"]), job["finished_at"])
        for job in rounds
        if job["state"] == DONE and "result" in job["payload"]
    ]
    if trained_version is not None:
        found.append(LearningRound(RESULT_OF_STATE[VersionState(trained_version["state"])].value, trained_version["created_at"]))
    return max(found, key=lambda one: one.ended_at, default=None)


def _build_gains(comparisons: Any) -> list[LearningGain]:
    """Return the gains of a card's comparisons. A comparison without figures had too few cases and gives none."""
    return [
        LearningGain(
            against="zero-shot" if one["against"] == "zero-shot" else "serving",
            sample="monitoring" if one["monitoring"] else "labels",
            gain=one["candidate"] - one["other"],
            lower=one["lower"],
            upper=one["upper"],
        )
        for one in comparisons or ()
        if None not in (one["candidate"], one["other"], one["lower"], one["upper"])
    ]
