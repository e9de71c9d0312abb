"""Files of known instances: revisions, conflicts."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, update

from adapters.catalog.parameters import sanitise_text
from adapters.catalog.sql_time import now
from adapters.catalog.studies import HEADER_COLUMNS, JSON_HEADER_FIELDS, SqlStudies
from adapters.catalog.tables import instance_conflicts, instance_revisions, instances, patients, series, studies
from pipeline.domain import Conflict, ConflictResolution, Header, InstanceState, Revision, Sender, StoredFile

STUDY_FIELDS = ("accession_number", "study_date", "study_time", "study_description", "patient_age")
SERIES_FIELDS = ("modality", "series_number", "series_description")


class SqlRevisions:
    """`ports.studies.Revisions`."""

    def __init__(self, connection: Connection, known_studies: SqlStudies) -> None:
        self._connection, self._studies = connection, known_studies

    def add(self, revision: Revision, *, opens_study: bool) -> bool:
        header = revision.header
        known = self._studies.find_instance(header.sop_instance_uid)
        assert known is not None
        row = self._connection.execute(_select_rows().where(instances.c.sop_instance_uid == header.sop_instance_uid)).one()
        self._replace_current_file(row.instance, revision, known.file, known.header.transfer_syntax_uid)
        study, new_series = self._studies.ensure_series(header)
        if study != row.study:
            self._move_instance(row.study, study, opens_study=opens_study)
        values = {name: getattr(header, name) for name in HEADER_COLUMNS}
        values |= {"header": {name: getattr(header, name) for name in JSON_HEADER_FIELDS}, "series": new_series}
        values |= {"revision": instances.c.revision + 1, "state": InstanceState.STORED.value, "pixels_sha256": ""}
        values |= _build_file_values(revision.file) | _build_sender_values(revision.sender)
        self._connection.execute(update(instances).where(instances.c.id == row.instance).values(values))
        self._mark_files_stored(study)
        return self._follow_demographics(known.header, header, study, new_series)

    def _replace_current_file(self, instance: int, revision: Revision, former: StoredFile, transfer_syntax_uid: str) -> None:
        again = instance_revisions.c.file_sha256 == revision.file.sha256  # an earlier file, which is current again
        self._connection.execute(delete(instance_revisions).where(instance_revisions.c.instance == instance, again))
        state = self._connection.scalar(select(instances.c.state).where(instances.c.id == instance))
        self._connection.execute(
            insert(instance_revisions).values(
                instance=instance,
                transfer_syntax_uid=transfer_syntax_uid,
                difference=sanitise_text(revision.difference),
                state=state,
                **_build_file_values(former),
            )
        )

    def _move_instance(self, former: int, study: int, *, opens_study: bool) -> None:
        count = studies.c.instance_count
        self._connection.execute(update(studies).where(studies.c.id == former).values(instance_count=count - 1))
        self._studies.count_instance(study, opens_study=opens_study)

    def _follow_demographics(self, before: Header, after: Header, study: int, in_series: int) -> bool:
        """Change study, series and patient where the revision differs from the instance before; tell whether the patient did."""
        changed = {name: getattr(after, name) for name in STUDY_FIELDS if getattr(after, name) != getattr(before, name)}
        is_other_patient = after.patient_key != before.patient_key
        if is_other_patient:
            changed["patient"] = self._studies.ensure_patient(after)
        if changed:
            self._connection.execute(update(studies).where(studies.c.id == study).values(changed))
        changed = {name: getattr(after, name) for name in SERIES_FIELDS if getattr(after, name) != getattr(before, name)}
        if changed:
            self._connection.execute(update(series).where(series.c.id == in_series).values(changed))
        if after.patient_sex != before.patient_sex and not is_other_patient:
            same = patients.c.patient_key == after.patient_key
            self._connection.execute(update(patients).where(same).values(patient_sex=after.patient_sex))
        return is_other_patient

    def mark_stored(self, sop_instance_uid: str) -> None:
        row = self._connection.execute(_select_rows().where(instances.c.sop_instance_uid == sop_instance_uid)).one()
        self._connection.execute(
            update(instances).where(instances.c.id == row.instance).values(state=InstanceState.STORED.value, pixels_sha256="")
        )
        self._mark_files_stored(row.study)

    def _mark_files_stored(self, study: int) -> None:
        deleted = studies.c.files_deleted_at.is_not(None)
        self._connection.execute(update(studies).where(studies.c.id == study, deleted).values(files_deleted_at=None))

    def add_conflict(self, header: Header, file: StoredFile, sender: Sender) -> None:
        row = self._connection.execute(_select_rows().where(instances.c.sop_instance_uid == header.sop_instance_uid)).one()
        self._connection.execute(
            insert(instance_conflicts).values(
                instance=row.instance, header=asdict(header), **_build_file_values(file), **_build_sender_values(sender)
            )
        )

    def conflicts(self, sop_instance_uid: str = "", *, limit: int = 1000) -> list[Conflict]:
        query = _CONFLICTS.where(instance_conflicts.c.resolution == "").order_by(instance_conflicts.c.id).limit(limit)
        if sop_instance_uid:
            query = query.where(instances.c.sop_instance_uid == sop_instance_uid)
        return [_build_conflict(row) for row in self._connection.execute(query).mappings()]

    def find_conflict(self, number: int) -> Conflict | None:
        row = self._connection.execute(_CONFLICTS.where(instance_conflicts.c.id == number)).mappings().one_or_none()
        return _build_conflict(row) if row else None

    def resolve_conflict(self, number: int, resolution: ConflictResolution) -> None:
        self._connection.execute(
            update(instance_conflicts)
            .where(instance_conflicts.c.id == number)
            .values(resolution=resolution.value, resolved_at=now(), header={})
        )

    def count_conflicts(self) -> int:
        query = select(func.count()).select_from(instance_conflicts).where(instance_conflicts.c.resolution == "")
        return self._connection.scalar(query) or 0


def _select_rows() -> Select[Any]:
    return select(instances.c.id.label("instance"), series.c.study).join(series, instances.c.series == series.c.id)


def _build_file_values(file: StoredFile) -> dict[str, Any]:
    return {"file_key": file.key, "file_sha256": file.sha256, "file_size": file.size, "file_xxh3": file.xxh3}


def _build_sender_values(sender: Sender) -> dict[str, str]:
    return {
        "sender_ae_title": sanitise_text(sender.ae_title, 64),
        "sender_address": sanitise_text(sender.address, 64),
        "called_ae_title": sanitise_text(sender.called_ae_title, 64),
    }


_CONFLICTS = (
    select(instance_conflicts, instances.c.sop_instance_uid, studies.c.study_instance_uid)
    .join(instances, instance_conflicts.c.instance == instances.c.id)
    .join(series, instances.c.series == series.c.id)
    .join(studies, series.c.study == studies.c.id)
)


def _build_conflict(row: RowMapping) -> Conflict:
    known = {field.name for field in fields(Header)}
    uids = {"sop_instance_uid": row["sop_instance_uid"], "study_instance_uid": row["study_instance_uid"]}
    empty = {"sop_class_uid": "", "series_instance_uid": "", "transfer_syntax_uid": "", **uids}  # of a resolved conflict
    stored = empty | {name: value for name, value in row["header"].items() if name in known}
    stored["image_type"] = tuple(stored.get("image_type") or ())
    return Conflict(
        number=row["id"],
        **uids,
        header=Header(**stored),
        file=StoredFile(row["file_key"], row["file_sha256"], row["file_size"], row["file_xxh3"]),
        sender=Sender(row["sender_ae_title"], row["sender_address"], row["called_ae_title"]),
        received_at=row["received_at"],
        resolution=ConflictResolution(row["resolution"]) if row["resolution"] else None,
    )
