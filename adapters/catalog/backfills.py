"""Progress of backfills: finished days, finished units, and the studies that a backfill brought."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, Table, and_, bindparam, func, literal, or_, select, text, update

from adapters.catalog.parameters import build_insert, chunks, sanitise_text
from adapters.catalog.sql_time import UtcDateTime, now
from adapters.catalog.tables import backfill_days, backfill_units, backfilled_studies, backfills, studies
from pipeline.figures import BackfillFigures
from pipeline.ports.backfill import BackfillCounts, BackfillUnit

DONE, FAILED = "done", "failed"
DAY_FORMAT = "%Y%m%d"  # as PS3.5 6.2 writes a DA


class SqlBackfills:
    """`ports.backfill.Backfills`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def finished_days(self, source: str) -> set[date]:
        query = select(backfill_days.c.day).join(backfills).where(backfills.c.source == source)
        return {datetime.strptime(day, DAY_FORMAT).date() for day in self._connection.scalars(query)}

    def add_finished_days(self, source: str, days: Collection[date]) -> None:
        if days:
            backfill = self._find_or_add_backfill(source)
            rows = [{"backfill": backfill, "day": day.strftime(DAY_FORMAT)} for day in days]
            self._connection.execute(self._insert_into(backfill_days).on_conflict_do_nothing(), rows)

    def finished_units(self, source: str, keys: Collection[str], *, failed: bool) -> dict[str, str]:
        states = (DONE, FAILED) if failed else (DONE,)
        found: dict[str, str] = {}
        for some in chunks(keys):
            query = (
                select(backfill_units.c.key, backfill_units.c.mark)
                .join(backfills)
                .where(backfills.c.source == source, backfill_units.c.state.in_(states), backfill_units.c.key.in_(some))
            )
            found |= {key: mark for key, mark in self._connection.execute(query)}
        return found

    def finish_unit(
        self, source: str, unit: BackfillUnit, counts: BackfillCounts, studies: Collection[str], *, error: str = ""
    ) -> None:
        values: dict[str, Any] = {
            "mark": unit.change_tag,
            "state": FAILED if error else DONE,
            "instances": counts.instances,
            "duplicates": counts.duplicates,
            "refused": counts.refused,
            "bytes": counts.bytes,
            "error": sanitise_text(error),
            "finished_at": now(),
        }
        insert = self._insert_into(backfill_units).values(backfill=self._find_or_add_backfill(source), key=unit.key, **values)
        self._connection.execute(insert.on_conflict_do_update(index_elements=["backfill", "key"], set_=values))
        for some in chunks(studies):
            ended = update(backfilled_studies).where(backfilled_studies.c.study_instance_uid.in_(some))
            self._connection.execute(ended.values(ended_at=now()))

    def mark_backfilled(self, source: str, study_instance_uids: Collection[str]) -> None:
        """A study that a backfill is bringing, and that another unit or run brings again, stays marked."""
        backfill = self._find_or_add_backfill(source)
        for uid in study_instance_uids:
            known = select(studies.c.id).where(studies.c.study_instance_uid == uid).exists()
            fresh = select(literal(uid), literal(backfill)).where(~known)
            insert = self._insert_into(backfilled_studies).from_select(["study_instance_uid", "backfill"], fresh)
            self._connection.execute(insert.on_conflict_do_nothing())
            if self.backfilled_studies([uid]):
                again = update(backfilled_studies).where(backfilled_studies.c.study_instance_uid == uid)
                self._connection.execute(again.values(ended_at=None))

    def backfilled_studies(self, study_instance_uids: Collection[str]) -> set[str]:
        return {uid for some in chunks(study_instance_uids) for uid in self._connection.scalars(_BACKFILLED, {"uids": some})}

    def _find_or_add_backfill(self, source: str) -> int:
        """Return the row number of a source; insert the row where the source is new."""
        known = select(backfills.c.id).where(backfills.c.source == source)
        if (found := self._connection.scalar(known)) is not None:
            return int(found)
        self._connection.execute(self._insert_into(backfills).values(source=source).on_conflict_do_nothing())
        return int(self._connection.scalars(known).one())

    def _insert_into(self, table: Table) -> Any:
        return build_insert(table, self._connection.dialect.name)


def is_only_backfilled() -> Any:
    """Return the condition on a joined row of `backfilled_studies` and `studies`: the backfill has not ended, or no instance has
    been received since."""
    row = backfilled_studies.c
    return or_(row.ended_at.is_(None), and_(studies.c.last_received_at.is_not(None), studies.c.last_received_at <= row.ended_at))


_BACKFILLED = (
    select(backfilled_studies.c.study_instance_uid)
    .outerjoin(studies, studies.c.study_instance_uid == backfilled_studies.c.study_instance_uid)
    .where(backfilled_studies.c.study_instance_uid.in_(bindparam("uids", expanding=True)), is_only_backfilled())
)
"""Built once: it is executed for each study."""

_TOTALS = text(
    "SELECT source, days_done AS days, units_done AS done, units_failed AS failed, instances AS stored, refused, bytes, last_at"
    " FROM v_backfills"
).columns(last_at=UtcDateTime())


def totals_by_kind(connection: Connection) -> dict[str, BackfillFigures]:
    """Return the totals of all backfills by the kind of source: the first word of its name."""
    ended = func.count(backfilled_studies.c.ended_at)
    query = select(backfills.c.source, ended, func.count() - ended).join(backfilled_studies).group_by(backfills.c.source)
    of_studies = {source: {"fetched": fetched, "pending": pending} for source, fetched, pending in connection.execute(query)}
    found: dict[str, BackfillFigures] = {}
    for row in connection.execute(_TOTALS).mappings():
        counts = {name: value for name, value in row.items() if name != "source"} | of_studies.get(row["source"], {})
        kind = row["source"].partition(" ")[0]
        found[kind] = found.get(kind, BackfillFigures()) + BackfillFigures(**counts)
    return found
