"""What backfills have done, in memory: a part of `fakes.FakeTransaction`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from pipeline.domain import Study
from pipeline.ports.backfill import BackfillCounts, BackfillUnit


@dataclass
class BackfillRows:
    days: dict[str, set[date]] = field(default_factory=dict)
    parcels: dict[tuple[str, str], tuple[str, BackfillCounts, str]] = field(default_factory=dict)  # mark, tally, error
    brought: dict[str, datetime | None] = field(default_factory=dict)  # study -> when it ended


class FakeBackfills:
    def __init__(self, rows: BackfillRows, studies: Mapping[str, Study], now: Callable[[], datetime]) -> None:
        self._t, self._studies, self._now = rows, studies, now

    def finished_days(self, source: str) -> set[date]:
        return set(self._t.days.get(source, ()))

    def add_finished_days(self, source: str, days: Collection[date]) -> None:
        self._t.days.setdefault(source, set()).update(days)

    def finished_units(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        rows = ((key, self._t.parcels.get((source, key))) for key in keys)
        return {key: row[0] for key, row in rows if row and (failed or not row[2])}

    def finish_unit(
        self, source: str, unit: BackfillUnit, counts: BackfillCounts, studies: Collection[str], *, error: str = ""
    ) -> None:
        self._t.parcels[source, unit.key] = (unit.change_tag, counts, error)
        for uid in studies:
            if uid in self._t.brought:
                self._t.brought[uid] = self._now()

    def mark_backfilled(self, source: str, study_instance_uids: Collection[str]) -> None:
        for uid in study_instance_uids:
            if self.backfilled_studies([uid]) or (uid not in self._studies and uid not in self._t.brought):
                self._t.brought[uid] = None

    def backfilled_studies(self, study_instance_uids: Collection[str]) -> set[str]:
        return {uid for uid in study_instance_uids if uid in self._t.brought and self._nothing_else_came(uid)}

    def _nothing_else_came(self, study_instance_uid: str) -> bool:
        ended, study = self._t.brought[study_instance_uid], self._studies.get(study_instance_uid)
        return ended is None or (study is not None and study.last_received_at <= ended)
