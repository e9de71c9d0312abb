"""DICOM files of a backfill -> header and file for `receive`, the same as from an association."""

from __future__ import annotations

from adapters.dicom.image import part10
from adapters.dicom.network.storage_classes import accepted_sop_classes
from pipeline.ports.backfill import ReceivedInstance


def from_file(content: bytes, *, other_storage: str) -> ReceivedInstance | None:
    """Return header and file. The file's bytes equal those after a C-STORE of the data set, so duplicates are recognised.

    None for a SOP class that the listener does not accept. DataSetUnreadable, DataSetMismatch.
    """
    return from_encoded(*part10.split_file(content), other_storage=other_storage)


def from_encoded(encoded: bytes, transfer_syntax_uid: str, *, other_storage: str) -> ReceivedInstance | None:
    """Return header and file of an encoded data set, as `from_file` does."""
    header = part10.read_header(encoded, transfer_syntax_uid)
    if header.sop_class_uid not in accepted_sop_classes(other_storage=other_storage):
        return None
    uids = {"sop_class_uid": header.sop_class_uid, "sop_instance_uid": header.sop_instance_uid}
    return header, part10.file_bytes(encoded, transfer_syntax_uid=transfer_syntax_uid, **uids)
