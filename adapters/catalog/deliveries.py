"""Deliveries: each object of a report at each destination."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, String, case, cast, func, literal, or_, select, union_all, update

from adapters.catalog.parameters import build_insert, chunks, sanitise_text
from adapters.catalog.sql_time import DAY_SECONDS, now, seconds_from_now
from adapters.catalog.tables import deliveries, reports, studies, visible_objects
from pipeline.domain import Delivery, DeliveryState, Report, ReportState, VisibleObject

ARRIVED = [DeliveryState.SENT.value, DeliveryState.COMMITTED.value, DeliveryState.VERIFIED.value]


class SqlDeliveries:
    """`ports.deliveries.Deliveries`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ensure_waiting(self, delivered: Report | VisibleObject, destination: str) -> None:
        told = delivered.report if isinstance(delivered, VisibleObject) else delivered.sop_instance_uid
        values = {
            "report": select(reports.c.id).where(reports.c.sop_instance_uid == told).scalar_subquery(),
            "sop_instance_uid": delivered.sop_instance_uid,
            "sop_class_uid": delivered.sop_class_uid,
            "series_instance_uid": delivered.series_instance_uid,
            "destination": destination,
            "state": DeliveryState.WAITING.value,
        }
        insert = build_insert(deliveries, self._connection.dialect.name).values(**values)
        self._connection.execute(insert.on_conflict_do_nothing())

    def mark_sent(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        self.ensure_waiting(delivered, destination)
        self._update_rows(
            [delivered.sop_instance_uid],
            destination,
            state=DeliveryState.SENT.value,
            status=sanitise_text(status),
            sendings=case((deliveries.c.state == DeliveryState.REFUSED.value, 1), else_=deliveries.c.sendings + 1),
            transaction_uid="",
            sent_at=now(),
            committed_at=None,
            verified_at=None,
            checked_at=None,
        )

    def mark_refused(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        self.ensure_waiting(delivered, destination)
        self.mark_unproven(delivered.sop_instance_uid, destination, status)

    def mark_committed(self, sop_instance_uids: Collection[str], destination: str) -> None:
        self._update_rows(
            sop_instance_uids,
            destination,
            [DeliveryState.SENT.value],
            state=DeliveryState.COMMITTED.value,
            status="committed by the archive",
            sendings=0,
            committed_at=now(),
        )

    def mark_verified(self, sop_instance_uids: Collection[str], destination: str) -> None:
        self._update_rows(
            sop_instance_uids,
            destination,
            ARRIVED,
            state=DeliveryState.VERIFIED.value,
            status="found in the archive",
            sendings=0,
            verified_at=now(),
            checked_at=now(),
        )

    def mark_waiting(self, sop_instance_uid: str, destination: str, status: str) -> None:
        self._update_rows(
            [sop_instance_uid], destination, state=DeliveryState.WAITING.value, status=sanitise_text(status), transaction_uid=""
        )

    def mark_unproven(self, sop_instance_uid: str, destination: str, status: str) -> None:
        self._update_rows([sop_instance_uid], destination, state=DeliveryState.REFUSED.value, status=sanitise_text(status))

    def note_checked(self, sop_instance_uids: Collection[str], destination: str, status: str) -> None:
        self._update_rows(sop_instance_uids, destination, status=sanitise_text(status), checked_at=now())

    def note_requested(self, sop_instance_uids: Collection[str], destination: str, transaction_uid: str) -> None:
        self._update_rows(sop_instance_uids, destination, transaction_uid=transaction_uid)

    def unproven(self, destination: str, *, min_age_seconds: float, interval_seconds: float, limit: int) -> list[Delivery]:
        checked_at = deliveries.c.checked_at
        query = _select_sent(destination).where(
            deliveries.c.sent_at <= seconds_from_now(-min_age_seconds),
            # A check that seems to lie ahead was noted by a clock that was ahead.
            or_(checked_at.is_(None), checked_at <= seconds_from_now(-interval_seconds), checked_at > seconds_from_now(1)),
        )
        return self._fetch_deliveries(query.order_by(deliveries.c.sent_at).limit(limit))

    def uncommitted(self, destination: str, *, limit: int) -> list[Delivery]:
        query = _select_sent(destination).where(deliveries.c.transaction_uid == "")
        return self._fetch_deliveries(query.order_by(deliveries.c.sent_at).limit(limit))

    def of_transaction(self, transaction_uid: str) -> list[Delivery]:
        if not transaction_uid:
            return []
        return self._fetch_deliveries(
            _select_deliveries().where(deliveries.c.transaction_uid == transaction_uid).order_by(deliveries.c.id)
        )

    def arrived(self, destination: str, *, max_age_days: float, after: int, limit: int) -> list[Delivery]:
        other = reports.alias()
        newest = select(func.max(other.c.id)).where(other.c.study == reports.c.study).scalar_subquery()
        query = _select_deliveries().where(
            deliveries.c.destination == destination,
            deliveries.c.state.in_(ARRIVED),
            deliveries.c.sent_at >= seconds_from_now(-max_age_days * DAY_SECONDS),
            deliveries.c.id > after,
            deliveries.c.report == newest,
        )
        return self._fetch_deliveries(query.order_by(deliveries.c.id).limit(limit))

    def adopt_sent(self, destination: str, *, max_age_days: float) -> None:
        columns = ["report", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "destination", "state", "sent_at"]
        told, shown = _select_sent_objects(reports, reports.c.id), _select_sent_objects(visible_objects, visible_objects.c.report)
        sent = union_all(told, shown).subquery()
        known = select(deliveries.c.id).where(
            deliveries.c.sop_instance_uid == sent.c.sop_instance_uid, deliveries.c.destination == destination
        )
        missing = select(
            sent.c.report,
            sent.c.sop_instance_uid,
            sent.c.sop_class_uid,
            sent.c.series_instance_uid,
            literal(destination, String),
            cast(literal(DeliveryState.SENT.value), String),
            sent.c.sent_at,
        ).where(sent.c.sent_at >= seconds_from_now(-max_age_days * DAY_SECONDS), ~known.exists())
        insert = build_insert(deliveries, self._connection.dialect.name).from_select(columns, missing)
        self._connection.execute(insert.on_conflict_do_nothing())

    def _fetch_deliveries(self, query: Select[Any]) -> list[Delivery]:
        return [_build_delivery(row) for row in self._connection.execute(query).mappings()]

    def _update_rows(
        self, sop_instance_uids: Collection[str], destination: str, states: Collection[str] = (), **values: Any
    ) -> None:
        for some in chunks(sop_instance_uids):
            which = [deliveries.c.sop_instance_uid.in_(some), deliveries.c.destination == destination]
            which += [deliveries.c.state.in_(states)] if states else []
            self._connection.execute(update(deliveries).where(*which).values(**values))


def _select_deliveries() -> Select[Any]:
    return (
        select(deliveries, studies.c.study_instance_uid)
        .join(reports, deliveries.c.report == reports.c.id)
        .join(studies, reports.c.study == studies.c.id)
    )


def _select_sent(destination: str) -> Select[Any]:
    return _select_deliveries().where(
        deliveries.c.destination == destination, deliveries.c.state == literal(DeliveryState.SENT.value, literal_execute=True)
    )


def _select_sent_objects(table: Any, report: Any) -> Select[Any]:
    return select(
        report.label("report"), table.c.sop_instance_uid, table.c.sop_class_uid, table.c.series_instance_uid, table.c.sent_at
    ).where(table.c.state == ReportState.SENT.value)


def _build_delivery(row: RowMapping) -> Delivery:
    return Delivery(
        id=row["id"],
        sop_instance_uid=row["sop_instance_uid"],
        sop_class_uid=row["sop_class_uid"],
        series_instance_uid=row["series_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        destination=row["destination"],
        state=DeliveryState(row["state"]),
        status=row["status"],
        sendings=row["sendings"],
        sent_at=row["sent_at"],
    )
