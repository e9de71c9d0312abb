"""receive: bytes that arrived -> a durable file and a committed row. Only when this returns may the sender hear Success."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import rules
from pipeline.domain import Header, JobKind, Receipt, Sender, StoredFile, StoredInstance, StudyState
from pipeline.errors import DifferentInstance, OutOfResources
from pipeline.ports import Catalog, ImageStore, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePolicy:
    """`[storage]` of the configuration."""

    minimum_free_bytes: int
    read_documents: bool = False  # whether structured reports and key objects are read for labels: `[labels]`


def receive(
    header: Header, content: bytes, sender: Sender, *, catalog: Catalog, images: ImageStore, policy: ReceivePolicy
) -> Receipt:
    """Keep one DICOM file for good. Idempotent.

    OutOfResources below the disk guard; DifferentInstance where another file stands under the same SOP Instance UID.
    """
    file = images.file_of(content)
    with catalog.read() as tx:
        known = tx.studies.find_instance(header.sop_instance_uid)
    if known is None:
        _guard_disk(images, len(content), policy)
        images.write(content)
        with catalog.begin() as tx:
            known = tx.studies.find_instance(header.sop_instance_uid)  # another association may have been faster
            if known is None:
                return _insert(tx, header, file, sender, policy)
    return _again(known, file, content, images)


def _insert(tx: Transaction, header: Header, file: StoredFile, sender: Sender, policy: ReceivePolicy) -> Receipt:
    if rules.is_own_report(header) or tx.reports.find(header.sop_instance_uid) is not None:
        tx.studies.add_instance(header, file, sender, opens_study=False)
        return Receipt.OWN_REPORT
    study = tx.studies.find(header.study_instance_uid)
    if policy.read_documents and rules.may_hold_labels(header):
        tx.jobs.put(JobKind.LABEL, header.sop_instance_uid)  # a worker parses it later: it may be anything
    opens = rules.opens_study(header)
    tx.studies.add_instance(header, file, sender, opens_study=opens)
    return Receipt.LATE if opens and study is not None and study.state is not StudyState.ARRIVING else Receipt.STORED


def _again(known: StoredInstance, file: StoredFile, content: bytes, images: ImageStore) -> Receipt:
    if known.file.sha256 != file.sha256:
        raise DifferentInstance(
            f"SOP Instance UID {known.header.sop_instance_uid} is already stored with other content"
            f" (SHA-256 {known.file.sha256[:12]}, received {file.sha256[:12]})",
            hint="the sender must give a changed object a new SOP Instance UID; the stored one stays as it is",
        )
    if not images.exists(known.file):
        images.write(content)  # the sender gives back what the disk has lost
    return Receipt.DUPLICATE


def _guard_disk(images: ImageStore, size: int, policy: ReceivePolicy) -> None:
    free = images.free_bytes()
    if free - size < policy.minimum_free_bytes:
        raise OutOfResources(
            f"image store has {free} bytes free, below storage.minimum_free = {policy.minimum_free_bytes}",
            hint="free disk space or lower storage.minimum_free",
        )
