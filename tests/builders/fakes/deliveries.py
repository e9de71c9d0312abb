"""Fake of ports.deliveries.Deliveries, and an archive that loses objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from pipeline.domain import Delivery, DeliveryState, Report, ReportState, VisibleObject
from pipeline.ports.deliveries import CommitmentProvider, Deliveries
from tests.builders.fakes.reports import FakeArchive
from tests.builders.fakes.rows import CatalogTables, DeliveryRow

ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED, DeliveryState.VERIFIED)


class FakeDeliveries:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def ensure_waiting(self, delivered: Report | VisibleObject, destination: str) -> None:
        told = delivered.report if isinstance(delivered, VisibleObject) else delivered.sop_instance_uid
        row = Delivery(
            id=len(self._t.deliveries) + 1,
            sop_instance_uid=delivered.sop_instance_uid,
            sop_class_uid=delivered.sop_class_uid,
            series_instance_uid=delivered.series_instance_uid,
            study_instance_uid=self._t.reports[told].study_instance_uid,
            destination=destination,
            state=DeliveryState.WAITING,
        )
        self._t.deliveries.setdefault((delivered.sop_instance_uid, destination), DeliveryRow(row, told))

    def mark_sent(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        self.ensure_waiting(delivered, destination)
        row = self._t.deliveries[delivered.sop_instance_uid, destination]
        sendings = 1 if row.delivery.state is DeliveryState.REFUSED else row.delivery.sendings + 1
        row.transaction_uid, row.checked_at = "", None
        row.delivery = replace(row.delivery, state=DeliveryState.SENT, status=status, sendings=sendings, sent_at=self._now())

    def mark_refused(self, delivered: Report | VisibleObject, destination: str, status: str) -> None:
        self.ensure_waiting(delivered, destination)
        self.mark_unproven(delivered.sop_instance_uid, destination, status)

    def mark_committed(self, sop_instance_uids: Collection[str], destination: str) -> None:
        changes = {"state": DeliveryState.COMMITTED, "status": "committed by the archive", "sendings": 0}
        self._update(sop_instance_uids, destination, (DeliveryState.SENT,), **changes)

    def mark_verified(self, sop_instance_uids: Collection[str], destination: str) -> None:
        changes = {"state": DeliveryState.VERIFIED, "status": "found in the archive", "sendings": 0}
        for row in self._update(sop_instance_uids, destination, ARRIVED, **changes):
            row.checked_at = self._now()

    def mark_waiting(self, sop_instance_uid: str, destination: str, status: str) -> None:
        for row in self._update([sop_instance_uid], destination, state=DeliveryState.WAITING, status=status):
            row.transaction_uid = ""

    def mark_unproven(self, sop_instance_uid: str, destination: str, status: str) -> None:
        self._update([sop_instance_uid], destination, state=DeliveryState.REFUSED, status=status)

    def note_checked(self, sop_instance_uids: Collection[str], destination: str, status: str) -> None:
        for row in self._update(sop_instance_uids, destination, status=status):
            row.checked_at = self._now()

    def note_requested(self, sop_instance_uids: Collection[str], destination: str, transaction_uid: str) -> None:
        for row in self._update(sop_instance_uids, destination):
            row.transaction_uid = transaction_uid

    def unproven(self, destination: str, *, min_age_seconds: float, interval_seconds: float, limit: int) -> list[Delivery]:
        sent_by = self._now() - timedelta(seconds=min_age_seconds)
        checked_by = self._now() - timedelta(seconds=interval_seconds)
        found = [
            row.delivery
            for row in self._rows(destination)
            if row.delivery.state is DeliveryState.SENT
            and row.delivery.sent_at is not None
            and row.delivery.sent_at <= sent_by
            and (row.checked_at is None or not checked_by < row.checked_at <= self._now())
        ]
        return sorted(found, key=lambda one: one.sent_at or self._now())[:limit]

    def uncommitted(self, destination: str, *, limit: int) -> list[Delivery]:
        rows = self._rows(destination)
        return [row.delivery for row in rows if row.delivery.state is DeliveryState.SENT and not row.transaction_uid][:limit]

    def of_transaction(self, transaction_uid: str) -> list[Delivery]:
        rows = self._t.deliveries.values()
        return [row.delivery for row in rows if transaction_uid and row.transaction_uid == transaction_uid]

    def arrived(self, destination: str, *, max_age_days: float, after: int, limit: int) -> list[Delivery]:
        newest = {report.study_instance_uid: uid for uid, report in self._t.reports.items()}
        begin = self._now() - timedelta(days=max_age_days)
        return [
            row.delivery
            for row in self._rows(destination)
            if row.delivery.state in ARRIVED
            and row.delivery.id > after
            and row.delivery.sent_at is not None
            and row.delivery.sent_at >= begin
            and newest[row.delivery.study_instance_uid] == row.report
        ][:limit]

    def adopt_sent(self, destination: str, *, max_age_days: float) -> None:
        known: list[Report | VisibleObject] = [*self._t.reports.values(), *self._t.visible_objects.values()]
        missing = [
            one for one in known if one.state is ReportState.SENT and (one.sop_instance_uid, destination) not in self._t.deliveries
        ]
        for one in missing:
            self.mark_sent(one, destination, "")

    def _rows(self, destination: str) -> list[DeliveryRow]:
        return [row for (_, to), row in self._t.deliveries.items() if to == destination]

    def _update(
        self, uids: Collection[str], destination: str, states: Collection[DeliveryState] = tuple(DeliveryState), **changes: Any
    ) -> list[DeliveryRow]:
        found = [self._t.deliveries[uid, destination] for uid in uids if (uid, destination) in self._t.deliveries]
        found = [row for row in found if row.delivery.state in states]
        for row in found:
            row.delivery = replace(row.delivery, **changes)
        return found


class FakeProvingArchive(FakeArchive):
    """ports.deliveries.CommitmentProvider: `held` is asked; `result` answers a request for commitment at once, None later."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.studies: set[str] = set()
        self.query_errors: list[Exception] = []
        self.queries: list[list[str]] = []
        self.requests: dict[str, list[str]] = {}
        self.result: dict[str, str] | None = None

    def find_instances(self, deliveries: Sequence[Delivery], *, limit_seconds: float) -> set[str]:
        self.queries.append([one.sop_instance_uid for one in deliveries])
        if self.query_errors:
            raise self.query_errors.pop(0)
        return self.held & set(self.queries[-1])

    def holds_study(self, study_instance_uid: str, *, limit_seconds: float) -> bool:
        return study_instance_uid in self.studies

    def request_commitment(
        self, transaction_uid: str, deliveries: Sequence[Delivery], *, limit_seconds: float
    ) -> Mapping[str, str] | None:
        if self.query_errors:
            raise self.query_errors.pop(0)
        self.requests[transaction_uid] = [one.sop_instance_uid for one in deliveries]
        return self.result


# The type checker holds each fake against its port.
def _deliveries(fake: FakeDeliveries) -> Deliveries:
    return fake


def _provider(fake: FakeProvingArchive) -> CommitmentProvider:
    return fake
