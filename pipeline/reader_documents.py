"""reader_documents: what a reader has said at the desk -> an SR of that person -> the archive. Off unless configured.

The row is inserted with the reading; a REPORT job builds the file, a SEND job delivers it, both with the document's UID as subject.
Such a document that comes back from the archive gives no labels: they stand since the reading.
"""

from __future__ import annotations

import uuid

from pipeline import rules, sending
from pipeline.domain import AuditEvent, DeskReading, Job, JobKind, ReportState
from pipeline.errors import ReportImpossible
from pipeline.ports.desk import DeskTransaction
from pipeline.ports.services import Archive, Catalog, CircuitPolicy, ImageStore, ReaderDocumentWriter, Transaction

PAYLOAD = {"reader_document": True}
"""Payload of the jobs on a reader's document."""
MAX_UID_LENGTH = 64


def is_of_document(job: Job) -> bool:
    """Tell whether a REPORT or SEND job is about a reader's document."""
    return "reader_document" in job.payload


def enqueue(reading: DeskReading, tx: DeskTransaction, *, uid_root: str) -> None:
    """Insert the document of a stored reading, and the job that builds it, in the caller's transaction."""
    uid = _make_uid(uid_root)
    tx.readings.add_document(reading, uid)
    tx.jobs.put(JobKind.REPORT, uid, PAYLOAD)


def build_document(
    job: Job, *, catalog: Catalog, images: ImageStore, writer: ReaderDocumentWriter, chest: rules.ChestPolicy
) -> None:
    """Build the SR of one reading and enqueue its delivery. Idempotent: a file built again takes the place of the first."""
    with catalog.read() as tx:
        document = tx.reader_documents.find(job.subject)
        if document is None:
            raise ReportImpossible(f"there is no reader's document {job.subject} in the catalog")
        shown = rules.choose_images(tx.studies.instances(document.study_instance_uid), chest).images
    if document.state is ReportState.PENDING:
        file = images.write(writer.write_document(document, shown))
    with catalog.begin() as tx:
        if document.state is ReportState.PENDING:
            tx.reader_documents.mark_built(job.subject, file)
            tx.jobs.put(JobKind.SEND, job.subject, PAYLOAD, priority=job.priority)
        tx.jobs.finish(job)


def send_document(job: Job, *, catalog: Catalog, images: ImageStore, archive: Archive, circuit: CircuitPolicy) -> None:
    """Send a reader's document to the archive, at least once: a second arrival has the same UID and is the same object."""
    with catalog.read() as tx:
        document = tx.reader_documents.find(job.subject)
    if document is None or document.file is None:
        raise ReportImpossible(f"reader's document {job.subject} has no bytes to send", hint="radclipd jobs list")

    def record_refusal(tx: Transaction, reason: str) -> None:
        tx.reader_documents.mark_refused(job.subject, reason)

    def record_sent(tx: Transaction, status: str) -> None:
        tx.reader_documents.mark_sent(job.subject, status)
        tx.audit(AuditEvent("send", "done", job.subject, status, archive.name))
        tx.jobs.finish(job)

    content, outcomes = images.read(document.file), {"record_sent": record_sent, "record_refusal": record_refusal}
    sending.send_object(content, catalog=catalog, archive=archive, circuit=circuit, **outcomes)


def _make_uid(root: str) -> str:
    """Return a new UID: `2.25.` and a random UUID (PS3.5 B.2), or the digits of one below the configured root."""
    number = uuid.uuid4().int
    return f"{root}.{number}"[:MAX_UID_LENGTH] if root else f"2.25.{number}"
