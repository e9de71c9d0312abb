"""Fake of ports.Retention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from pipeline.domain import InstanceState, JobKind, JobState, StoredFile, StoredInstance, StudyState
from tests.builders.fakes.rows import CatalogTables


class FakeRetention:
    def __init__(self, tables: CatalogTables, now: Callable[[], datetime]) -> None:
        self._t, self._now = tables, now

    def deletable_studies(self, *, older_than_days: float, limit: int) -> list[str]:
        return [uid for uid in self._t.studies if self.is_deletable(uid, older_than_days=older_than_days)][:limit]

    def needed_studies(self, *, limit: int) -> list[str]:
        needed = {label.study_instance_uid for label in self._t.labels} | set(self._t.requests)
        rows = (row.job for row in self._t.jobs.values())
        needed |= {job.subject for job in rows if job.kind is JobKind.SCORE and job.state is JobState.QUARANTINED}
        return [uid for uid in reversed(self._t.studies) if uid in self._t.files_deleted and uid in needed][:limit]

    def is_deletable(self, study_instance_uid: str, *, older_than_days: float) -> bool:
        uid, oldest = study_instance_uid, self._now() - timedelta(days=older_than_days)
        needed = {label.study_instance_uid for label in self._t.labels} | set(self._t.requests)
        needed |= {request.study_instance_uid for request in self._t.second_readings}
        needed |= {one.study_instance_uid for one in self._t.conflicts.values() if one.resolution is None}
        rows = (row.job for row in self._t.jobs.values())
        kinds = (JobKind.SCORE, JobKind.REPORT)
        needed |= {job.subject for job in rows if job.kind in kinds and job.state is not JobState.DONE}
        return (
            self._t.studies[uid].state is StudyState.REPORTED
            and uid not in needed
            and uid not in self._t.files_deleted
            and uid in self._t.first_sent
            and self._t.first_sent[uid] <= oldest
        )

    def mark_deleting(self, instance: StoredInstance, *, pixels_sha256: str) -> None:
        uid = instance.header.sop_instance_uid
        known = self._t.instances[uid]
        if known.file.sha256 == instance.file.sha256 and known.state is InstanceState.STORED:
            self._t.instances[uid] = replace(known, state=InstanceState.DELETING, pixels_sha256=pixels_sha256)

    def mark_files_deleted(self, study_instance_uid: str) -> None:
        self._t.files_deleted.add(study_instance_uid)

    def deleting(self, *, limit: int) -> list[str]:
        return [uid for uid, one in self._t.instances.items() if one.state is InstanceState.DELETING][:limit]

    def mark_deleted(self, sop_instance_uid: str) -> None:
        known = self._t.instances[sop_instance_uid]
        if known.state is InstanceState.DELETING:
            self._t.instances[sop_instance_uid] = replace(known, state=InstanceState.DELETED)

    def former_files(self, *, older_than_days: float, limit: int) -> list[tuple[str, StoredFile]]:
        return [(uid, file) for uid, files in self._t.former_files.items() for file in files][:limit]

    def mark_former_deleted(self, sop_instance_uid: str, file: StoredFile) -> None:
        kept = [one for one in self._t.former_files[sop_instance_uid] if one.sha256 != file.sha256]
        self._t.former_files[sop_instance_uid] = kept
