"""Reports: the SR instances of a study, by version and revision, and the visible objects that accompany them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, func, select, union_all, update

from adapters.catalog.parameters import build_insert, chunks, sanitise_text
from adapters.catalog.sql_time import now
from adapters.catalog.studies import IN_UIDS
from adapters.catalog.tables import reports, studies, visible_objects
from pipeline.domain import Report, ReportState, StoredFile, VisibleKind, VisibleObject, WithheldReason


class SqlReports:
    """`ports.studies.Reports`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def find(self, sop_instance_uid: str) -> Report | None:
        return self._fetch_report(_REPORT, uid=sop_instance_uid)

    def latest(self, study_instance_uid: str) -> Report | None:
        return self._fetch_report(_LATEST, uid=study_instance_uid)

    def latest_of(self, study_instance_uids: Collection[str]) -> dict[str, Report]:
        rows = (self._connection.execute(_LATEST_OF, {"uids": some}).mappings() for some in chunks(study_instance_uids))
        return {row["study_instance_uid"]: _build_report(row) for some in rows for row in some}

    def studies_reported_by(self, version: int, *, after: str, limit: int) -> list[str]:
        query = (
            select(studies.c.study_instance_uid)
            .join(reports, reports.c.study == studies.c.id)
            .where(reports.c.version == version, studies.c.study_instance_uid > after)
            .distinct()
            .order_by(studies.c.study_instance_uid)
            .limit(limit)
        )
        return list(self._connection.scalars(query))

    def studies_withheld(self, *, since: datetime, after: str, limit: int) -> list[str]:
        kept = and_(reports.c.withheld == WithheldReason.SHADOW.value, reports.c.created_at >= since)
        query = select(studies.c.study_instance_uid).join(reports, reports.c.study == studies.c.id)
        query = query.where(kept, studies.c.study_instance_uid > after).distinct()
        return list(self._connection.scalars(query.order_by(studies.c.study_instance_uid).limit(limit)))

    def _fetch_report(self, query: Select[Any], **values: str) -> Report | None:
        row = self._connection.execute(query, values).mappings().one_or_none()
        return _build_report(row) if row else None

    def first_sent(self, study_instance_uids: Collection[str]) -> dict[str, datetime]:
        rows = (self._connection.execute(_FIRST_SENT, {"uids": some}).all() for some in chunks(study_instance_uids))
        return {uid: sent_at for some in rows for uid, sent_at in some}

    def ensure_pending(self, report: Report) -> Report:
        study = select(studies.c.id).where(studies.c.study_instance_uid == report.study_instance_uid).scalar_subquery()
        values = {
            "sop_instance_uid": report.sop_instance_uid,
            "series_instance_uid": report.series_instance_uid,
            "study": study,
            "version": report.version,
            "revision": report.revision,
            "sop_class_uid": report.sop_class_uid,
            "state": report.state.value,
            "predecessor": report.predecessor,
            "withdrawal": sanitise_text(report.withdrawal),
        }
        insert = build_insert(reports, self._connection.dialect.name).values(**values)
        self._connection.execute(insert.on_conflict_do_nothing())  # of its UID, or of study, version and revision
        return self.find(report.sop_instance_uid) or self._find_revision(report)

    def _find_revision(self, report: Report) -> Report:
        """Return the report of the same study, version and revision: its UID differs where the configured UID root has changed."""
        same = and_(reports.c.version == report.version, reports.c.revision == report.revision)
        found = self._fetch_report(_select_reports().where(studies.c.study_instance_uid == report.study_instance_uid, same))
        assert found is not None
        return found

    def find_visible(self, sop_instance_uid: str) -> VisibleObject | None:
        row = self._connection.execute(_VISIBLE, {"uid": sop_instance_uid}).mappings().one_or_none()
        return _build_visible(row) if row else None

    def visible_objects(self, report: str) -> list[VisibleObject]:
        return [_build_visible(row) for row in self._connection.execute(_VISIBLE_OF, {"uid": report}).mappings()]

    def ensure_visible(self, visible: VisibleObject) -> VisibleObject:
        values = {
            "sop_instance_uid": visible.sop_instance_uid,
            "series_instance_uid": visible.series_instance_uid,
            "report": select(reports.c.id).where(reports.c.sop_instance_uid == visible.report).scalar_subquery(),
            "kind": visible.kind.value,
            "sop_class_uid": visible.sop_class_uid,
            "state": visible.state.value,
            "predecessor": visible.predecessor,
        }
        insert = build_insert(visible_objects, self._connection.dialect.name).values(**values)
        self._connection.execute(insert.on_conflict_do_nothing())  # of its UID, or of report and kind
        same = (one for one in self.visible_objects(visible.report) if one.kind is visible.kind)
        return self.find_visible(visible.sop_instance_uid) or next(same)

    def mark_built(self, sop_instance_uid: str, file: StoredFile) -> None:
        self._update_report(
            sop_instance_uid,
            state=ReportState.BUILT.value,
            file_key=file.key,
            file_sha256=file.sha256,
            file_size=file.size,
            built_at=now(),
        )

    def mark_sent(self, sop_instance_uid: str, status: str) -> None:
        self._update_report(sop_instance_uid, state=ReportState.SENT.value, status=sanitise_text(status), sent_at=now())

    def mark_refused(self, sop_instance_uid: str, status: str) -> None:
        self._update_report(sop_instance_uid, state=ReportState.REFUSED.value, status=sanitise_text(status))

    def put_withheld(self, sop_instance_uid: str, reason: WithheldReason | None) -> None:
        of_uid = reports.c.sop_instance_uid == sop_instance_uid
        self._connection.execute(update(reports).where(of_uid).values(withheld=reason.value if reason else ""))

    def _update_report(self, sop_instance_uid: str, **values: Any) -> None:
        """Update the row of the report or, where no report has this UID, of the visible object."""
        for table in (reports, visible_objects):
            if self._connection.execute(
                update(table).where(table.c.sop_instance_uid == sop_instance_uid).values(**values)
            ).rowcount:
                return


