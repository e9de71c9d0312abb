"""The files that may be deleted, and those that are being deleted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, or_, select, update

from adapters.catalog.jobs import OPEN_STATES, QUARANTINED, has_job
from adapters.catalog.sql_time import DAY_SECONDS, now, seconds_from_now
from adapters.catalog.tables import (
    drafts,
    instance_conflicts,
    instance_revisions,
    instances,
    labels,
    readings,
    reports,
    requests,
    second_readings,
    series,
    studies,
)
from pipeline.domain import InstanceState, JobKind, StoredFile, StoredInstance, StudyState

DELETING, DELETED, STORED = (state.value for state in (InstanceState.DELETING, InstanceState.DELETED, InstanceState.STORED))


class SqlRetention:
    """`ports.retention.Retention`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locks_rows = connection.dialect.name == "postgresql" and connection.get_execution_options().get("writes", False)

    def deletable_studies(self, *, older_than_days: float, limit: int) -> list[str]:
        query = _select_deletable(older_than_days).order_by(studies.c.id).limit(limit)
        return list(self._connection.scalars(query))

    def needed_studies(self, *, limit: int) -> list[str]:
        wanted = [exists().where(table.c.study == studies.c.id) for table in (labels, requests, second_readings, drafts)]
        unscored = has_job(JobKind.SCORE, studies.c.study_instance_uid, QUARANTINED)
        query = select(studies.c.study_instance_uid).where(studies.c.files_deleted_at.is_not(None), or_(*wanted, unscored))
        return list(self._connection.scalars(query.order_by(studies.c.id.desc()).limit(limit)))

    def is_deletable(self, study_instance_uid: str, *, older_than_days: float) -> bool:
        query = _select_deletable(older_than_days).where(studies.c.study_instance_uid == study_instance_uid)
        return self._connection.scalar(query.with_for_update(of=studies) if self._locks_rows else query) is not None

    def mark_deleting(self, instance: StoredInstance, *, pixels_sha256: str) -> None:
        named = instances.c.sop_instance_uid == instance.header.sop_instance_uid
        same = and_(instances.c.file_sha256 == instance.file.sha256, instances.c.state == STORED)
        self._connection.execute(update(instances).where(named, same).values(state=DELETING, pixels_sha256=pixels_sha256))

    def mark_files_deleted(self, study_instance_uid: str) -> None:
        named = studies.c.study_instance_uid == study_instance_uid
        self._connection.execute(update(studies).where(named).values(files_deleted_at=now()))

    def deleting(self, *, limit: int) -> list[str]:
        query = select(instances.c.sop_instance_uid).where(instances.c.state == DELETING).order_by(instances.c.id)
        return list(self._connection.scalars(query.limit(limit)))

    def mark_deleted(self, sop_instance_uid: str) -> None:
        named = instances.c.sop_instance_uid == sop_instance_uid
        self._connection.execute(update(instances).where(named, instances.c.state == DELETING).values(state=DELETED))

    def former_files(self, *, older_than_days: float, limit: int) -> list[tuple[str, StoredFile]]:
        v = instance_revisions.c
        query = (
            select(instances.c.sop_instance_uid, v.file_key, v.file_sha256, v.file_size, v.file_xxh3)
            .join(instances, v.instance == instances.c.id)
            .where(v.state != DELETED, v.replaced_at <= seconds_from_now(-older_than_days * DAY_SECONDS))
            .order_by(v.replaced_at)
            .limit(limit)
        )
        return [(uid, StoredFile(*file)) for uid, *file in self._connection.execute(query)]

    def mark_former_deleted(self, sop_instance_uid: str, file: StoredFile) -> None:
        named = select(instances.c.id).where(instances.c.sop_instance_uid == sop_instance_uid).scalar_subquery()
        this = and_(instance_revisions.c.instance == named, instance_revisions.c.file_sha256 == file.sha256)
        self._connection.execute(update(instance_revisions).where(this).values(state=DELETED))


def _select_deletable(older_than_days: float) -> Select[Any]:
    oldest = seconds_from_now(-older_than_days * DAY_SECONDS)
    sent = and_(reports.c.study == studies.c.id, reports.c.sent_at.is_not(None))
    needed = [exists().where(table.c.study == studies.c.id) for table in (labels, requests, second_readings, drafts, readings)]
    return select(studies.c.study_instance_uid).where(
        studies.c.state == StudyState.REPORTED.value,
        studies.c.files_deleted_at.is_(None),
        exists().where(sent),
        ~exists().where(sent, reports.c.sent_at > oldest),
        *(~condition for condition in needed),
        ~_has_open_conflict(),
        *(~has_job(kind, studies.c.study_instance_uid, *OPEN_STATES) for kind in (JobKind.SCORE, JobKind.REPORT)),
    )


def _has_open_conflict() -> ColumnElement[bool]:
    of_study = and_(instance_conflicts.c.instance == instances.c.id, instances.c.series == series.c.id)
    return exists().where(of_study, series.c.study == studies.c.id, instance_conflicts.c.resolution == "")
