"""The hash chain of the audit table, and the keys of the patients' pseudonyms."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, RowMapping, Select, bindparam, func, select, update

from adapters.catalog.parameters import build_insert, chunks
from adapters.catalog.sql_time import now
from adapters.catalog.tables import (
    audit_deliveries,
    audit_events,
    instances,
    patients,
    pseudonym_keys,
    reader_documents,
    readings,
    reports,
    series,
    studies,
    visible_objects,
)
from pipeline.audit_chain import FORGET, NO_PREDECESSOR, link
from pipeline.domain import AuditEvent
from pipeline.ports.audit import AuditSubject, ChainAnchor, ChainedEvent
from pipeline.pseudonyms import audit_pseudonym

AUDIT_LOCK_KEY = 7_270_414
"""Key of the PostgreSQL advisory lock that two linkers take in turn."""
KEY_BYTES = 32
SALT_BYTES = 16

_COLUMNS = tuple(
    audit_events.c[name]
    for name in (
        "id",
        "at",
        "action",
        "outcome",
        "subject",
        "detail",
        "source",
        "patient",
        "salt",
        "content_sha256",
        "position",
        "chain_sha256",
    )
)


class SqlAuditChain:
    """`ports.audit.AuditChain`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def count_unlinked(self) -> int:
        return self._connection.scalar(select(func.count()).select_from(audit_events).where(audit_events.c.position.is_(None))) or 0

    def link(self, *, limit: int) -> int:
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer
            self._connection.execute(select(func.pg_advisory_xact_lock(AUDIT_LOCK_KEY)))
        unlinked = select(*_COLUMNS).where(audit_events.c.position.is_(None)).order_by(audit_events.c.id).limit(limit)
        found = self._connection.execute(unlinked).mappings().all()
        head = self.head()
        position, predecessor = (head.position, head.sha256) if head else (0, NO_PREDECESSOR)
        pseudonyms = self._find_pseudonyms({row["subject"] for row in found if not row["patient"]})
        values = []
        for row in found:
            position += 1
            event = _build_event(row, row["patient"] or pseudonyms.get(row["subject"], ""))
            linked = link(event, row["at"], position=position, predecessor=predecessor, salt=secrets.token_hex(SALT_BYTES))
            predecessor = linked.chain_sha256
            values.append(_build_link_values(row["id"], linked))
        if values:
            self._connection.execute(_LINK, values)
        return len(values)

    def head(self) -> ChainAnchor | None:
        last = select(audit_events.c.position, audit_events.c.chain_sha256).where(audit_events.c.position.is_not(None))
        row = self._connection.execute(last.order_by(audit_events.c.position.desc()).limit(1)).one_or_none()
        return ChainAnchor(row.position, row.chain_sha256) if row else None

    def _find_pseudonyms(self, subjects: Collection[str]) -> dict[str, str]:
        """Return subject -> pseudonym of its patient, of those subjects that are UIDs of the catalog."""
        found = {subject: row.patient for subject, row in self._find_studies(subjects).items()}
        keys = pseudonym_keys_of(self._connection, set(found.values()))
        return {subject: audit_pseudonym(keys[patient]) for subject, patient in found.items()}

    def keys_of_studies(self, study_instance_uids: Collection[str]) -> Mapping[str, bytes]:
        """Return study -> key of its patient's pseudonyms."""
        found = {uid: row.patient for uid, row in self._find_studies(study_instance_uids).items()}
        keys = pseudonym_keys_of(self._connection, set(found.values()))
        return {uid: keys[patient] for uid, patient in found.items()}

    def identify_subjects(self, subjects: Collection[str]) -> Mapping[str, AuditSubject]:
        found = self._find_studies(subjects)
        return {subject: AuditSubject(row.study_instance_uid, row.patient_id) for subject, row in found.items()}

    def _find_studies(self, subjects: Collection[str]) -> dict[str, Row[Any]]:
        """Return subject -> study and patient, where it is the UID of a study, an instance or an object that is built here."""
        found: dict[str, Row[Any]] = {}
        for query in _STUDIES_OF_SUBJECTS:
            for some in chunks([subject for subject in subjects if subject and subject not in found]):
                found |= {row.subject: row for row in self._connection.execute(query, {"uids": some})}
        return found

    def events_after(self, position: int, *, limit: int) -> Sequence[ChainedEvent]:
        query = select(*_COLUMNS).where(audit_events.c.position > position).order_by(audit_events.c.position).limit(limit)
        return [
            ChainedEvent(
                event=_build_event(row, row["patient"]),
                at=row["at"],
                position=row["position"],
                salt=row["salt"],
                content_sha256=row["content_sha256"],
                chain_sha256=row["chain_sha256"],
            )
            for row in self._connection.execute(query).mappings()
        ]

    def forgotten_pseudonyms(self) -> Sequence[str]:
        forgets = (audit_events.c.action == FORGET) & (audit_events.c.outcome == "done") & (audit_events.c.patient != "")
        return list(self._connection.scalars(select(audit_events.c.patient).where(forgets).distinct()))

    def delivered_position(self, destination: str) -> int:
        query = select(audit_deliveries.c.position).where(audit_deliveries.c.destination == destination)
        return self._connection.scalar(query) or 0

    def note_delivery(self, destination: str, position: int) -> None:
        values = {"position": position, "delivered_at": now()}
        statement = build_insert(audit_deliveries, self._connection.dialect.name).values(destination=destination, **values)
        self._connection.execute(statement.on_conflict_do_update(index_elements=["destination"], set_=values))