def _select_reports() -> Select[Any]:
    return select(reports, studies.c.study_instance_uid).join(studies, reports.c.study == studies.c.id)


def _select_visible() -> Select[Any]:
    return select(visible_objects, reports.c.sop_instance_uid.label("report_uid")).join(
        reports, visible_objects.c.report == reports.c.id
    )


_VISIBLE = _select_visible().where(visible_objects.c.sop_instance_uid == bindparam("uid"))
_VISIBLE_OF = _select_visible().where(reports.c.sop_instance_uid == bindparam("uid")).order_by(visible_objects.c.id)
_REPORT = _select_reports().where(reports.c.sop_instance_uid == bindparam("uid"))
_LATEST = _select_reports().where(studies.c.study_instance_uid == bindparam("uid")).order_by(reports.c.id.desc()).limit(1)
_OTHER_REPORTS = reports.alias()
_LATEST_OF = _select_reports().where(
    IN_UIDS,
    reports.c.id == select(func.max(_OTHER_REPORTS.c.id)).where(_OTHER_REPORTS.c.study == studies.c.id).scalar_subquery(),
)
_SENT_REPORTS = select(studies.c.study_instance_uid, reports.c.sent_at).join(reports, reports.c.study == studies.c.id)
_SENT_OBJECTS = (
    select(studies.c.study_instance_uid, visible_objects.c.sent_at)
    .join(reports, reports.c.study == studies.c.id)
    .join(visible_objects, visible_objects.c.report == reports.c.id)
)
_SENT = union_all(
    _SENT_REPORTS.where(IN_UIDS, reports.c.sent_at.is_not(None)),
    _SENT_OBJECTS.where(IN_UIDS, visible_objects.c.sent_at.is_not(None)),
).subquery()
_FIRST_SENT = select(_SENT.c.study_instance_uid, func.min(_SENT.c.sent_at)).group_by(_SENT.c.study_instance_uid)
"""Built once: _LATEST is executed for each received instance, _LATEST_OF for each batch of scored studies."""


def _build_file(row: RowMapping) -> StoredFile | None:
    return StoredFile(row["file_key"], row["file_sha256"], row["file_size"]) if row["file_sha256"] else None


def _build_visible(row: RowMapping) -> VisibleObject:
    return VisibleObject(
        sop_instance_uid=row["sop_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        report=row["report_uid"],
        kind=VisibleKind(row["kind"]),
        state=ReportState(row["state"]),
        file=_build_file(row),
        sop_class_uid=row["sop_class_uid"],
        predecessor=row["predecessor"],
        status=row["status"],
    )


def _build_report(row: RowMapping) -> Report:
    return Report(
        sop_instance_uid=row["sop_instance_uid"],
        series_instance_uid=row["series_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        version=row["version"],
        revision=row["revision"],
        state=ReportState(row["state"]),
        file=_build_file(row),
        sop_class_uid=row["sop_class_uid"],
        predecessor=row["predecessor"],
        status=row["status"],
        withdrawal=row["withdrawal"],
        withheld=WithheldReason(row["withheld"]) if row["withheld"] else None,
    )
