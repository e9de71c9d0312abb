"""Labels. Append-only: the database refuses UPDATE and DELETE."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, select

from adapters.catalog.parameters import chunks, sanitise_text
from adapters.catalog.studies import find_study_ids
from adapters.catalog.tables import labels, studies
from pipeline.domain import Label, LabelExposure, LabelState

SHORT_TEXT_LENGTH = 64
LABEL_LOCK_KEY = 7_270_415
"""Key of the PostgreSQL advisory lock under which labels are numbered: the numbers become visible in order.

A program that asks for the labels behind a number misses none that was committed later.
"""


class SqlLabels:
    """`ports.labels.Labels`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def append(self, statements: Sequence[Label]) -> None:
        rows = find_study_ids(self._connection, {label.study_instance_uid for label in statements})
        if unknown := sum(label.study_instance_uid not in rows for label in statements):
            raise ValueError(f"{unknown} of {len(statements)} labels are on studies that the catalog does not know")
        if statements:
            if self._connection.dialect.name == "postgresql":  # SQLite has one writer
                self._connection.execute(select(func.pg_advisory_xact_lock(LABEL_LOCK_KEY)))
            self._connection.execute(insert(labels), [_build_row(label, rows[label.study_instance_uid]) for label in statements])

    def all(self) -> list[Label]:
        return self._fetch_labels(_select_labels())

    def count_newer(self, label_id: int) -> int:
        return self._connection.scalar(select(func.count()).select_from(labels).where(labels.c.id > label_id)) or 0

    def of_studies(self, study_instance_uids: Collection[str]) -> list[Label]:
        queries = (_select_labels().where(studies.c.study_instance_uid.in_(some)) for some in chunks(study_instance_uids))
        return sorted((label for query in queries for label in self._fetch_labels(query)), key=lambda label: label.id)

    def multi_reader_studies(self) -> list[str]:
        several = (
            select(labels.c.study).group_by(labels.c.study, labels.c.finding).having(func.count(labels.c.reader.distinct()) > 1)
        )
        query = select(studies.c.study_instance_uid).where(studies.c.id.in_(several)).order_by(studies.c.study_instance_uid)
        return list(self._connection.scalars(query))

    def find(self, ids: Collection[int]) -> list[Label]:
        return [label for some in chunks(ids) for label in self._fetch_labels(_select_labels().where(labels.c.id.in_(some)))]

    def _fetch_labels(self, query: Select[Any]) -> list[Label]:
        return [_build_label(row) for row in self._connection.execute(query.order_by(labels.c.id)).mappings()]


def _select_labels() -> Select[Any]:
    columns = [column for column in labels.c if column.name not in ("study", "created_at")]
    return select(*columns, studies.c.study_instance_uid).join(studies, labels.c.study == studies.c.id)


def _build_label(row: RowMapping) -> Label:
    state = row["state"]
    changes = {"state": LabelState(state) if state is not None else None, "exposure": LabelExposure(row["exposure"])}
    return Label(**{**row, **changes})


def _build_row(label: Label, study: int) -> dict[str, Any]:
    return {
        "study": study,
        "finding": label.finding,
        "state": label.state.value if label.state is not None else None,
        "reader": sanitise_text(label.reader, SHORT_TEXT_LENGTH),
        "source": sanitise_text(label.source, SHORT_TEXT_LENGTH),
        "stated_at": label.stated_at,
        "selection_reason": sanitise_text(label.selection_reason, SHORT_TEXT_LENGTH),
        "selection_probability": label.selection_probability,
        "document": sanitise_text(label.document, SHORT_TEXT_LENGTH),
        "revokes": label.revokes,
        "exposure": label.exposure.value,
    }
