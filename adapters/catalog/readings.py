"""Drafts and readings of the desk, and the results that it has shown."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, delete, exists, func, insert, or_, select, tuple_

from adapters.catalog.parameters import build_insert, sanitise_text
from adapters.catalog.sql_time import DAY_SECONDS, now, seconds_from_now
from adapters.catalog.studies import find_study_ids
from adapters.catalog.tables import drafts, labels, reader_documents, readings, requests, reveals, second_readings, studies
from pipeline.domain import DeskReading, Draft, LabelExposure, LabelState, ReportState
from pipeline.ports.desk import Repetition

DRAW_PRIME = 1009
SECOND_READER, REPEAT = (31, 17), (73, 41)
"""Factors of the two draws: a quadratic residue of the request's number is a draw that both databases compute alike."""


class SqlReadings:
    """`ports.desk.Readings`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find_draft(self, study_instance_uid: str, reader: str) -> Draft | None:
        query = _select_of_study(drafts.c.content, drafts.c.study, study_instance_uid).where(drafts.c.reader == reader)
        content = self._connection.scalar(query)
        return _build_draft(study_instance_uid, reader, content) if content is not None else None

    def put_draft(self, draft: Draft) -> None:
        study = self._find_study_id(draft.study_instance_uid)
        content = {
            "states": _dump_states(draft.states),
            "points": {finding: list(point) for finding, point in draft.points.items()},
            "comment": sanitise_text(draft.comment),
        }
        statement = build_insert(drafts, self._connection.dialect.name).values(study=study, reader=draft.reader, content=content)
        newer = {"content": statement.excluded.content, "updated_at": now()}
        self._connection.execute(statement.on_conflict_do_update(index_elements=["study", "reader"], set_=newer))

    def drop_draft(self, study_instance_uid: str, reader: str) -> None:
        study = self._find_study_id(study_instance_uid)
        self._connection.execute(delete(drafts).where(drafts.c.study == study, drafts.c.reader == reader))

    def find(self, reader: str, idempotency_key: str) -> DeskReading | None:
        query = _select_readings().where(readings.c.reader == reader, readings.c.idempotency_key == idempotency_key)
        return self._fetch_reading(query)

    def find_last(self, study_instance_uid: str, reader: str) -> DeskReading | None:
        same = readings.c.reader == reader, studies.c.study_instance_uid == study_instance_uid, readings.c.skip_reason == ""
        return self._fetch_reading(_select_readings().where(*same).order_by(readings.c.id.desc()).limit(1))

    def add(self, reading: DeskReading) -> None:
        self._connection.execute(
            insert(readings).values(
                study=self._find_study_id(reading.study_instance_uid),
                reader=reading.reader,
                idempotency_key=reading.idempotency_key,
                skip_reason=reading.skip_reason,
                states=_dump_states(reading.states),
                points={finding: list(point) for finding, point in reading.points.items()},
                comment=sanitise_text(reading.comment),
                exposure=reading.exposure.value,
                is_repeat=reading.is_repeat,
            )
        )

    def add_document(self, reading: DeskReading, sop_instance_uid: str) -> None:
        same = readings.c.reader == reading.reader, readings.c.idempotency_key == reading.idempotency_key
        number = select(readings.c.id).where(*same).scalar_subquery()
        values = {"reading": number, "sop_instance_uid": sop_instance_uid, "state": ReportState.PENDING.value}
        self._connection.execute(insert(reader_documents).values(**values))

    def mark_revealed(self, study_instance_uid: str, reader: str) -> None:
        statement = build_insert(reveals, self._connection.dialect.name)
        values = {"study": self._find_study_id(study_instance_uid), "reader": reader}
        self._connection.execute(statement.values(**values).on_conflict_do_nothing())

    def is_revealed(self, study_instance_uid: str, reader: str) -> bool:
        query = _select_of_study(reveals.c.study, reveals.c.study, study_instance_uid).where(reveals.c.reader == reader)
        return self._connection.scalar(query) is not None

    def open_requests(self, reader: str, *, limit: int, reserved_seconds: float) -> list[str]:
        query = (
            select(studies.c.study_instance_uid)
            .join(requests, requests.c.study == studies.c.id)
            .where(_is_open_request(reader), ~_is_reserved(reader, reserved_seconds))
            .order_by(requests.c.id)
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def second_readings(self, reader: str, *, share: float, limit: int) -> list[str]:
        others = exists().where(readings.c.study == requests.c.study, readings.c.reader != reader, readings.c.skip_reason == "")
        own = exists().where(readings.c.study == requests.c.study, readings.c.reader == reader)
        labelled = exists().where(labels.c.study == requests.c.study, labels.c.reader == reader)
        doubted = exists().where(second_readings.c.study == requests.c.study, ~_is_answered())
        query = (
            select(studies.c.study_instance_uid)
            .join(requests, requests.c.study == studies.c.id)
            .where(~own, ~labelled, or_(and_(others, _is_drawn(SECOND_READER, share)), doubted))
            .order_by(requests.c.id)
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def due_repeats(self, reader: str, *, share: float, days: float, limit: int) -> list[str]:
        last = select(func.max(readings.c.read_at)).where(_is_own_statement(reader)).scalar_subquery()
        query = (
            select(studies.c.study_instance_uid)
            .join(requests, requests.c.study == studies.c.id)
            .where(_is_drawn(REPEAT, share), last <= seconds_from_now(-DAY_SECONDS * days), ~_is_closed_to_repeats(reader))
            .order_by(requests.c.id)
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def find_repetition(self, study_instance_uid: str, reader: str, *, share: float, days: float) -> Repetition:
        last = select(func.max(readings.c.read_at)).where(_is_own_statement(reader)).scalar_subquery()
        query = (
            select(last <= seconds_from_now(-DAY_SECONDS * days))
            .select_from(requests.join(studies, requests.c.study == studies.c.id))
            .where(studies.c.study_instance_uid == study_instance_uid)
            .where(_is_drawn(REPEAT, share), ~_is_closed_to_repeats(reader))
        )
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return Repetition.NONE
        return Repetition.DUE if row[0] else Repetition.AHEAD

    def repeated_pairs(self, reader: str = "") -> list[tuple[DeskReading, DeskReading]]:
        repeats = select(readings.c.study, readings.c.reader).where(readings.c.is_repeat)
        of_repeated = tuple_(readings.c.study, readings.c.reader).in_(repeats)
        query = _select_readings().where(readings.c.skip_reason == "", of_repeated).order_by(readings.c.id)
        first: dict[tuple[str, str], DeskReading] = {}
        pairs = []
        for row in self._connection.execute(query.where(readings.c.reader == reader) if reader else query).mappings():
            reading = _build_reading(row)
            key = (reading.study_instance_uid, reading.reader)
            if not reading.is_repeat:
                first.setdefault(key, reading)
            elif key in first and reading.exposure is not LabelExposure.SEEN:
                pairs.append((first[key], reading))
        return pairs

    def count_open_requests(self, reader: str) -> int:
        return self._connection.scalar(select(func.count()).select_from(requests).where(_is_open_request(reader))) or 0

    def count_readings(self, reader: str, *, hours: float) -> int:
        recent = readings.c.read_at > seconds_from_now(-3600 * hours)
        query = select(func.count(readings.c.study.distinct())).where(readings.c.reader == reader, recent)
        return self._connection.scalar(query) or 0

    def _find_study_id(self, study_instance_uid: str) -> int:
        return find_study_ids(self._connection, {study_instance_uid})[study_instance_uid]

    def _fetch_reading(self, query: Select[Any]) -> DeskReading | None:
        row = self._connection.execute(query).mappings().one_or_none()
        return _build_reading(row) if row else None


def _is_open_request(reader: str) -> ColumnElement[bool]:
    """A request whose study nobody has labelled and this reader has not skipped."""
    labelled = exists().where(labels.c.study == requests.c.study, labels.c.state.is_not(None))
    read = exists().where(readings.c.study == requests.c.study, readings.c.reader == reader)
    return and_(~labelled, ~read)


def _is_drawn(factors: tuple[int, int], share: float) -> ColumnElement[bool]:
    drawn = (requests.c.id * requests.c.id * factors[0] + requests.c.id * factors[1]) % DRAW_PRIME
    return drawn < int(share * DRAW_PRIME)


def _is_answered() -> ColumnElement[bool]:
    """A second reading that somebody has given since it was asked for."""
    given = labels.c.state.is_not(None) & (labels.c.created_at > second_readings.c.requested_at)
    return exists().where(labels.c.study == second_readings.c.study, given)


def _is_own_statement(reader: str) -> ColumnElement[bool]:
    return and_(
        readings.c.study == requests.c.study, readings.c.reader == reader, readings.c.skip_reason == "", ~readings.c.is_repeat
    )


def _is_closed_to_repeats(reader: str) -> ColumnElement[bool]:
    """A study that the reader has had a second time, or whose result the reader has seen."""
    repeated = exists().where(readings.c.study == requests.c.study, readings.c.reader == reader, readings.c.is_repeat)
    revealed = exists().where(reveals.c.study == requests.c.study, reveals.c.reader == reader)
    return or_(repeated, revealed)


def _is_reserved(reader: str, seconds: float) -> ColumnElement[bool]:
    """A study that another reader is labelling now."""
    return exists().where(
        drafts.c.study == requests.c.study, drafts.c.reader != reader, drafts.c.updated_at > seconds_from_now(-seconds)
    )


def _select_of_study(column: ColumnElement[Any], study: ColumnElement[Any], study_instance_uid: str) -> Select[Any]:
    return select(column).join(studies, studies.c.id == study).where(studies.c.study_instance_uid == study_instance_uid)


def _select_readings() -> Select[Any]:
    columns = [column for column in readings.c if column.name not in ("id", "study", "read_at")]
    return select(*columns, studies.c.study_instance_uid).join(studies, readings.c.study == studies.c.id)


def _dump_states(states: Any) -> dict[str, str]:
    return {finding: state.value for finding, state in states.items()}


def _build_draft(study_instance_uid: str, reader: str, content: dict[str, Any]) -> Draft:
    return Draft(
        study_instance_uid=study_instance_uid,
        reader=reader,
        states={finding: LabelState(state) for finding, state in content["states"].items()},
        points={finding: (x, y) for finding, (x, y) in content["points"].items()},
        comment=content["comment"],
    )


def _build_reading(row: RowMapping) -> DeskReading:
    return DeskReading(
        study_instance_uid=row["study_instance_uid"],
        reader=row["reader"],
        idempotency_key=row["idempotency_key"],
        skip_reason=row["skip_reason"],
        states={finding: LabelState(state) for finding, state in row["states"].items()},
        points={finding: (x, y) for finding, (x, y) in row["points"].items()},
        comment=row["comment"],
        exposure=LabelExposure(row["exposure"]),
        is_repeat=row["is_repeat"],
    )
