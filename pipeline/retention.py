"""retention: delete the image files of reported studies, the oldest first, while the disk has too little space.

Deletion has two transactions: the first marks the files, the second deletes one and says so. After a kill the next run deletes what
is marked. No file is deleted that the catalog counts as stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import rules
from pipeline.domain import AuditEvent, InstanceState, StoredFile, StoredInstance
from pipeline.ports.services import Catalog, ImageStore, InstanceComparison

STUDIES_PER_QUERY = 100
FILES_PER_QUERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """`[retention]` of the configuration."""

    min_free_bytes: int  # free space below which files are deleted; 0: never
    min_days: float  # since the last report of the study was sent, or since the former file was replaced


@dataclass(slots=True)
class DeletedFiles:
    """Count of what one run has deleted."""

    studies: int = 0
    files: int = 0
    bytes: int = 0

    def add_file(self, file: StoredFile) -> None:
        """Count a file."""
        self.files += 1
        self.bytes += file.size


class FileRetention:
    """The dispatcher's step."""

    def __init__(
        self, *, catalog: Catalog, images: ImageStore, policy: RetentionPolicy, comparison: InstanceComparison | None = None
    ) -> None:
        """`comparison` digests the pixels of a file before it is deleted, so that the instance is known again later."""
        self._catalog, self._images, self._policy, self._comparison = catalog, images, policy, comparison

    def run(self) -> DeletedFiles:
        """Finish interrupted deletions; below the free space of the policy, delete former files, then studies. OutOfResources."""
        deleted = DeletedFiles()
        self._finish_deletions(deleted)
        if self._policy.min_free_bytes and self._is_short():
            self._delete_former_files(deleted)
            self._delete_studies(deleted)
        return deleted

    def _is_short(self) -> bool:
        return self._images.free_bytes() < self._policy.min_free_bytes

    def _delete_studies(self, deleted: DeletedFiles) -> None:
        while True:
            with self._catalog.read() as tx:
                studies = tx.retention.deletable_studies(older_than_days=self._policy.min_days, limit=STUDIES_PER_QUERY)
            if not studies:
                return
            before = deleted.studies
            for study in studies:
                if not self._is_short():
                    return
                self._delete_study(study, deleted)
            if deleted.studies == before:  # all of them are needed since
                return

    def _delete_study(self, study_instance_uid: str, deleted: DeletedFiles) -> None:
        with self._catalog.read() as tx:
            instances = [one for one in tx.studies.instances(study_instance_uid) if _may_delete(one)]
        digests = [self._comparison.digest(one.file) if self._comparison else "" for one in instances]
        with self._catalog.begin() as tx:
            if not tx.retention.is_deletable(study_instance_uid, older_than_days=self._policy.min_days):
                return
            for instance, digest in zip(instances, digests, strict=True):
                tx.retention.mark_deleting(instance, pixels_sha256=digest)
            tx.retention.mark_files_deleted(study_instance_uid)
            text = f"files of {len(instances)} images are deleted"
            tx.audit(AuditEvent("retention", "done", study_instance_uid, text))
        deleted.studies += 1
        self._finish_deletions(deleted)

    def _finish_deletions(self, deleted: DeletedFiles) -> None:
        with self._catalog.read() as tx:
            marked = tx.retention.deleting(limit=FILES_PER_QUERY)
        for uid in marked:
            with self._catalog.begin() as tx:  # which keeps a sender of the same instance waiting
                instance = tx.studies.find_instance(uid)
                if instance is not None and instance.state is InstanceState.DELETING:
                    self._images.remove(instance.file)
                    tx.retention.mark_deleted(uid)
                    deleted.add_file(instance.file)

    def _delete_former_files(self, deleted: DeletedFiles) -> None:
        with self._catalog.read() as tx:
            found = tx.retention.former_files(older_than_days=self._policy.min_days, limit=FILES_PER_QUERY)
        for uid, file in found:
            with self._catalog.begin() as tx:
                instance = tx.studies.find_instance(uid)
                in_conflict = any(conflict.file.sha256 == file.sha256 for conflict in tx.revisions.conflicts(uid))
                if instance is not None and instance.file.sha256 != file.sha256 and not in_conflict:
                    self._images.remove(file)
                    tx.retention.mark_former_deleted(uid, file)
                    deleted.add_file(file)


def _may_delete(instance: StoredInstance) -> bool:
    """Tell whether the file holds pixels that a sender made: reports, cards and documents are small and stay."""
    is_image = instance.header.has_pixels and not rules.is_own_object(instance.header)
    return is_image and instance.state is InstanceState.STORED
