"""Fake of ports.Backfills."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime

from pipeline.domain import (
    Study,
)
from pipeline.ports.backfill import BackfillCounts, BackfillUnit
from tests.builders.fakes.rows import BackfillRows


class FakeBackfills:
    def __init__(self, rows: BackfillRows, studies: Mapping[str, Study], now: Callable[[], datetime]) -> None:
        self._t, self._studies, self._now = rows, studies, now

    def finished_days(self, source: str) -> set[date]:
        return set(self._t.days.get(source, ()))

    def add_finished_days(self, source: str, days: Collection[date]) -> None:
        self._t.days.setdefault(source, set()).update(days)

    def finished_units(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        rows = ((key, self._t.units.get((source, key))) for key in keys)
        return {key: row[0] for key, row in rows if row and (failed or not row[2])}

    def finish_unit(
        self, source: str, unit: BackfillUnit, counts: BackfillCounts, studies: Collection[str], *, error: str = ""
    ) -> None:
        self._t.units[source, unit.key] = (unit.change_tag, counts, error)
        for uid in studies:
            if uid in self._t.studies:
                self._t.studies[uid] = self._now()

    def mark_backfilled(self, source: str, study_instance_uids: Collection[str]) -> None:
        for uid in study_instance_uids:
            if self.backfilled_studies([uid]) or (uid not in self._studies and uid not in self._t.studies):
                self._t.studies[uid] = None

    def backfilled_studies(self, study_instance_uids: Collection[str]) -> set[str]:
        return {uid for uid in study_instance_uids if uid in self._t.studies and self._is_only_backfilled(uid)}

    def _is_only_backfilled(self, study_instance_uid: str) -> bool:
        ended, study = self._t.studies[study_instance_uid], self._studies.get(study_instance_uid)
        return ended is None or (study is not None and study.last_received_at <= ended)
