"""`radclipd forget`: nothing of the patient is left in any file or row; the audit chain holds, and tells that it was done."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.catalog.catalog import SqlCatalog
from adapters.catalog.tables import TABLES
from adapters.dicom.image import part10
from adapters.ml.activation_files import ActivationFolder, hash_key, shorten_hash
from adapters.storage.export_folders import FileExportFolders
from adapters.storage.image_store import FileImageStore
from pipeline import labels
from pipeline.audit_chain import link_events, verify
from pipeline.domain import AuditEvent, JobKind, LabelState, ReaderStatement, Sender, StoredFile, VersionState
from pipeline.errors import PermanentError
from pipeline.forget import Erasure, ErasureTools, PatientChoice, forget
from pipeline.receive import ReceivePolicy, receive
from tests.builders.catalog_rows import pending_report, worklist_request
from tests.builders.command import radclipd_on
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.versions import a_version
from tests.builders.sql import execute, rows

IDENTITY = ("PAT-FORGET", "1.2.77.1", "1.2.77.2", "1.2.77.3", "2.25.7701")
"""Patient ID, Study and SOP Instance UIDs, and the report's UID, of the patient to forget."""
FINGERPRINT = "ab" * 32


class Hospital:
    """A catalog with two patients, an image store and an activation cache, all in one folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.catalog = SqlCatalog(url, busy_timeout_seconds=10)
        self.images = FileImageStore(folder / "images")
        self.tools = ErasureTools(
            images=self.images, activations=ActivationFolder(folder / "activations"), exports=FileExportFolders()
        )
        with self.catalog.begin() as tx:
            doubts = [{"study": "1.2.77.1", "finding": "Mass", "probability": 0.9}, {"study": "1.2.88.1", "finding": "Mass"}]
            tx.versions.add(a_version(card={"learning": {"doubts": doubts}}))
        forgotten = [self.add_film("PAT-FORGET", "1.2.77.1", uid) for uid in ("1.2.77.2", "1.2.77.3")]
        kept = [self.add_film("PAT-KEPT", "1.2.88.1", "1.2.88.2")]
        self.add_work("1.2.77.1", "2.25.7701")
        self.add_work("1.2.88.1", "2.25.8801")
        self.add_activations([*forgotten, *kept])
        with self.catalog.begin() as tx:
            tx.versions.add(a_version(2, state=VersionState.CANDIDATE, label_fingerprint="f" * 64))

    def add_film(self, patient_id: str, study: str, instance: str) -> StoredFile:
        content = file_of(
            dx(PatientID=patient_id, StudyInstanceUID=study, SOPInstanceUID=instance, PatientName=f"NAME^{patient_id}")
        )
        header = part10.read_header(*part10.split_file(content))
        sender, policy = Sender("ORTHANC", "127.0.0.1", "RADCLIPD"), ReceivePolicy(min_free_bytes=0)
        receive(header, content, sender, catalog=self.catalog, images=self.images, policy=policy)
        with self.catalog.read() as tx:
            stored = tx.studies.find_instance(instance)
        assert stored is not None
        return stored.file

    def add_work(self, study: str, report: str) -> None:
        """Add what a study leaves: a request, labels, a sent report, jobs, audit events."""
        with self.catalog.begin() as tx:
            tx.requests.append([worklist_request(study)])
            tx.reports.ensure_pending(replace(pending_report(report), study_instance_uid=study))
            tx.reports.mark_built(report, self.images.write(f"report {report} of {study}".encode()))
            tx.reports.mark_sent(report, "0x0000")
            tx.jobs.put(JobKind.SCORE, study)
            tx.jobs.put(JobKind.SEND, report)
            for subject in (study, report):
                tx.audit(AuditEvent("label", "done", subject, f"Mass present in {subject}", "alice"))
        statement = ReaderStatement(study_instance_uid=study, findings={"Mass": LabelState.PRESENT}, reader="alice", source="csv")
        labels.import_readings([statement], catalog=self.catalog)

    def add_activations(self, files: list[StoredFile]) -> None:
        """Cache a record of each file, and an augmented copy of the first."""
        (self.folder / "activations").mkdir()
        with closing(sqlite3.connect(self.folder / "activations" / f"{FINGERPRINT}.sqlite")) as database, database:
            database.execute("CREATE TABLE activations (number INTEGER PRIMARY KEY, name INTEGER NOT NULL UNIQUE)")
            keys = [*(file.sha256 for file in files), f"{files[0].sha256} 0123 1"]
            names = [(shorten_hash(hash_key(FINGERPRINT, key)),) for key in keys]
            database.executemany("INSERT INTO activations (name) VALUES (?)", names)

    def forget(self, patient_id: str = "PAT-FORGET") -> Erasure:
        return forget(PatientChoice(patient_id=patient_id), catalog=self.catalog, tools=self.tools, source="cli:root")

    def count_activations(self) -> int:
        with closing(sqlite3.connect(self.folder / "activations" / f"{FINGERPRINT}.sqlite")) as database:
            return int(database.execute("SELECT count(*) FROM activations").fetchone()[0])


@pytest.fixture
def hospital(catalog_url: str, tmp_path: Path) -> Iterator[Hospital]:
    made = Hospital(catalog_url, tmp_path)
    yield made
    made.catalog.dispose()


def find_identity(hospital: Hospital) -> set[str]:
    """Return the words of IDENTITY that stand in a row, or in a byte of a file."""
    stored = "\n".join(str(row) for table in TABLES for row in rows(hospital.url, f"SELECT * FROM {table.name}"))
    content = b"".join(path.read_bytes() for path in hospital.folder.rglob("*") if path.is_file())
    return {word for word in IDENTITY if word in stored or word.encode() in content}


def test_nothing_of_the_patient_is_left_and_the_chain_holds(hospital: Hospital) -> None:
    link_events(catalog=hospital.catalog)
    assert find_identity(hospital) == set(IDENTITY)
    erasure = hospital.forget()
    assert find_identity(hospital) == set()
    assert (erasure.rows["instances"], erasure.rows["labels"], erasure.rows["reports"], erasure.files) == (2, 1, 1, 3)
    assert (erasure.activations, hospital.count_activations()) == (3, 1)
    verdict = verify(catalog=hospital.catalog)
    assert (verdict.holds, verdict.unlinked, verdict.erased) == (True, 0, 2)
    told = rows(hospital.url, "SELECT subject, source, patient_pseudonym FROM v_audit WHERE action = 'forget'")
    assert told == [("", "cli:root", erasure.pseudonym)]
    remains = "\n".join(erasure.remains)
    assert "1 reports in the archive" in remains
    assert "model versions 2:" in remains


def test_another_patient_keeps_everything(hospital: Hospital) -> None:
    hospital.forget()
    with hospital.catalog.read() as tx:
        kept = tx.studies.find_instance("1.2.88.2")
        assert kept is not None
        assert hospital.images.exists(kept.file)
        assert [label.study_instance_uid for label in tx.labels.all()] == ["1.2.88.1"]
        card = tx.versions.all()[0].card
    assert [doubt["study"] for doubt in card["learning"]["doubts"]] == ["1.2.88.1"]
    assert rows(hospital.url, "SELECT subject FROM jobs ORDER BY subject") == [("1.2.88.1",), ("2.25.8801",)]


def test_an_erasure_that_was_cut_is_finished_by_the_next(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: str, pseudonym: str) -> bool:
        raise OSError

    with hospital.catalog.begin() as tx:
        tx.erasures.add_export(str(hospital.folder / "gone"))
    with monkeypatch.context() as cut:
        cut.setattr(hospital.tools.exports, "remove_patient", fail)
        with pytest.raises(OSError):
            hospital.forget()
    assert find_identity(hospital) == set(IDENTITY)
    assert any("gone" in remaining for remaining in hospital.forget().remains)
    assert find_identity(hospital) == set()


def test_labels_of_other_patients_stay_append_only_meanwhile(hospital: Hospital) -> None:
    with hospital.catalog.begin() as tx:
        tx.erasures.begin(tx.erasures.find_patients("PAT-FORGET")[0].number)
    with pytest.raises(Exception, match="append-only"):
        execute(hospital.url, "DELETE FROM labels")


def test_an_unknown_and_an_ambiguous_patient_are_refused(hospital: Hospital) -> None:
    with pytest.raises(PermanentError, match="no such patient"):
        hospital.forget("NOBODY")
    film = dx(PatientID="PAT-FORGET", IssuerOfPatientID="OTHER", StudyInstanceUID="1.2.99.1", SOPInstanceUID="1.2.99.2")
    header = part10.read_header(*part10.split_file(file_of(film)))
    with hospital.catalog.begin() as tx:
        tx.studies.add_instance(header, StoredFile("x", "9" * 64, 1), Sender("A", "b", "C"), opens_study=True)
    with pytest.raises(PermanentError, match="2 patients") as ambiguous:
        hospital.forget()
    assert "--issuer" in ambiguous.value.hint


def test_the_verb_erases_by_study_and_tells_what_stays(tmp_path: Path, fresh_url: Callable[[str], str]) -> None:
    hospital = Hospital(fresh_url("sqlite"), tmp_path)
    hospital.catalog.dispose()
    config = tmp_path / "radclipd.toml"
    config.write_text(
        f'[storage]\ndirectory = "{tmp_path}/images"\n[catalog]\nurl = "{hospital.url}"\n'
        f'[activation_cache]\ndirectory = "{tmp_path}/activations"\n'
    )
    radclipd = radclipd_on(hospital.url)
    refused = radclipd("--config", str(config), "forget", "--study", "1.2.77.1")
    assert refused.returncode == 1  # nobody confirms
    done = radclipd("--config", str(config), "forget", "--study", "1.2.77.1", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["instances"] == 2
    assert find_identity(hospital) == set()
