"""All files that the catalog names, for a comparison with the image store."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, and_, exists, select

from adapters.catalog.parameters import chunks
from adapters.catalog.tables import (
    instance_conflicts,
    instance_revisions,
    instances,
    jobs,
    reader_documents,
    reports,
    series,
    studies,
    visible_objects,
)
from pipeline.domain import InstanceState, JobKind, JobState, StoredFile

SENT_TABLES = (reports, visible_objects, reader_documents)
"""Tables of the objects that are built here and sent."""
STORED, DELETED = InstanceState.STORED.value, InstanceState.DELETED.value


class SqlInventory:
    """Files and jobs of the whole catalog."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def stored_files(self, *, after: int, limit: int) -> list[tuple[int, str, StoredFile]]:
        """Return row number, StudyInstanceUID and file of instances that count as stored, in order, those behind `after`."""
        query = (
            select(
                instances.c.id,
                studies.c.study_instance_uid,
                instances.c.file_key,
                instances.c.file_sha256,
                instances.c.file_size,
            )
            .join(series, instances.c.series == series.c.id)
            .join(studies, series.c.study == studies.c.id)
            .where(instances.c.state == STORED, instances.c.id > after)
            .order_by(instances.c.id)
            .limit(limit)
        )
        return [(number, study, StoredFile(*file)) for number, study, *file in self._connection.execute(query)]

    def report_files(self) -> list[tuple[str, StoredFile]]:
        """Return SOPInstanceUID and file of every report, visible object and reader's document with bytes."""
        found = []
        for table in SENT_TABLES:
            query = select(table.c.sop_instance_uid, table.c.file_key, table.c.file_sha256, table.c.file_size)
            found += [
                (uid, StoredFile(*file)) for uid, *file in self._connection.execute(query.where(table.c.file_key.is_not(None)))
            ]
        return found

    def unknown_among(self, sha256s: Collection[str]) -> set[str]:
        """Return those of these SHA-256 that no row of a file in the store has."""
        named: set[str] = set()
        for some in chunks(sha256s):
            for table, state in ((instances, instances.c.state), (instance_revisions, instance_revisions.c.state)):
                rows = select(table.c.file_sha256).where(table.c.file_sha256.in_(some), state != DELETED)
                named |= set(self._connection.scalars(rows))
            for table in SENT_TABLES:
                named |= set(self._connection.scalars(select(table.c.file_sha256).where(table.c.file_sha256.in_(some))))
            open_ones = and_(instance_conflicts.c.file_sha256.in_(some), instance_conflicts.c.resolution == "")
            named |= set(self._connection.scalars(select(instance_conflicts.c.file_sha256).where(open_ones)))
        return set(sha256s) - named

    def jobs_without_subject(self) -> list[tuple[int, str, str]]:
        """Return number, kind and subject of jobs in hand whose study, report or instance is not in the catalog."""
        found = []
        for kind, columns in _SUBJECTS.items():
            known = [exists().where(column == jobs.c.subject) for column in columns]
            query = select(jobs.c.id, jobs.c.kind, jobs.c.subject).where(jobs.c.kind == kind.value)
            query = query.where(jobs.c.state != JobState.DONE.value, *(~one for one in known)).order_by(jobs.c.id)
            found += [(number, named, subject) for number, named, subject in self._connection.execute(query)]
        return found


_SUBJECTS = {
    JobKind.SCORE: (studies.c.study_instance_uid,),
    JobKind.REPORT: (studies.c.study_instance_uid, reader_documents.c.sop_instance_uid),
    JobKind.SEND: tuple(table.c.sop_instance_uid for table in SENT_TABLES),
    JobKind.LABEL: (instances.c.sop_instance_uid,),
}
