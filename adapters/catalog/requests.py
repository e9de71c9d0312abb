"""Requests of the worklist. Append-only: the database refuses UPDATE and DELETE."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from adapters.catalog.parameters import chunks, sanitise_text
from adapters.catalog.studies import find_study_ids
from adapters.catalog.tables import requests, second_readings, studies
from pipeline import rules
from pipeline.domain import Request

WORKLIST_LOCK_KEY = 7_270_412
"""Key of the PostgreSQL advisory lock that two worklists take in turn."""


class SqlRequests:
    """`ports.labels.Requests`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lock(self) -> None:
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer
            self._connection.execute(select(func.pg_advisory_xact_lock(WORKLIST_LOCK_KEY)))

    def append(self, new_requests: Sequence[Request]) -> None:
        rows = find_study_ids(self._connection, {request.study_instance_uid for request in new_requests})
        if unknown := sum(request.study_instance_uid not in rows for request in new_requests):
            raise ValueError(f"{unknown} of {len(new_requests)} requests are for studies that the catalog does not know")
        if new_requests:
            self._connection.execute(insert(requests), [_build_row(request, rows) for request in new_requests])

    def all(self) -> list[Request]:
        return self._fetch_requests(_select_requests())

    def of_studies(self, study_instance_uids: Collection[str]) -> dict[str, Request]:
        queries = (_select_requests().where(studies.c.study_instance_uid.in_(some)) for some in chunks(study_instance_uids))
        return {request.study_instance_uid: request for query in queries for request in self._fetch_requests(query)}

    def _fetch_requests(self, query: Select[Any]) -> list[Request]:
        return [Request(**row) for row in self._connection.execute(query.order_by(requests.c.id)).mappings()]


class SqlSecondReadings:
    """`ports.labels.SecondReadings`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, new_requests: Sequence[Request]) -> None:
        rows = find_study_ids(self._connection, {request.study_instance_uid for request in new_requests})
        if unknown := sum(request.study_instance_uid not in rows for request in new_requests):
            raise ValueError(f"{unknown} of {len(new_requests)} requests are for studies that the catalog does not know")
        values = [
            {
                "study": rows[request.study_instance_uid],
                "finding": request.finding,
                "reason": sanitise_text(request.reason),
                "version": request.version,
                "requested_at": request.requested_at,
            }
            for request in new_requests
        ]
        if values:
            self._connection.execute(insert(second_readings), values)

    def all(self) -> list[Request]:
        columns = [column for column in second_readings.c if column.name not in ("id", "study")]
        query = select(*columns, studies.c.study_instance_uid).join(studies, second_readings.c.study == studies.c.id)
        rows = self._connection.execute(query.order_by(second_readings.c.id)).mappings()
        return [Request(**row, selection_reason=rules.SECOND_READING, selection_probability=1.0) for row in rows]


def _select_requests() -> Select[Any]:
    columns = [column for column in requests.c if column.name not in ("id", "study")]
    return select(*columns, studies.c.study_instance_uid).join(studies, requests.c.study == studies.c.id)


def _build_row(request: Request, rows: dict[str, int]) -> dict[str, Any]:
    values = {**asdict(request), "study": rows[request.study_instance_uid], "reason": sanitise_text(request.reason)}
    return {name: value for name, value in values.items() if name in requests.c}
