"""Erasure of a patient: every row that hangs on the patient by foreign keys, and those that name its UIDs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, or_, select, update

from adapters.catalog.audit_chain import pseudonym_keys_of
from adapters.catalog.parameters import build_insert, chunks
from adapters.catalog.tables import (
    TABLES,
    audit_events,
    backfill_units,
    backfilled_studies,
    erasures,
    exports,
    instances,
    jobs,
    labels,
    model_versions,
    patients,
    reader_documents,
    reports,
    studies,
    visible_objects,
)
from pipeline.domain import ReportState, StoredFile
from pipeline.ports.erasure import ExportRecord, PatientHoldings, PatientRecord
from pipeline.pseudonyms import audit_pseudonym, export_pseudonym


class SqlErasures:
    """`ports.erasure.Erasures`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find_patients(self, patient_id: str) -> Sequence[PatientRecord]:
        return self._select_patients(patients.c.patient_id == patient_id)

    def find_patient_of_study(self, study_instance_uid: str) -> PatientRecord | None:
        of_study = select(studies.c.patient).where(studies.c.study_instance_uid == study_instance_uid)
        return next(iter(self._select_patients(patients.c.id.in_(of_study))), None)

    def _select_patients(self, condition: ColumnElement[bool]) -> list[PatientRecord]:
        query = (
            select(patients.c.id, patients.c.issuer_of_patient_id, func.count(studies.c.id))
            .outerjoin(studies, studies.c.patient == patients.c.id)
            .where(condition)
            .group_by(patients.c.id, patients.c.issuer_of_patient_id)
            .order_by(patients.c.id)
        )
        return [PatientRecord(*row) for row in self._connection.execute(query)]

    def begin(self, number: int) -> None:
        statement = build_insert(erasures, self._connection.dialect.name).values(patient=number)
        self._connection.execute(statement.on_conflict_do_nothing())

    def describe(self, number: int) -> PatientHoldings:
        key = pseudonym_keys_of(self._connection, [number])[number]
        uids = self._list_uids(number)
        return PatientHoldings(
            audit_pseudonym=audit_pseudonym(key),
            export_pseudonym=export_pseudonym(key),
            rows={
                table.name: count
                for table, condition in _hanging_tables(number)
                if table is not erasures and (count := self._count_rows(table, condition))
            },
            files=list(self._list_files(number)),
            sent_objects=self._count_sent(number),
            versions=self._list_versions(number),
            backfilled=self._count_named(backfill_units.c.key, uids),
            uids=uids,
        )

    def _count_rows(self, table: Table, condition: ColumnElement[bool]) -> int:
        return self._connection.scalar(select(func.count()).select_from(table).where(condition)) or 0

    def _count_named(self, column: ColumnElement[str], uids: Sequence[str]) -> int:
        return sum(self._count_rows(column.table, column.in_(some)) for some in chunks(uids))

    def _list_uids(self, number: int) -> list[str]:
        """Return the UIDs of the patient's studies, instances, reports, visible objects and documents of readers."""
        columns = (
            studies.c.study_instance_uid,
            instances.c.sop_instance_uid,
            reports.c.sop_instance_uid,
            visible_objects.c.sop_instance_uid,
            reader_documents.c.sop_instance_uid,
        )
        queries = (select(column).where(_build_condition(column.table, number)) for column in columns)
        return [uid for query in queries for uid in self._connection.scalars(query)]

    def _list_files(self, number: int) -> Iterator[StoredFile]:
        """Yield the files of the patient's rows that no row of another patient names."""
        for table, condition in _hanging_tables(number):
            if "file_sha256" not in table.c:
                continue
            columns = (table.c.file_key, table.c.file_sha256, table.c.file_size)
            for key, sha256, size in self._connection.execute(select(*columns).where(condition, table.c.file_key.is_not(None))):
                if not self._count_rows(table, (table.c.file_sha256 == sha256) & ~condition):
                    yield StoredFile(key, sha256, size)

    def _count_sent(self, number: int) -> int:
        sent = ReportState.SENT.value
        return sum(
            self._count_rows(table, _build_condition(table, number) & (table.c.state == sent))
            for table in (reports, visible_objects)
        )

    def _list_versions(self, number: int) -> list[int]:
        first = select(func.min(labels.c.created_at)).where(_build_condition(labels, number)).scalar_subquery()
        learnt = (model_versions.c.label_fingerprint != "") & (model_versions.c.created_at >= first)
        return list(self._connection.scalars(select(model_versions.c.number).where(learnt).order_by(model_versions.c.number)))

    def erase(self, number: int) -> None:
        self._overwrite_deleted_rows()
        key = pseudonym_keys_of(self._connection, [number])[number]
        self._blank_events(audit_pseudonym(key))
        uids = self._list_uids(number)
        self._remove_doubts(set(uids))
        for column in (jobs.c.subject, backfilled_studies.c.study_instance_uid):
            for some in chunks(uids):
                self._connection.execute(delete(column.table).where(column.in_(some)))
        for table, condition in _hanging_tables(number):
            if table not in (patients, erasures):
                self._connection.execute(delete(table).where(condition))
        self._connection.execute(delete(erasures).where(erasures.c.patient == number))
        self._connection.execute(delete(patients).where(patients.c.id == number))

    def _overwrite_deleted_rows(self) -> None:
        """Let SQLite overwrite what is deleted with zeros."""
        if self._connection.dialect.name == "sqlite":
            self._connection.exec_driver_sql("PRAGMA secure_delete = ON")

    def _blank_events(self, pseudonym: str) -> None:
        blank = update(audit_events).where(audit_events.c.patient == pseudonym, audit_events.c.position.is_not(None))
        self._connection.execute(blank.values(subject="", detail="", salt=""))

    def _remove_doubts(self, uids: set[str]) -> None:
        """Remove the patient's studies from the doubtful labels in the cards of versions."""
        for number, card in self._connection.execute(select(model_versions.c.number, model_versions.c.card)).all():
            doubts = card.get("learning", {}).get("doubts", [])
            kept = [doubt for doubt in doubts if doubt["study"] not in uids]
            if len(kept) < len(doubts):
                changed = card | {"learning": card["learning"] | {"doubts": kept}}
                self._connection.execute(update(model_versions).where(model_versions.c.number == number).values(card=changed))

    def other_sha256s(self, number: int) -> Iterable[str]:
        return self._connection.scalars(select(instances.c.file_sha256).where(~_build_condition(instances, number)))

    def add_export(self, directory: str) -> None:
        statement = build_insert(exports, self._connection.dialect.name).values(directory=directory)
        self._connection.execute(statement.on_conflict_do_nothing())

    def exports(self) -> Sequence[ExportRecord]:
        return [ExportRecord(*row) for row in self._connection.execute(select(exports.c.directory, exports.c.made_at))]


def _hanging_tables(number: int) -> Iterator[tuple[Table, ColumnElement[bool]]]:
    """Yield each table whose rows hang on the patient, children first, with the condition of these rows."""
    for table in reversed(list(TABLES)):
        if _hangs_on_patients(table):
            yield table, _build_condition(table, number)


def _list_parents(table: Table) -> list[tuple[Any, Any]]:
    """Return the columns that refer to tables that hang on patients, each with the column that it refers to."""
    return [
        (key.parent, key.column)
        for key in table.foreign_keys
        if key.column.table is not table and _hangs_on_patients(key.column.table)
    ]


def _hangs_on_patients(table: Table) -> bool:
    return table is patients or bool(_list_parents(table))


def _build_condition(table: Any, number: int) -> ColumnElement[bool]:
    if table is patients:
        is_patient: ColumnElement[bool] = patients.c.id == number
        return is_patient
    conditions: list[ColumnElement[bool]] = [
        column.in_(select(referred).where(_build_condition(referred.table, number))) for column, referred in _list_parents(table)
    ]
    return or_(*conditions)
