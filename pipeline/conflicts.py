"""conflicts: a person decides which of two instances with one SOP Instance UID is the instance."""

from __future__ import annotations

from pipeline import rules
from pipeline.domain import AuditEvent, Conflict, ConflictResolution, InstanceState, Revision, StoredFile, StudyState
from pipeline.errors import PermanentError
from pipeline.ports.services import Catalog, ImageStore, Transaction
from pipeline.receive import revise


def resolve_conflict(number: int, resolution: ConflictResolution, *, catalog: Catalog, images: ImageStore, source: str) -> Conflict:
    """Resolve an open conflict; return it as it was. PermanentError where there is none of this number.

    STORED: the received file is deleted. RECEIVED: it takes the place of the stored file, the image is scored anew with its study,
    and labels stay with the study.
    """
    with catalog.begin() as tx:
        conflict = tx.revisions.find_conflict(number)
        if conflict is None or conflict.resolution is not None:
            raise PermanentError(f"there is no open conflict {number}", hint="radclipd studies conflicts")
        tx.revisions.resolve_conflict(number, resolution)
        if resolution is ConflictResolution.RECEIVED:
            _accept_received_file(tx, conflict)
        text = f"conflict {number} resolved: the {resolution.value} instance is kept"
        tx.audit(AuditEvent("resolve", "done", conflict.sop_instance_uid, text, source))
    if resolution is ConflictResolution.STORED:
        _remove_file(conflict.file, conflict.sop_instance_uid, catalog, images)
    return conflict


def _accept_received_file(tx: Transaction, conflict: Conflict) -> None:
    known = tx.studies.find_instance(conflict.sop_instance_uid)
    assert known is not None
    difference = f"other pixels, by decision on conflict {conflict.number}"
    revise(tx, known, Revision(header=conflict.header, file=conflict.file, sender=conflict.sender, difference=difference))
    tx.scores.remove_image_scores(conflict.sop_instance_uid)
    if rules.opens_study(conflict.header):
        tx.studies.put_state(conflict.header.study_instance_uid, StudyState.ARRIVING)


def _remove_file(file: StoredFile, sop_instance_uid: str, catalog: Catalog, images: ImageStore) -> None:
    """Remove the refused file, after the decision is durable, unless it has become the instance's file since."""
    with catalog.begin() as tx:
        known = tx.studies.find_instance(sop_instance_uid)
        if known is None or known.state is not InstanceState.STORED or known.file.sha256 != file.sha256:
            images.remove(file)
