"""`radclipd check --repair` on a catalog and a store with each kind of damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.app.repair import Irregularity, StoreInspection
from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline import reader_documents
from pipeline.domain import DeskReading, InstanceState, JobKind, LabelExposure, LabelState
from tests.builders.catalog_rows import SENDER, chest_header, pending_report
from tests.builders.fakes.versions import a_version


@pytest.fixture
def images(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path / "images")


def inspect(catalog: SqlCatalog, images: FileImageStore, *, repair: bool) -> list[tuple[str, str, bool]]:
    inspection = StoreInspection(catalog=catalog, images=images, repair=repair, min_age_seconds=-1)
    found: Iterator[Irregularity] = inspection.run()
    return [(one.kind, one.subject, one.is_mended) for one in found]


def test_every_kind_of_damage_is_found_and_mended_where_that_is_safe(sql_catalog: SqlCatalog, images: FileImageStore) -> None:
    with sql_catalog.begin() as tx:
        tx.versions.add(a_version())
        for uid in ("1.4", "1.5", "1.6"):
            file = images.write(uid.encode())
            tx.studies.add_instance(chest_header(uid, f"{uid}.1"), file, SENDER, opens_study=True)
        tx.revisions.add_conflict(chest_header("1.4", "1.4.1"), images.write(b"conflict"), SENDER)
        tx.reports.ensure_pending(pending_report("2.25.1"))
        tx.reports.mark_built("2.25.1", images.write(b"report"))
    assert inspect(sql_catalog, images, repair=True) == []
    with sql_catalog.begin() as tx:
        lost, half = tx.studies.find_instance("1.5.1"), tx.studies.find_instance("1.6.1")
        assert lost is not None
        assert half is not None
        tx.retention.mark_deleting(half, pixels_sha256="")
        tx.jobs.put(JobKind.SCORE, "9.9")
    images.remove(lost.file)
    images.remove(images.file_of(b"report"))
    orphan = images.write(b"orphan")
    part = (images.root / half.file.key).with_suffix(".part")
    part.write_bytes(b"half")
    damage = [("half deletion", "1.6.1"), ("lost file", "1.5"), ("report without bytes", "2.25.1")]
    orphans = sorted([("orphan file", orphan.key), ("orphan file", str(part.relative_to(images.root)))])
    found = inspect(sql_catalog, images, repair=False)
    assert [one[:2] for one in found[:3]] == damage
    assert sorted(one[:2] for one in found[3:5]) == orphans
    assert found[5][:2] == ("job without subject", "score job 1")
    assert not any(mended for *_, mended in found)
    assert images.exists(orphan)
    mended = [kind for kind, _, is_mended in inspect(sql_catalog, images, repair=True) if is_mended]
    assert mended == ["half deletion", "orphan file", "orphan file"]
    assert [kind for kind, *_ in inspect(sql_catalog, images, repair=True)] == [
        "lost file",
        "report without bytes",
        "job without subject",
    ]
    with sql_catalog.read() as tx:
        deleted = tx.studies.find_instance("1.6.1")
    assert deleted is not None
    assert deleted.state is InstanceState.DELETED
    assert not images.exists(half.file)


def test_a_document_of_a_reader_is_neither_an_orphan_nor_a_job_without_subject(
    sql_catalog: SqlCatalog, images: FileImageStore
) -> None:
    reading = DeskReading(
        study_instance_uid="1.4",
        reader="alice",
        idempotency_key="key-0001",
        states={"Mass": LabelState.PRESENT},
        exposure=LabelExposure.NONE,
    )
    with sql_catalog.begin() as tx:
        tx.studies.add_instance(chest_header("1.4", "1.4.1"), images.write(b"film"), SENDER, opens_study=True)
        tx.readings.add(reading)
        reader_documents.enqueue(reading, tx, uid_root="1.2.3")
        (job,) = tx.jobs.claim([JobKind.REPORT], worker="w", lease_seconds=60)
    assert inspect(sql_catalog, images, repair=True) == []
    document = images.write(b"document")
    with sql_catalog.begin() as tx:
        tx.reader_documents.mark_built(job.subject, document)
        tx.jobs.put(JobKind.SEND, job.subject, reader_documents.PAYLOAD)
    assert inspect(sql_catalog, images, repair=True) == []
    assert images.exists(document)
    with sql_catalog.read() as tx:
        assert tx.audit_chain.identify_subjects([job.subject])[job.subject].study_instance_uid == "1.4"
    images.remove(document)
    assert inspect(sql_catalog, images, repair=True) == [("report without bytes", job.subject, False)]
