"""receive: a received file -> a durable file and a committed row. Only then may the sender be answered Success."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline import rules
from pipeline.domain import (
    AuditEvent,
    Header,
    InstanceDifference,
    InstanceState,
    JobKind,
    Receipt,
    Revision,
    Sender,
    StoredFile,
    StoredInstance,
    StudyState,
)
from pipeline.errors import DifferentInstance, OutOfResources
from pipeline.group_commit import GroupCommit
from pipeline.ports.services import Buffer, Catalog, ImageStore, IncomingFile, InstanceComparison, Transaction

GUARDED_BYTES = 1 << 22
"""Bytes of one incoming file between two looks at the free space. Each open association may write as much below the guard."""
MAX_DELAY_SECONDS = 5.0
"""Delay of an instance just above the disk guard."""
MAX_CONFLICTS = 16
"""Open conflicts of one instance that are kept; a sender of more is refused."""
MOVED = "all its instances have moved to another study"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivePolicy:
    """`[storage]` and `[labels]` of the configuration, as far as the step reads them."""

    min_free_bytes: int  # below this free space no file is accepted
    read_documents: bool = False  # whether structured reports and key object selections are read for labels: `[labels]`
    slow_free_bytes: int = 0  # below this free space senders are slowed; 0: never
    keep_conflicts: bool = False  # whether another instance under a known UID is kept beside the stored one, or refused


class GuardedFile:
    """`ports.services.IncomingFile` under the disk guard: it looks at the free space as the bytes come."""

    def __init__(self, images: ImageStore, policy: ReceivePolicy) -> None:
        self._images, self._policy, self._incoming = images, policy, images.open_incoming()
        self._unguarded = 0  # bytes written since the last look

    @property
    def file(self) -> StoredFile:
        return self._incoming.file

    def write(self, content: Buffer) -> None:
        """Append. OutOfResources below the disk guard, or where the disk refuses the write."""
        self._unguarded += len(content)
        if self._unguarded >= GUARDED_BYTES:
            self._unguarded = 0
            _require_free_space(self._images, self._policy)
        self._incoming.write(content)

    def open(self) -> BinaryIO:
        return self._incoming.open()

    def commit(self) -> StoredFile:
        return self._incoming.commit()

    def discard(self) -> None:
        self._incoming.discard()


class InstanceReceiver:
    """The step for concurrent threads: their rows share transactions."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        images: ImageStore,
        policy: ReceivePolicy,
        comparison: InstanceComparison | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`comparison`: without one, every other file under a known SOP Instance UID is another instance."""
        self._catalog, self._images, self._policy, self._comparison = catalog, images, policy, comparison
        self._group_commit, self._sleep = GroupCommit(catalog), sleep

    def open_incoming(self) -> IncomingFile:
        """Open a file for writing, later where there is little space: retention gains time.

        OutOfResources below the disk guard, now or while the file is written, or where the disk refuses.
        """
        if delay := _require_free_space(self._images, self._policy):
            self._sleep(delay)
        return GuardedFile(self._images, self._policy)

    def receive(self, header: Header, incoming: IncomingFile, sender: Sender) -> Receipt:
        """Store one DICOM file durably, unless the identical file is stored already. Idempotent.

        OutOfResources below the disk guard; DifferentInstance where another instance has the same SOP Instance UID.
        """
        with self._catalog.read() as tx:
            known = tx.studies.find_instance(header.sop_instance_uid)
        if known is None:
            _require_free_space(self._images, self._policy)
            file = incoming.commit()
            inserted = self._group_commit.run(
                lambda tx: _insert_or_find(tx, header, file, sender, self._policy), lock_order=header.study_instance_uid
            )
            if isinstance(inserted, Receipt):
                return inserted
            known = inserted
        if known.file.sha256 == incoming.file.sha256:
            return self._receive_identical_file(known, incoming)
        return self._receive_other_file(known, header, incoming, sender)

    def _receive_identical_file(self, known: StoredInstance, incoming: IncomingFile) -> Receipt:
        """Write the file where the disk has lost it or retention has deleted it."""
        if known.state is InstanceState.STORED:
            if not self._images.exists(known.file):
                incoming.commit()
            return Receipt.DUPLICATE
        with self._catalog.begin() as tx:  # which keeps retention from the file
            tx.studies.find_instance(known.header.sop_instance_uid)
            incoming.commit()
            tx.revisions.mark_stored(known.header.sop_instance_uid)
        return Receipt.DUPLICATE

    def _receive_other_file(self, known: StoredInstance, header: Header, incoming: IncomingFile, sender: Sender) -> Receipt:
        """Store the file as a revision of the instance, or as a conflict with it. DifferentInstance where conflicts are refused."""
        difference = self._compare_files(known, incoming)
        if difference is None:
            return self._resolve_conflict(known, header, incoming, sender)
        uid, is_stored = header.sop_instance_uid, known.state is InstanceState.STORED
        with self._catalog.begin() as tx:
            current = tx.studies.find_instance(uid)
            if current is None or current.file.sha256 != known.file.sha256 or current.state is not known.state:
                raise OutOfResources(f"instance {uid} is being changed by another association", hint="send it again")
            if difference.is_encoding_only and is_stored and self._images.exists(known.file):
                text = f"the stored instance again, not kept: {difference.text}"
                tx.audit(AuditEvent("receive", "done", uid, text, f"{sender.ae_title} {sender.address}"))
                return Receipt.SAME_INSTANCE
            revision = Revision(header=header, file=incoming.commit(), sender=sender, difference=difference.text)
            revise(tx, known, revision)
        return Receipt.REVISED

    def _compare_files(self, known: StoredInstance, incoming: IncomingFile) -> InstanceDifference | None:
        if self._comparison is None:
            return None
        if known.state is InstanceState.STORED:
            return self._comparison.compare(known.file, incoming)
        if known.pixels_sha256 and known.pixels_sha256 == self._comparison.digest(incoming):
            return InstanceDifference("the instance again, whose file was deleted")
        return None

    def _resolve_conflict(self, known: StoredInstance, header: Header, incoming: IncomingFile, sender: Sender) -> Receipt:
        uid, digest = header.sop_instance_uid, incoming.file.sha256
        if self._policy.keep_conflicts:
            with self._catalog.begin() as tx:
                tx.studies.find_instance(uid)  # no other association adds a conflict of it meanwhile
                conflicts = tx.revisions.conflicts(uid)
                if any(conflict.file.sha256 == digest for conflict in conflicts):
                    return Receipt.CONFLICT
                if len(conflicts) < MAX_CONFLICTS:
                    tx.revisions.add_conflict(header, incoming.commit(), sender)
                    text = "another instance under this UID, kept beside the stored one: radclipd studies conflicts"
                    tx.audit(AuditEvent("receive", "done", uid, text, f"{sender.ae_title} {sender.address}"))
                    return Receipt.CONFLICT
        raise DifferentInstance(
            f"SOP Instance UID {uid} is already stored with other content"
            f" (SHA-256 {known.file.sha256[:12]}, received {digest[:12]})",
            hint="the sender must give a changed object a new SOP Instance UID; the stored one stays as it is",
        )


def revise(tx: Transaction, known: StoredInstance, revision: Revision) -> None:
    """Let a file take the place of the stored one; study and patient follow its header. The audit tells, without an identity."""
    if known.header.manufacturer_model_name == rules.OWN_MODEL_NAME:  # by which every later step knows it
        revision = replace(revision, header=replace(revision.header, manufacturer_model_name=rules.OWN_MODEL_NAME))
    header, former = revision.header, known.header.study_instance_uid
    opens = rules.opens_study(header) and not rules.is_own_object(header)
    is_other_patient = tx.revisions.add(revision, opens_study=opens)
    text = f"revision {known.revision + 1} of the instance: {revision.difference}"
    if is_other_patient:
        text += "; the study belongs to another patient now"
    if header.study_instance_uid != former:
        tx.scores.remove_image_scores(header.sop_instance_uid)  # so that both studies are predicted anew
        _settle_former_study(tx, former, opens=opens)
        text += f"; moved from study {former}"
    source = f"{revision.sender.ae_title} {revision.sender.address}".strip()
    tx.audit(AuditEvent("receive", "done", header.sop_instance_uid, text, source))


def _settle_former_study(tx: Transaction, study_instance_uid: str, *, opens: bool) -> None:
    """Let the study that an instance has left be settled anew, or ignore it where nothing is left of it."""
    study = tx.studies.find(study_instance_uid)
    if study is not None and not study.instances:
        tx.studies.put_state(study_instance_uid, StudyState.IGNORED, reason=MOVED)
    elif study is not None and opens:
        for instance in tx.studies.instances(study_instance_uid):
            tx.scores.remove_image_scores(instance.header.sop_instance_uid)
        tx.studies.put_state(study_instance_uid, StudyState.ARRIVING)


def receive(
    header: Header,
    content: bytes,
    sender: Sender,
    *,
    catalog: Catalog,
    images: ImageStore,
    policy: ReceivePolicy,
    comparison: InstanceComparison | None = None,
) -> Receipt:
    """Store one DICOM file from memory; errors as `InstanceReceiver.receive`."""
    receiver = InstanceReceiver(catalog=catalog, images=images, policy=policy, comparison=comparison)
    incoming = receiver.open_incoming()
    try:
        incoming.write(content)
        return receiver.receive(header, incoming, sender)
    finally:
        incoming.discard()


def _insert_or_find(
    tx: Transaction, header: Header, file: StoredFile, sender: Sender, policy: ReceivePolicy
) -> Receipt | StoredInstance:
    """Insert the instance, or return the one that another association has inserted meanwhile."""
    return tx.studies.find_instance(header.sop_instance_uid) or _insert_instance(tx, header, file, sender, policy)


def _insert_instance(tx: Transaction, header: Header, file: StoredFile, sender: Sender, policy: ReceivePolicy) -> Receipt:
    if rules.is_own_object(header) or _is_of_this_catalog(tx, header):
        own = replace(header, manufacturer_model_name=rules.OWN_MODEL_NAME)  # by which every later step knows it
        tx.studies.add_instance(own, file, sender, opens_study=False)
        return Receipt.OWN_REPORT
    study = tx.studies.find(header.study_instance_uid)
    if policy.read_documents and rules.may_hold_labels(header):
        tx.jobs.put(JobKind.LABEL, header.sop_instance_uid)  # parsed by a worker, because its content is not trusted
    opens = rules.opens_study(header)
    tx.studies.add_instance(header, file, sender, opens_study=opens)
    return Receipt.LATE if opens and study is not None and study.state is not StudyState.ARRIVING else Receipt.STORED


def _is_of_this_catalog(tx: Transaction, header: Header) -> bool:
    """Tell whether the object is one that this catalog has sent, even where its ManufacturerModelName was changed on the way."""
    uid = header.sop_instance_uid
    return rules.may_be_own(header) and (tx.reports.find(uid) or tx.reports.find_visible(uid)) is not None


def _require_free_space(images: ImageStore, policy: ReceivePolicy) -> float:
    """Return the delay of a sender in seconds: 0 at `slow_free_bytes`, MAX_DELAY_SECONDS at the disk guard. OutOfResources."""
    free = images.free_bytes()  # bytes of the incoming file that were written count as used
    if free < policy.min_free_bytes:
        raise OutOfResources(
            f"image store has {free} bytes free, below storage.min_free = {policy.min_free_bytes}",
            hint="free disk space or lower storage.min_free",
        )
    if free >= policy.slow_free_bytes:
        return 0.0
    return MAX_DELAY_SECONDS * (policy.slow_free_bytes - free) / (policy.slow_free_bytes - policy.min_free_bytes)