def pseudonym_keys_of(connection: Connection, patient_rows: Collection[int]) -> Mapping[int, bytes]:
    """Return row number of a patient -> key of its pseudonyms; a missing key is made."""
    known = _read_keys(connection, patient_rows)
    if missing := [row for row in patient_rows if row not in known]:
        statement = build_insert(pseudonym_keys, connection.dialect.name).on_conflict_do_nothing()
        connection.execute(statement, [{"patient": row, "key": secrets.token_bytes(KEY_BYTES)} for row in missing])
        known |= _read_keys(connection, missing)  # those of a concurrent writer, too
    return known


def _read_keys(connection: Connection, patient_rows: Collection[int]) -> dict[int, bytes]:
    query = select(pseudonym_keys.c.patient, pseudonym_keys.c.key)
    return {
        row: bytes(key)
        for some in chunks(patient_rows)
        for row, key in connection.execute(query.where(pseudonym_keys.c.patient.in_(some)))
    }


def _build_event(row: RowMapping, patient: str) -> AuditEvent:
    return AuditEvent(row["action"], row["outcome"], row["subject"], row["detail"], row["source"], patient)


def _build_link_values(row: int, linked: ChainedEvent) -> dict[str, object]:
    return {
        "row": row,
        "patient": linked.event.patient,
        "salt": linked.salt,
        "content_sha256": linked.content_sha256,
        "position": linked.position,
        "chain_sha256": linked.chain_sha256,
    }


_LINK = update(audit_events).where(audit_events.c.id == bindparam("row"))
_UIDS: BindParameter[Any] = bindparam("uids", expanding=True)


_SUBJECT_COLUMNS = (studies.c.study_instance_uid, studies.c.patient, patients.c.patient_id)
_STUDIES_OF_INSTANCES = instances.join(series, instances.c.series == series.c.id).join(studies, series.c.study == studies.c.id)
_STUDIES_OF_REPORTS = reports.join(studies, reports.c.study == studies.c.id)
_STUDIES_OF_VISIBLE = visible_objects.join(reports, visible_objects.c.report == reports.c.id).join(
    studies, reports.c.study == studies.c.id
)
_STUDIES_OF_DOCUMENTS = reader_documents.join(readings, reader_documents.c.reading == readings.c.id).join(
    studies, readings.c.study == studies.c.id
)
_STUDIES_OF_SUBJECTS: tuple[Select[Any], ...] = tuple(
    select(uid.label("subject"), *_SUBJECT_COLUMNS)
    .select_from(source.join(patients, studies.c.patient == patients.c.id))
    .where(uid.in_(_UIDS))
    for uid, source in (
        (studies.c.study_instance_uid, studies),
        (instances.c.sop_instance_uid, _STUDIES_OF_INSTANCES),
        (reports.c.sop_instance_uid, _STUDIES_OF_REPORTS),
        (visible_objects.c.sop_instance_uid, _STUDIES_OF_VISIBLE),
        (reader_documents.c.sop_instance_uid, _STUDIES_OF_DOCUMENTS),
    )
)
