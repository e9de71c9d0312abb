"""Storage commitment (PS3.4 annex J): the data sets of its N-ACTION and N-EVENT-REPORT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from pipeline.errors import DataSetUnreadable

REQUEST_COMMITMENT = 1  # Action Type ID, table J.3-1
COMMITTED, FAILURES_EXIST = 1, 2  # Event Type IDs, table J.3-2

NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110  # Failure Reasons, PS3.3 C.14.1.1
REASONS = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_OBJECT_INSTANCE: "no such object",
    0x0213: "resource limitation",
    0x0122: "SOP class not supported",
    CLASS_INSTANCE_CONFLICT: "another SOP class",
    0x0131: "duplicate transaction",
}


class ReferencedObject(NamedTuple):
    """An object whose commitment is requested."""

    sop_class_uid: str
    sop_instance_uid: str


class CommitmentRequest(NamedTuple):
    """The content of an N-ACTION."""

    transaction_uid: str
    objects: Sequence[ReferencedObject]


def build_request(request: CommitmentRequest) -> Dataset:
    """Return the Action Information (table J.3-1)."""
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    information.ReferencedSOPSequence = [_reference_object(one) for one in request.objects]
    return information


def read_request(information: Dataset) -> CommitmentRequest:
    """Read the Action Information. DataSetUnreadable where it lacks a UID."""
    objects = [
        ReferencedObject(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in information.get("ReferencedSOPSequence") or ()
    ]
    transaction = str(information.get("TransactionUID", ""))
    if not transaction or not objects or not all(one.sop_instance_uid for one in objects):
        raise DataSetUnreadable("the storage commitment request lacks a UID", hint="the sender must give one of each object")
    return CommitmentRequest(transaction, objects)


def build_result(request: CommitmentRequest, failures: Mapping[str, int]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information (table J.3-2). `failures`: SOP Instance UID -> Failure Reason."""
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    committed = [one for one in request.objects if one.sop_instance_uid not in failures]
    if committed:
        information.ReferencedSOPSequence = [_reference_object(one) for one in committed]
    if not failures:
        return COMMITTED, information
    information.FailedSOPSequence = []
    for one in request.objects:
        if one.sop_instance_uid in failures:
            item = _reference_object(one)
            item.FailureReason = failures[one.sop_instance_uid]
            information.FailedSOPSequence.append(item)
    return FAILURES_EXIST, information


def read_result(information: Dataset) -> tuple[str, dict[str, str]]:
    """Return Transaction UID, and by SOP Instance UID the reason of a failure, "" where the object is committed."""
    result = {str(item.get("ReferencedSOPInstanceUID", "")): "" for item in information.get("ReferencedSOPSequence") or ()}
    for item in information.get("FailedSOPSequence") or ():
        code = item.get("FailureReason", 0)
        code = int(code) if isinstance(code, int) else 0
        reason = f"not committed: 0x{code:04X} {REASONS.get(code, '')}".rstrip()
        result[str(item.get("ReferencedSOPInstanceUID", ""))] = reason
    return str(information.get("TransactionUID", "")), result


def decode_information(content: bytes, transfer_syntax_uid: str) -> Dataset:
    """Decode the data set of a DIMSE-N message. DataSetUnreadable."""
    syntax = UID(transfer_syntax_uid)
    try:
        found = read_dataset(BytesIO(content), syntax.is_implicit_VR, syntax.is_little_endian)
        for element in found:  # values are decoded here, and not where nobody expects an error
            _ = element.value
        return found
    except Exception as error:  # pydicom raises whatever the bytes provoke
        raise DataSetUnreadable("the data set of the message cannot be parsed", hint="the sender must mend it") from error


def _reference_object(one: ReferencedObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one
    return item
