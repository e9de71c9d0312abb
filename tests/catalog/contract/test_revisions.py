"""The contract of ports.Revisions: the fake, SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

from adapters.catalog.catalog import SqlCatalog
from pipeline.domain import ConflictResolution, Header, Revision, StoredFile, StudyState
from pipeline.ports.services import Catalog
from tests.builders.catalog_rows import FILE, SENDER, add_instance, chest_header

OTHER = StoredFile("cc/dd/g.dcm", "a" * 64, 11, "b" * 32)


def revise(catalog: Catalog, header: Header, file: StoredFile = OTHER, *, opens: bool = False) -> bool:
    with catalog.begin() as tx:
        revision = Revision(header=header, file=file, sender=SENDER, difference="another value of PatientID")
        return tx.revisions.add(revision, opens_study=opens)


def test_a_revision_takes_the_place_of_the_file_and_the_study_follows_its_patient(catalog: Catalog) -> None:
    add_instance(catalog, chest_header(accession_number="A1", study_date="20260101"))
    corrected = chest_header(accession_number="A2", study_date="20260102", patient_id="P2", patient_sex="F")
    assert revise(catalog, corrected)
    with catalog.read() as tx:
        found, study = tx.studies.find_instance("1.1.1"), tx.studies.find("1.1")
        assert found is not None
        assert study is not None
        assert (found.header, found.file, found.revision) == (corrected, OTHER, 1)
        assert (study.patient_key, study.accession_number, study.study_date) == ("P2\\", "A2", "20260102")
        assert (study.instances, study.state) == (1, StudyState.ARRIVING)
    assert not revise(catalog, replace(corrected, station_name="B"), FILE)  # the first file again
    with catalog.read() as tx:
        again = tx.studies.find_instance("1.1.1")
    assert again is not None
    assert (again.file, again.revision, again.header.station_name) == (FILE, 2, "B")


def test_the_view_lists_each_former_file_once_and_without_identity(sql_catalog: SqlCatalog) -> None:
    add_instance(sql_catalog, chest_header())
    for number in range(3):
        revise(sql_catalog, chest_header(patient_id=f"P{number}"), (OTHER, FILE)[number % 2])
    with sql_catalog.read() as tx:
        rows = tx.views.select("v_instance_revisions")
    assert [(row["sop_instance_uid"], row["file_key"], row["state"]) for row in rows] == [("1.1.1", FILE.key, "stored")]
    assert rows[0]["difference"] == "another value of PatientID"


def test_an_instance_moves_to_another_study(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    revise(catalog, chest_header(study="1.2"), opens=True)
    with catalog.read() as tx:
        former, study = tx.studies.find("1.1"), tx.studies.find("1.2")
        assert former is not None
        assert study is not None
        assert (former.instances, study.instances, study.state) == (0, 1, StudyState.ARRIVING)
        assert tx.studies.instances("1.1") == []
        assert [instance.file for instance in tx.studies.instances("1.2")] == [OTHER]


def test_a_conflict_is_open_until_it_is_resolved_and_forgets_its_header_then(catalog: Catalog) -> None:
    add_instance(catalog, chest_header())
    received = chest_header(patient_id="P2", image_type=("DERIVED", "PRIMARY"))
    with catalog.begin() as tx:
        tx.revisions.add_conflict(received, OTHER, SENDER)
    with catalog.read() as tx:
        (conflict,) = tx.revisions.conflicts()
        assert tx.revisions.conflicts("1.1.1") == [conflict]
        assert tx.revisions.conflicts("9") == []
        assert (conflict.header, conflict.file, conflict.sender) == (received, OTHER, SENDER)
        assert (conflict.sop_instance_uid, conflict.study_instance_uid) == ("1.1.1", "1.1")
        assert tx.revisions.count_conflicts() == 1
    with catalog.begin() as tx:
        tx.revisions.resolve_conflict(conflict.number, ConflictResolution.STORED)
    with catalog.read() as tx:
        assert tx.revisions.conflicts() == []
        assert tx.revisions.count_conflicts() == 0
        resolved = tx.revisions.find_conflict(conflict.number)
        assert tx.revisions.find_conflict(99) is None
    assert resolved is not None
    assert resolved.resolution is ConflictResolution.STORED
