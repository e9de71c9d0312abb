"""commitment: which of the objects that a sender asks about are in safekeeping here (storage commitment, PS3.4 annex J)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pipeline.domain import AuditEvent, Sender
from pipeline.ports.services import Catalog, ImageStore


class CommitmentFault(StrEnum):
    """Why an object is not committed."""

    UNKNOWN = "no such object"
    OTHER_CLASS = "another SOP class"
    NO_FILE = "its file is missing"


def find_uncommitted(
    objects: Sequence[tuple[str, str]], *, sender: Sender, catalog: Catalog, images: ImageStore
) -> dict[str, CommitmentFault]:
    """Return SOP Instance UID -> why it is not committed. `objects`: SOP Class and SOP Instance UIDs. OutOfResources.

    Committed is what has a row and a file; the audit table has the numbers.
    """
    faults: dict[str, CommitmentFault] = {}
    with catalog.begin() as tx:
        for sop_class_uid, sop_instance_uid in objects:
            known = tx.studies.find_instance(sop_instance_uid)
            if known is None:
                faults[sop_instance_uid] = CommitmentFault.UNKNOWN
            elif known.header.sop_class_uid != sop_class_uid:
                faults[sop_instance_uid] = CommitmentFault.OTHER_CLASS
            elif known.file is None or not images.exists(known.file):
                faults[sop_instance_uid] = CommitmentFault.NO_FILE
        detail = f"{len(objects) - len(faults)} objects committed, {len(faults)} not"
        tx.audit(AuditEvent("commit", "failed" if faults else "done", sender.ae_title, detail, sender.address))
    return faults
