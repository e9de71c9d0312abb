"""A DICOM file from anywhere -> what `receive` takes, as if it had come over an association."""

from __future__ import annotations

from adapters.dicom.image import part10
from adapters.dicom.network.storage_classes import accepted_sop_classes
from pipeline.ports.backfill import ReceivedInstance


def from_file(content: bytes, *, other_storage: str) -> ReceivedInstance | None:
    """Return header and file, of the very bytes that a C-STORE of its data set gives: a duplicate is known as one.

    None for a class that the listener does not offer. DataSetUnreadable, DataSetMismatch.
    """
    return from_encoded(*part10.split_file(content), other_storage=other_storage)


def from_encoded(encoded: bytes, transfer_syntax_uid: str, *, other_storage: str) -> ReceivedInstance | None:
    """Return the same of an encoded data set."""
    header = part10.read_header(encoded, transfer_syntax_uid)
    if header.sop_class_uid not in accepted_sop_classes(other_storage=other_storage):
        return None
    uids = {"sop_class_uid": header.sop_class_uid, "sop_instance_uid": header.sop_instance_uid}
    return header, part10.file_bytes(encoded, transfer_syntax_uid=transfer_syntax_uid, **uids)
