"""Documents of readers: what was said at the desk, as an SR on its way to the archive."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update

from adapters.catalog.parameters import sanitise_text
from adapters.catalog.sql_time import now
from adapters.catalog.tables import reader_documents, readings, studies
from pipeline.domain import LabelState, ReaderDocument, ReportState, StoredFile


class SqlReaderDocuments:
    """`ports.labels.ReaderDocuments`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, sop_instance_uid: str) -> ReaderDocument | None:
        row = self._connection.execute(_DOCUMENT, {"uid": sop_instance_uid}).mappings().one_or_none()
        return _build_document(row) if row else None

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        stored = {"file_key": file.key, "file_sha256": file.sha256, "file_size": file.size}
        self._update_row(sop_instance_uid, state=ReportState.BUILT.value, built_at=now(), **stored)

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        self._update_row(sop_instance_uid, state=ReportState.SENT.value, status=sanitise_text(status), sent_at=now())

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        self._update_row(sop_instance_uid, state=ReportState.REFUSED.value, status=sanitise_text(status))

    def _update_row(self, sop_instance_uid: str, **values: Any) -> None:
        same = reader_documents.c.sop_instance_uid == sop_instance_uid
        self._connection.execute(update(reader_documents).where(same).values(**values))


_earlier, _earlier_reading = reader_documents.alias("earlier"), readings.alias("earlier_reading")
_PREDECESSOR = (
    select(_earlier.c.sop_instance_uid)
    .join(_earlier_reading, _earlier_reading.c.id == _earlier.c.reading)
    .where(
        _earlier_reading.c.study == readings.c.study,
        _earlier_reading.c.reader == readings.c.reader,
        _earlier.c.id < reader_documents.c.id,
        _earlier.c.state != ReportState.REFUSED.value,
    )
    .order_by(_earlier.c.id.desc())
    .limit(1)
    .correlate(readings, reader_documents)
    .scalar_subquery()
)
_DOCUMENT = (
    select(
        *(reader_documents.c[name] for name in ("sop_instance_uid", "state", "file_key", "file_sha256", "file_size")),
        *(readings.c[name] for name in ("reader", "states", "points", "comment", "read_at")),
        studies.c.study_instance_uid,
        _PREDECESSOR.label("predecessor"),
    )
    .select_from(reader_documents.join(readings, readings.c.id == reader_documents.c.reading))
    .join(studies, studies.c.id == readings.c.study)
    .where(reader_documents.c.sop_instance_uid == bindparam("uid"))
)


def _build_document(row: RowMapping) -> ReaderDocument:
    has_file = row["file_sha256"] is not None
    return ReaderDocument(
        sop_instance_uid=row["sop_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        reader=row["reader"],
        states={finding: LabelState(state) for finding, state in row["states"].items()},
        points={finding: (x, y) for finding, (x, y) in row["points"].items()},
        comment=row["comment"],
        stated_at=row["read_at"],
        state=ReportState(row["state"]),
        file=StoredFile(key=row["file_key"], sha256=row["file_sha256"], size=row["file_size"]) if has_file else None,
        predecessor=row["predecessor"],
    )
