"""Stops of reporting, for all findings or one."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from adapters.catalog.parameters import sanitise_text
from adapters.catalog.sql_time import now
from adapters.catalog.tables import report_stops


class SqlReportStops:
    """`ports.studies.ReportStops`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def current(self) -> dict[str, str]:
        query = select(report_stops.c.finding, report_stops.c.reason).where(report_stops.c.resumed_at.is_(None))
        return {finding: reason for finding, reason in self._connection.execute(query)}

    def stop(self, finding: str, *, reason: str, source: str) -> None:
        values = {"finding": finding, "reason": sanitise_text(reason), "source": sanitise_text(source, 128)}
        self._connection.execute(insert(report_stops).values(**values))

    def resume(self, finding: str) -> None:
        is_open = report_stops.c.resumed_at.is_(None)
        self._connection.execute(update(report_stops).where(report_stops.c.finding == finding, is_open).values(resumed_at=now()))
