"""The contract of ports.Retention, and a year of a hospital on SQLite."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import InstanceState, JobKind, Report, ReportState, StoredFile, StudyState
from pipeline.ports.services import Catalog, Transaction
from pipeline.retention import FileRetention, RetentionPolicy
from tests.builders.catalog_rows import SENDER, chest_header, import_statement
from tests.builders.fakes.images import FakeImageStore
from tests.builders.fakes.versions import a_version

REPORT_FILE = StoredFile("re/po/rt.dcm", "c" * 64, 3)


def add_reported_studies(catalog: Catalog, files: Mapping[str, StoredFile]) -> None:
    """Insert studies, each with its file, whose reports were sent now."""
    with catalog.begin() as tx:
        for uid, file in files.items():
            add_reported_study(tx, uid, file)


def add_reported_study(tx: Transaction, uid: str, file: StoredFile) -> None:
    tx.studies.add_instance(chest_header(uid, f"{uid}.1", patient_id=uid), file, SENDER, opens_study=True)
    tx.studies.put_state(uid, StudyState.REPORTED)
    report = Report(
        sop_instance_uid=f"{uid}.2",
        series_instance_uid=f"{uid}.3",
        study_instance_uid=uid,
        version=1,
        revision=1,
        state=ReportState.PENDING,
    )
    tx.reports.ensure_pending(report)
    tx.reports.mark_built(report.sop_instance_uid, REPORT_FILE)
    tx.reports.mark_sent(report.sop_instance_uid, "0x0000")


def add_version(catalog: Catalog) -> None:
    with catalog.begin() as tx:
        tx.versions.add(a_version())


def test_reported_studies_that_nobody_needs_are_deletable(catalog: Catalog) -> None:
    add_version(catalog)
    add_reported_studies(catalog, {f"1.{n}": StoredFile(f"f{n}", f"{n}" * 64, 10) for n in range(1, 6)})
    import_statement(catalog, "1.2")
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, "1.3")
        tx.revisions.add_conflict(chest_header("1.4", "1.4.1"), StoredFile("g", "e" * 64, 1), SENDER)
    with catalog.begin() as tx:
        assert tx.retention.deletable_studies(older_than_days=0, limit=10) == ["1.1", "1.5"]
        assert tx.retention.deletable_studies(older_than_days=0, limit=1) == ["1.1"]
        assert tx.retention.deletable_studies(older_than_days=1, limit=10) == []
        assert tx.retention.is_deletable("1.5", older_than_days=0)
        assert not tx.retention.is_deletable("1.2", older_than_days=0)


def test_deletion_is_marked_first_and_ends_with_the_file(catalog: Catalog) -> None:
    add_version(catalog)
    add_reported_studies(catalog, {"1.1": StoredFile("f", "1" * 64, 10)})
    with catalog.begin() as tx:
        instance = tx.studies.find_instance("1.1.1")
        assert instance is not None
        tx.retention.mark_deleting(instance, pixels_sha256="d" * 64)
        tx.retention.mark_files_deleted("1.1")
    with catalog.begin() as tx:
        assert tx.retention.deleting(limit=10) == ["1.1.1"]
        tx.retention.mark_deleted("1.1.1")
        assert tx.retention.needed_studies(limit=10) == []
        assert tx.retention.deletable_studies(older_than_days=0, limit=10) == []
    with catalog.begin() as tx:
        assert tx.retention.deleting(limit=10) == []
        deleted = tx.studies.find_instance("1.1.1")
        assert deleted is not None
        assert (deleted.state, deleted.pixels_sha256) == (InstanceState.DELETED, "d" * 64)
    import_statement(catalog, "1.1")
    with catalog.begin() as tx:
        assert tx.retention.needed_studies(limit=10) == ["1.1"]
        tx.revisions.mark_stored("1.1.1")
        assert tx.retention.needed_studies(limit=10) == []
        stored = tx.studies.find_instance("1.1.1")
        assert stored is not None
        assert (stored.state, stored.pixels_sha256) == (InstanceState.STORED, "")


@pytest.mark.parametrize("catalog_url", ["sqlite"], indirect=True)
def test_the_disk_of_a_hospital_stays_flat_for_a_year(sql_catalog: SqlCatalog) -> None:
    """200 studies and 20 GB a day, scaled down to a study of 100 bytes; a disk of 20 days; a study in 24 is labelled."""
    add_version(sql_catalog)
    images, days, per_day, size = FakeImageStore(), 365, 1, 100
    images.free = disk = 20 * per_day * size * 2
    low_water = disk // 2
    policy = RetentionPolicy(min_free_bytes=low_water, min_days=0)
    file_retention = FileRetention(catalog=sql_catalog, images=images, policy=policy)
    free_after, labelled = [], 0
    for day in range(days):
        uids = [f"1.{day * per_day + number + 1}" for number in range(per_day)]
        images.free -= size * per_day
        add_reported_studies(sql_catalog, {uid: images.write(uid.encode().ljust(size)) for uid in uids})
        if day % 24 == 0 and day < 250:
            import_statement(sql_catalog, uids[0])
            labelled += 1
        file_retention.run()
        free_after.append(images.free)
    assert min(free_after) >= low_water
    assert max(free_after[40:]) < low_water + per_day * size  # no more is deleted than needed
    with sql_catalog.read() as tx:
        states = [tx.studies.instances(uid)[0] for uid in tx.studies.newest_complete(limit=days * per_day)]
    stored = [one for one in states if one.state is InstanceState.STORED]
    assert len(states) == days * per_day
    assert {one.file.key for one in stored} == set(images.files)
    assert len(stored) == (disk - low_water) // size
    assert len(stored) > labelled
