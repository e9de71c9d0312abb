"""Port of retention: a part of `services.Transaction`."""

from __future__ import annotations

from typing import Protocol

from pipeline.domain import StoredFile, StoredInstance


class Retention(Protocol):
    """The files that may be deleted, and those that are being deleted."""

    def deletable_studies(self, *, older_than_days: float, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of studies whose images may be deleted, the oldest first.

        Their last report was sent longer ago. They have no label, no request, no draft or reading of the desk, no open conflict,
        no job that waits, runs or is in quarantine, and files that are not deleted yet.
        """

    def needed_studies(self, *, limit: int) -> list[str]:
        """Return the StudyInstanceUIDs of studies with deleted files that somebody needs, the newest first.

        They have a label, a request or a draft of the desk, or their score job is in quarantine.
        """

    def is_deletable(self, study_instance_uid: str, *, older_than_days: float) -> bool:
        """Tell whether `deletable_studies` would list the study. Locks the study until this transaction ends."""

    def mark_deleting(self, instance: StoredInstance, *, pixels_sha256: str) -> None:
        """Set DELETING, with the digest of the pixels; no effect where the instance has another file by now."""

    def mark_files_deleted(self, study_instance_uid: str) -> None:
        """Record that the study has no image files from now on, until one is stored again."""

    def deleting(self, *, limit: int) -> list[str]:
        """Return the SOPInstanceUIDs of the instances whose file is being deleted."""

    def mark_deleted(self, sop_instance_uid: str) -> None:
        """Set DELETED, of an instance that is DELETING."""

    def former_files(self, *, older_than_days: float, limit: int) -> list[tuple[str, StoredFile]]:
        """Return SOPInstanceUID and file of former files that were replaced longer ago."""

    def mark_former_deleted(self, sop_instance_uid: str, file: StoredFile) -> None:
        """Record that the former file is deleted."""
