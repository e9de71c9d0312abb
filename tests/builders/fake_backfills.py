"""What backfills have done, in memory: a part of `fakes.FakeTransaction`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

from pipeline.domain import Study
from pipeline.ports.backfill import Parcel, Tally


@dataclass
class BackfillRows:
    days: dict[str, set[date]] = field(default_factory=dict)
    parcels: dict[tuple[str, str], tuple[str, Tally, str]] = field(default_factory=dict)  # mark, tally, error
    brought: dict[str, datetime | None] = field(default_factory=dict)  # study -> when it ended


class FakeBackfills:
    def __init__(self, rows: BackfillRows, studies: Mapping[str, Study], now: Callable[[], datetime]) -> None:
        self._t, self._studies, self._now = rows, studies, now

    def days_done(self, source: str) -> set[date]:
        return set(self._t.days.get(source, ()))

    def put_days_done(self, source: str, days: Collection[date]) -> None:
        self._t.days.setdefault(source, set()).update(days)

    def concluded(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        rows = ((key, self._t.parcels.get((source, key))) for key in keys)
        return {key: row[0] for key, row in rows if row and (failed or not row[2])}

    def conclude(self, source: str, parcel: Parcel, tally: Tally, studies: Collection[str], *, error: str = "") -> None:
        self._t.parcels[source, parcel.key] = (parcel.mark, tally, error)
        for uid in studies:
            if uid in self._t.brought:
                self._t.brought[uid] = self._now()

    def bring(self, source: str, study_instance_uids: Collection[str]) -> None:
        for uid in study_instance_uids:
            if self.brought([uid]) or (uid not in self._studies and uid not in self._t.brought):
                self._t.brought[uid] = None

    def brought(self, study_instance_uids: Collection[str]) -> set[str]:
        return {uid for uid in study_instance_uids if uid in self._t.brought and self._nothing_else_came(uid)}

    def _nothing_else_came(self, study_instance_uid: str) -> bool:
        ended, study = self._t.brought[study_instance_uid], self._studies.get(study_instance_uid)
        return ended is None or (study is not None and study.last_received_at <= ended)
