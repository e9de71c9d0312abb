"""A reader's document is built once and sent at least once, whatever the archive answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from pipeline import reader_documents, rules
from pipeline.domain import Job, JobKind, LabelState, ReaderDocument, ReportState, StoredInstance
from pipeline.errors import ArchiveUnreachable, LeaseLost, RefusedByArchive, ReportImpossible
from pipeline.ports.services import CircuitPolicy
from tests.builders.catalog_rows import FILE, SENDER, chest_header
from tests.builders.fakes.catalog import FakeCatalog
from tests.builders.fakes.images import FakeImageStore
from tests.builders.fakes.reports import FakeArchive

CHEST, CIRCUIT = rules.ChestPolicy(), CircuitPolicy(threshold=3, open_seconds=60)
UID = "2.25.7"


class FakeWriter:
    """`ports.ReaderDocumentWriter`: the document as a line of text."""

    def __init__(self) -> None:
        self.written = 0

    def write_document(self, document: ReaderDocument, images: Sequence[StoredInstance]) -> bytes:
        self.written += 1
        return f"{document.reader} {len(images)}".encode()


@pytest.fixture
def catalog() -> FakeCatalog:
    """A study with a film, and the document of a reading of it, with its job."""
    made = FakeCatalog()
    with made.begin() as tx:
        tx.studies.add_instance(chest_header(), FILE, SENDER, opens_study=True)
        tx.jobs.put(JobKind.REPORT, UID, reader_documents.PAYLOAD)
    states = {"Mass": LabelState.PRESENT}
    made.tables.reader_documents[UID] = ReaderDocument(
        sop_instance_uid=UID,
        study_instance_uid="1.1",
        reader="alice",
        states=states,
        points={},
        comment="",
        stated_at=datetime(2026, 1, 1, tzinfo=UTC),
        state=ReportState.PENDING,
    )
    return made


def claim(catalog: FakeCatalog, kind: JobKind) -> Job:
    with catalog.begin() as tx:
        [job] = tx.jobs.claim([kind], worker="w", lease_seconds=60)
    assert reader_documents.is_of_document(job)
    return job


def build(catalog: FakeCatalog, images: FakeImageStore, writer: FakeWriter) -> None:
    job = claim(catalog, JobKind.REPORT)
    reader_documents.build_document(job, catalog=catalog, images=images, writer=writer, chest=CHEST)
    with pytest.raises(LeaseLost):  # a second worker whose lease has ended
        reader_documents.build_document(job, catalog=catalog, images=images, writer=writer, chest=CHEST)


def send(catalog: FakeCatalog, images: FakeImageStore, archive: FakeArchive, job: Job) -> None:
    reader_documents.send_document(job, catalog=catalog, images=images, archive=archive, circuit=CIRCUIT)


def test_a_document_is_built_once_and_sent(catalog: FakeCatalog) -> None:
    images, writer, archive = FakeImageStore(), FakeWriter(), FakeArchive()
    build(catalog, images, writer)
    assert (writer.written, catalog.tables.reader_documents[UID].state) == (1, ReportState.BUILT)
    send(catalog, images, archive, claim(catalog, JobKind.SEND))
    assert catalog.tables.reader_documents[UID].state is ReportState.SENT
    assert archive.kept == [b"alice 1"]
    sent = catalog.tables.audit[-1]
    assert (sent.action, sent.outcome, sent.subject) == ("send", "done", UID)


def test_an_archive_that_refuses_ends_the_document_and_one_out_of_reach_does_not(catalog: FakeCatalog) -> None:
    images, archive = FakeImageStore(), FakeArchive()
    build(catalog, images, FakeWriter())
    job = claim(catalog, JobKind.SEND)
    archive.errors = [ArchiveUnreachable("gone"), RefusedByArchive("0xA900")]
    with pytest.raises(ArchiveUnreachable):
        send(catalog, images, archive, job)
    assert catalog.tables.reader_documents[UID].state is ReportState.BUILT
    with pytest.raises(RefusedByArchive):
        send(catalog, images, archive, job)
    assert catalog.tables.reader_documents[UID].state is ReportState.REFUSED


def test_a_job_without_its_document_says_so(catalog: FakeCatalog) -> None:
    job = claim(catalog, JobKind.REPORT)
    catalog.tables.reader_documents.clear()
    with pytest.raises(ReportImpossible, match="no reader's document"):
        reader_documents.build_document(job, catalog=catalog, images=FakeImageStore(), writer=FakeWriter(), chest=CHEST)
    with pytest.raises(ReportImpossible, match="no bytes"):
        send(catalog, FakeImageStore(), FakeArchive(), job)
