"""Patients, studies, series and instances."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    RowMapping,
    Select,
    Table,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from adapters.catalog.jobs import OPEN_STATES, RUNNING, WAITING, has_job
from adapters.catalog.parameters import build_insert, chunks, sanitise_text
from adapters.catalog.sql_time import CLOCK_TOLERANCE_SECONDS, DAY_SECONDS, now, seconds_from_now
from adapters.catalog.tables import (
    backfilled_studies,
    draw_keys,
    instances,
    labels,
    patients,
    predictions,
    reports,
    requests,
    series,
    studies,
)
from pipeline import rules
from pipeline.domain import (
    FINDINGS,
    Header,
    InstanceState,
    JobKind,
    ReportState,
    Sender,
    StoredFile,
    StoredInstance,
    Study,
    StudyState,
)

HEADER_COLUMNS = ("sop_instance_uid", "sop_class_uid", "transfer_syntax_uid", "instance_number")
"""Fields of a Header with a column of their own in `instances`; the others are in its JSON column `header`."""
SILENT_PURPOSE, DRAW_KEY_BYTES = "silent share", 32
"""Purpose, in `draw_keys`, of the key that draws the silent share; its length."""
_IS_ARRIVING = studies.c.state == literal_column(f"'{StudyState.ARRIVING.value}'")
"""A literal, not a parameter: SQLite uses a partial index only for a literal condition."""
IN_UIDS = studies.c.study_instance_uid.in_(bindparam("uids", expanding=True))
"""Condition of statements that are built once and executed for a chunk of StudyInstanceUIDs, `uids`."""
_STUDY_IDS = select(studies.c.study_instance_uid, studies.c.id).where(IN_UIDS)
JSON_HEADER_FIELDS = tuple(field.name for field in fields(Header) if field.name not in HEADER_COLUMNS)
_INSTANCE_ORDER = (series.c.series_number.nulls_first(), instances.c.instance_number.nulls_first(), instances.c.sop_instance_uid)


def find_study_ids(connection: Connection, study_instance_uids: Collection[str]) -> dict[str, int]:
    """Return StudyInstanceUID -> row number of the studies that the catalog knows."""
    return {uid: row for some in chunks(study_instance_uids) for uid, row in connection.execute(_STUDY_IDS, {"uids": some})}


class SqlStudies:
    """`ports.studies.Studies`.

    On PostgreSQL a transaction that writes locks the studies and instances that it looks up until it ends; on SQLite it holds the
    only write lock. So a decision on the state of a study, or on whether an instance is new, still holds at its commit.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.has_released = False
        self._locks_rows = connection.dialect.name == "postgresql" and connection.get_execution_options().get("writes", False)

    def find_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        if self._locks_rows:  # by an advisory lock: a new instance has no row to lock
            self._connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(sop_instance_uid, 0))))
        row = self._connection.execute(_INSTANCE, {"uid": sop_instance_uid}).mappings().one_or_none()
        return _build_instance(row) if row else None

    def add_instance(self, header: Header, file: StoredFile, sender: Sender, *, opens_study: bool) -> None:
        study, row = self.ensure_series(header)
        values = {
            "series": row,
            "header": {name: getattr(header, name) for name in JSON_HEADER_FIELDS},
            **{name: getattr(header, name) for name in HEADER_COLUMNS},
            "file_key": file.key,
            "file_sha256": file.sha256,
            "file_size": file.size,
            "file_xxh3": file.xxh3,
            "sender_ae_title": sanitise_text(sender.ae_title, 64),
            "sender_address": sanitise_text(sender.address, 64),
            "called_ae_title": sanitise_text(sender.called_ae_title, 64),
        }
        self._connection.execute(_ADD_INSTANCE, values)
        self.count_instance(study, opens_study=opens_study)

    def count_instance(self, study: int, *, opens_study: bool) -> None:
        """Count a new instance of the study with this row number, as `add_instance` does."""
        self._connection.execute(_REOPEN_STUDY if opens_study else _COUNT_INSTANCE, {"study_id": study})

    def ensure_series(self, header: Header) -> tuple[int, int]:
        """Insert study and series where new; return their row numbers."""
        study = self._find_or_add_study(header)
        return study, self._find_or_add_series(header, study)

    def ensure_patient(self, header: Header) -> int:
        """Insert the patient where new; return the row number."""
        return self._insert_or_find(
            patients,
            _PATIENT_ID,
            {"key": header.patient_key},
            patient_key=header.patient_key,
            patient_id=header.patient_id,
            issuer_of_patient_id=header.issuer_of_patient_id,
            patient_sex=header.patient_sex,
        )

    def _find_or_add_study(self, header: Header) -> int:
        """Return the study's row number; insert the study where new. A known study keeps its patient."""
        if (found := self._connection.scalar(_STUDY_ID, {"uid": header.study_instance_uid})) is not None:
            return int(found)
        patient = self.ensure_patient(header)
        return self._insert_or_find(
            studies,
            _STUDY_ID,
            {"uid": header.study_instance_uid},
            patient=patient,
            state=StudyState.ARRIVING.value,
            **{
                name: getattr(header, name)
                for name in (
                    "study_instance_uid",
                    "accession_number",
                    "study_date",
                    "study_time",
                    "study_description",
                    "patient_age",
                )
            },
        )

    def _find_or_add_series(self, header: Header, study: int) -> int:
        same = {"in_study": study, "uid": header.series_instance_uid}
        if (found := self._connection.scalar(_SERIES_ID, same)) is not None:
            return int(found)
        names = ("series_instance_uid", "modality", "series_number", "series_description")
        return self._insert_or_find(series, _SERIES_ID, same, study=study, **{name: getattr(header, name) for name in names})

    def _insert_or_find(self, table: Table, find: Select[Any], same: dict[str, Any], **values: Any) -> int:
        """Insert unless a concurrent association has inserted the same row; return the row's number."""
        made = self._connection.scalar(_insert_if_new(table, self._connection.dialect.name), values)
        found = made if made is not None else self._connection.scalar(find, same)
        assert found is not None
        return int(found)

    def find(self, study_instance_uid: str) -> Study | None:
        query = _LOCKED_STUDY if self._locks_rows else _STUDY
        row = self._connection.execute(query, {"uid": study_instance_uid}).mappings().one_or_none()
        return _build_study(row) if row else None

    def lock(self, study_instance_uids: Collection[str]) -> dict[str, Study]:
        query = _LOCKED_STUDIES if self._locks_rows else _STUDIES
        rows = (self._connection.execute(query, {"uids": some}).mappings() for some in chunks(study_instance_uids))
        return {row["study_instance_uid"]: _build_study(row) for some in rows for row in some}

    def instances(self, study_instance_uid: str) -> list[StoredInstance]:
        return [
            _build_instance(row) for row in self._connection.execute(_INSTANCES_OF_STUDY, {"uid": study_instance_uid}).mappings()
        ]

    def instances_of(self, study_instance_uids: Collection[str]) -> dict[str, list[StoredInstance]]:
        found: dict[str, list[StoredInstance]] = {}
        for some in chunks(study_instance_uids):
            query = _select_instances().add_columns(studies.c.study_instance_uid).where(studies.c.study_instance_uid.in_(some))
            for row in self._connection.execute(query.order_by(*_INSTANCE_ORDER)).mappings():
                found.setdefault(row["study_instance_uid"], []).append(_build_instance(row))
        return found

    def patient_keys(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in chunks(study_instance_uids):
            named = select(studies.c.study_instance_uid, patients.c.patient_key).join(patients, studies.c.patient == patients.c.id)
            found |= {uid: key for uid, key in self._connection.execute(named.where(studies.c.study_instance_uid.in_(some)))}
        return found

    def highest_patient_number(self) -> int:
        return self._connection.scalar(select(func.max(patients.c.id))) or 0

    def label_candidates(
        self,
        version: int,
        *,
        request_expiry_days: float,
        patients: Collection[int] | None = None,
        among: Collection[str] | None = None,
    ) -> dict[str, str]:
        query = _select_unread(version, request_expiry_days)
        queries = [query] if patients is None else [query.where(studies.c.patient.in_(some)) for some in chunks(patients)]
        if among is not None:
            queries = [one.where(studies.c.study_instance_uid.in_(some)) for one in queries for some in chunks(among)]
        return dict(sorted((uid, key) for one in queries for uid, key in self._connection.execute(one)))

    def accession_numbers(self, study_instance_uids: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in chunks(study_instance_uids):
            named = select(studies.c.study_instance_uid, studies.c.accession_number)
            rows = self._connection.execute(named.where(studies.c.study_instance_uid.in_(some)))
            found |= {uid: accession_number for uid, accession_number in rows}
        return found

    def uids_by_accession_number(self, accession_numbers: Collection[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for some in chunks(accession_numbers):
            named = select(studies.c.accession_number, studies.c.study_instance_uid).order_by(studies.c.study_instance_uid)
            for accession_number, uid in self._connection.execute(named.where(studies.c.accession_number.in_(some))):
                found.setdefault(accession_number, []).append(uid)
        return found

    def newest_complete(self, *, limit: int) -> list[str]:
        complete = studies.c.state != StudyState.ARRIVING.value
        query = select(studies.c.study_instance_uid).where(complete).order_by(studies.c.id.desc())
        return list(self._connection.scalars(query.limit(limit)))

    def newest_files(self, *, limit: int) -> list[StoredFile]:
        newest = select(instances.c.file_key, instances.c.file_sha256, instances.c.file_size, instances.c.file_xxh3)
        rows = self._connection.execute(newest.order_by(instances.c.id.desc()).limit(limit))
        return [StoredFile(key, sha256, size, xxh3) for key, sha256, size, xxh3 in rows]

    def earlier_studies(self, study_instance_uid: str, *, limit: int) -> list[tuple[str, str]]:
        this = studies.alias("this")
        query = (
            select(studies.c.study_instance_uid, studies.c.study_date)
            .join(this, this.c.patient == studies.c.patient)
            .where(this.c.study_instance_uid == study_instance_uid, studies.c.study_date < this.c.study_date)
            .order_by(studies.c.study_date.desc(), studies.c.id.desc())
            .limit(limit)
        )
        return [(uid, date) for uid, date in self._connection.execute(query)]

    def highest_study_number(self) -> int:
        return self._connection.scalar(select(func.max(studies.c.id))) or 0

    def uids_by_number(self, numbers: range) -> list[str]:
        among = and_(studies.c.id >= numbers.start, studies.c.id < numbers.stop)
        return list(self._connection.scalars(select(studies.c.study_instance_uid).where(among).order_by(studies.c.id.desc())))

    def unscored(self, version: int, *, limit: int, numbers: range | None = None) -> list[str]:
        in_hand = has_job(JobKind.SCORE, studies.c.study_instance_uid, *OPEN_STATES)
        query = select(studies.c.study_instance_uid).where(
            or_(studies.c.state == StudyState.REPORTED.value, _is_report_ended(), _is_unreported_backfill()),
            ~_has_predictions(version),
            ~in_hand,
        )
        if numbers is not None:
            query = query.where(studies.c.id >= numbers.start, studies.c.id < numbers.stop)
        return list(self._connection.scalars(query.order_by(studies.c.id.desc()).limit(limit)))

    def document_uids(self) -> list[str]:
        family = instances.c.sop_class_uid.startswith(rules.STRUCTURED_REPORT_FAMILY, autoescape=True)  # key objects among them
        return list(self._connection.scalars(select(instances.c.sop_instance_uid).where(family).order_by(instances.c.id)))

    def mark_released(self, study_instance_uids: Sequence[str]) -> None:
        self.has_released = True
        for uids in chunks(study_instance_uids):
            self._connection.execute(
                update(studies)
                .where(studies.c.study_instance_uid.in_(uids), studies.c.state == StudyState.ARRIVING.value)
                .values(released=True)
            )

    def stable_studies(self, *, seconds: float, released: bool, limit: int) -> list[str]:
        due: ColumnElement[bool] = studies.c.last_received_at <= seconds_from_now(-seconds)
        query = (
            select(studies.c.study_instance_uid)
            .where(_IS_ARRIVING, or_(due, studies.c.released) if released else due)
            .order_by(studies.c.last_received_at)
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def arriving_studies(self, *, limit: int) -> list[tuple[str, int]]:
        query = (
            select(studies.c.study_instance_uid, studies.c.instance_count)
            .where(_IS_ARRIVING)
            .order_by(studies.c.last_received_at)
            .limit(limit)
        )
        return [(uid, count) for uid, count in self._connection.execute(query)]

    def follow_clock(self) -> int:
        ahead = studies.c.last_received_at > seconds_from_now(CLOCK_TOLERANCE_SECONDS)
        return self._connection.execute(update(studies).where(_IS_ARRIVING, ahead).values(last_received_at=now())).rowcount

    def put_state(self, study_instance_uid: str, state: StudyState, *, reason: str = "") -> None:
        self._connection.execute(
            update(studies)
            .where(studies.c.study_instance_uid == study_instance_uid)
            .values(state=state.value, reason=sanitise_text(reason))
        )

    def put_states(self, study_instance_uids: Collection[str], state: StudyState) -> None:
        for some in chunks(study_instance_uids):
            self._connection.execute(_PUT_STATES, {"uids": some, "to": state.value})

    def draw_key(self) -> bytes:
        find = select(draw_keys.c.key).where(draw_keys.c.purpose == SILENT_PURPOSE)
        found = self._connection.scalar(find)
        if found is None:
            made = build_insert(draw_keys, self._connection.dialect.name).values(
                purpose=SILENT_PURPOSE, key=secrets.token_hex(DRAW_KEY_BYTES)
            )
            self._connection.execute(made.on_conflict_do_nothing())  # another scorer may have made it
            found = self._connection.scalars(find).one()
        return bytes.fromhex(found)

    def put_silent(self, study_instance_uids: Collection[str], *, silent: bool) -> None:
        for some in chunks(study_instance_uids):
            self._connection.execute(update(studies).where(studies.c.study_instance_uid.in_(some)).values(silent=silent))

    def next_revisions(self, study_instance_uids: Collection[str]) -> dict[str, int]:
        rows = (self._connection.execute(_NEXT_REVISIONS, {"uids": some}) for some in chunks(study_instance_uids))
        return {uid: revision for some in rows for uid, revision in some}


def _has_predictions(version: int) -> ColumnElement[bool]:
    """Return the condition that a version has predicted a study. The first finding decides: all are predicted together."""
    return exists().where(
        predictions.c.study == studies.c.id, predictions.c.version == version, predictions.c.finding == FINDINGS[0]
    )


def _select_unread(version: int, request_expiry_days: float) -> Select[Any]:
    """Return the scored studies without a request, of patients without a label and without a request that has not expired."""
    other = studies.alias()
    unexpired = or_(
        requests.c.selection_reason == rules.MONITORING,
        requests.c.requested_at > seconds_from_now(-request_expiry_days * DAY_SECONDS),
    )
    labelled, requested = exists().where(labels.c.study == other.c.id), exists().where(requests.c.study == other.c.id, unexpired)
    known = exists().where(other.c.patient == studies.c.patient, or_(labelled, requested))
    return (
        select(studies.c.study_instance_uid, patients.c.patient_key)
        .join(patients, studies.c.patient == patients.c.id)
        .where(studies.c.state.in_((StudyState.SCORED.value, StudyState.REPORTED.value)), _has_predictions(version), ~known)
        .where(~exists().where(requests.c.study == studies.c.id))
    )


def _is_report_ended() -> ColumnElement[bool]:
    """Return the condition that a study's last report was refused for good, or is kept, and that no report job is active."""
    ended = or_(reports.c.state == ReportState.REFUSED.value, reports.c.withheld != "")
    last = select(case((ended, 1), else_=0)).where(reports.c.study == studies.c.id).order_by(reports.c.id.desc()).limit(1)
    scored = studies.c.state == StudyState.SCORED.value
    return and_(scored, last.scalar_subquery() == 1, ~_has_active_report_job())


def _is_unreported_backfill() -> ColumnElement[bool]:
    """Return the condition that a backfill brought a scored study that has no report and no active report job."""
    brought = exists().where(backfilled_studies.c.study_instance_uid == studies.c.study_instance_uid)
    reported = exists().where(reports.c.study == studies.c.id)
    return and_(studies.c.state == StudyState.SCORED.value, brought, ~reported, ~_has_active_report_job())


def _has_active_report_job() -> ColumnElement[bool]:
    return has_job(JobKind.REPORT, studies.c.study_instance_uid, WAITING, RUNNING)


def _select_instances() -> Select[Any]:
    return select(instances).join(series, instances.c.series == series.c.id).join(studies, series.c.study == studies.c.id)


# Built once, for they are executed for each instance: see `scores`.
_INSTANCE = _select_instances().where(instances.c.sop_instance_uid == bindparam("uid"))
_STUDY = (
    select(studies, patients.c.patient_key)
    .join(patients, studies.c.patient == patients.c.id)
    .where(studies.c.study_instance_uid == bindparam("uid"))
)
_LOCKED_STUDY = _STUDY.with_for_update(of=studies, key_share=True)
_STUDIES = (
    select(studies, patients.c.patient_key)
    .join(patients, studies.c.patient == patients.c.id)
    .where(IN_UIDS)
    .order_by(studies.c.study_instance_uid)
)
_LOCKED_STUDIES = _STUDIES.with_for_update(of=studies, key_share=True)
_PATIENT_ID = select(patients.c.id).where(patients.c.patient_key == bindparam("key"))
_STUDY_ID = select(studies.c.id).where(studies.c.study_instance_uid == bindparam("uid"))
_SERIES_ID = select(series.c.id).where(series.c.study == bindparam("in_study"), series.c.series_instance_uid == bindparam("uid"))
_ADD_INSTANCE = insert(instances)
_COUNT_INSTANCE = (
    update(studies)
    .where(studies.c.id == bindparam("study_id"))
    .values(instance_count=studies.c.instance_count + 1, last_received_at=now(), released=False)
)
_INSTANCES_OF_STUDY = _select_instances().where(studies.c.study_instance_uid == bindparam("uid")).order_by(*_INSTANCE_ORDER)
_NEXT_REVISIONS = (
    update(studies)
    .where(IN_UIDS)
    .values(revision=studies.c.revision + 1)
    .returning(studies.c.study_instance_uid, studies.c.revision)
)
_PUT_STATES = update(studies).where(IN_UIDS).values(state=bindparam("to"), reason="")
_REOPEN_STUDY = _COUNT_INSTANCE.values(state=StudyState.ARRIVING.value, reason="")


@cache
def _insert_if_new(table: Table, dialect: str) -> Executable:
    statement: Executable = build_insert(table, dialect).on_conflict_do_nothing().returning(table.c.id)
    return statement


def _build_instance(row: RowMapping) -> StoredInstance:
    stored = dict(row["header"]) | {name: row[name] for name in HEADER_COLUMNS}
    stored["image_type"] = tuple(stored.get("image_type") or ())
    known = {field.name for field in fields(Header)}  # a later release may have stored more
    header = Header(**{name: value for name, value in stored.items() if name in known})
    file = StoredFile(row["file_key"], row["file_sha256"], row["file_size"], row["file_xxh3"])
    state = InstanceState(row["state"])
    return StoredInstance(header, file, row["received_at"], state, row["revision"], row["pixels_sha256"])


def _build_study(row: RowMapping) -> Study:
    return Study(
        study_instance_uid=row["study_instance_uid"],
        state=StudyState(row["state"]),
        reason=row["reason"],
        revision=row["revision"],
        instances=row["instance_count"],
        received_at=row["received_at"],
        last_received_at=row["last_received_at"],
        accession_number=row["accession_number"],
        study_date=row["study_date"],
        patient_key=row["patient_key"],
        silent=row["silent"],
    )
