"""Fake of ports.Revisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from pipeline.domain import Conflict, ConflictResolution, Header, InstanceState, Revision, Sender, StoredFile, StoredInstance
from tests.builders.fakes.rows import CatalogTables
from tests.builders.fakes.studies import FakeStudies


class FakeRevisions:
    def __init__(self, tables: CatalogTables, studies: FakeStudies, now: Callable[[], datetime]) -> None:
        self._t, self._studies, self._now = tables, studies, now

    def add(self, revision: Revision, *, opens_study: bool) -> bool:
        header, uid = revision.header, revision.header.sop_instance_uid
        known = self._t.instances[uid]
        files = [file for file in self._t.former_files.get(uid, []) if file.sha256 != revision.file.sha256]
        self._t.former_files[uid] = [*files, known.file]
        if header.study_instance_uid != known.header.study_instance_uid:
            former = self._t.studies[known.header.study_instance_uid]
            self._t.studies[former.study_instance_uid] = replace(former, instances=former.instances - 1)
            del self._t.instances[uid]
            self._studies.add_instance(header, revision.file, revision.sender, opens_study=opens_study)
        self._t.instances[uid] = StoredInstance(header, revision.file, known.received_at, revision=known.revision + 1)
        self._t.files_deleted.discard(header.study_instance_uid)
        study = self._t.studies[header.study_instance_uid]
        names = ("accession_number", "study_date", "patient_key")
        changed = {name: getattr(header, name) for name in names if getattr(header, name) != getattr(known.header, name)}
        self._t.studies[header.study_instance_uid] = replace(study, **changed)
        return "patient_key" in changed

    def mark_stored(self, sop_instance_uid: str) -> None:
        known = self._t.instances[sop_instance_uid]
        self._t.instances[sop_instance_uid] = replace(known, state=InstanceState.STORED, pixels_sha256="")
        self._t.files_deleted.discard(known.header.study_instance_uid)

    def add_conflict(self, header: Header, file: StoredFile, sender: Sender) -> None:
        number, uid = len(self._t.conflicts) + 1, header.sop_instance_uid
        self._t.conflicts[number] = Conflict(
            number=number,
            sop_instance_uid=uid,
            study_instance_uid=self._t.instances[uid].header.study_instance_uid,
            header=header,
            file=file,
            sender=sender,
            received_at=self._now(),
        )

    def conflicts(self, sop_instance_uid: str = "", *, limit: int = 1000) -> list[Conflict]:
        found = (conflict for conflict in self._t.conflicts.values() if conflict.resolution is None)
        return [conflict for conflict in found if not sop_instance_uid or conflict.sop_instance_uid == sop_instance_uid][:limit]

    def find_conflict(self, number: int) -> Conflict | None:
        return self._t.conflicts.get(number)

    def resolve_conflict(self, number: int, resolution: ConflictResolution) -> None:
        self._t.conflicts[number] = replace(self._t.conflicts[number], resolution=resolution)

    def count_conflicts(self) -> int:
        return len(self.conflicts())
