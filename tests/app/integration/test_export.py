"""`radclipd export`: a research set without identity, and the removal of a forgotten patient from it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from pydicom import dcmread

from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.deidentification.deidentifier import BurnedInPolicy, RadiographDeidentifier
from adapters.dicom.image import part10
from adapters.ml.activation_files import ActivationFolder
from adapters.storage.export_folders import FileExportFolders, FileExportWriter
from adapters.storage.image_store import FileImageStore
from pipeline import decisions, labels
from pipeline.domain import FINDINGS, LabelState, ReaderStatement, Sender
from pipeline.errors import PermanentError
from pipeline.export import ExportChoice, ExportResult, export
from pipeline.forget import ErasureTools, PatientChoice, forget
from tests.builders.command import radclipd_on
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.versions import a_version
from tests.builders.sql import rows

ALL = ExportChoice()
SECRETS = ("DOE", "PAT-1", "PAT-2", "ACC-1", "1.2.71.", "1.2.72.", "dr.house", "20240229")


class Archive:
    """Two patients of one film each; a third film has text burned in. Each has scores and a label."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.catalog = SqlCatalog(url, busy_timeout_seconds=10)
        self.images = FileImageStore(folder / "images")
        with self.catalog.begin() as tx:
            tx.versions.add(a_version())
        self.add_film("PAT-1", "1.2.71.1")
        self.add_film("PAT-2", "1.2.72.1")
        self.add_film("PAT-2", "1.2.72.2", BurnedInAnnotation="YES")

    def add_film(self, patient_id: str, study: str, **elements: Any) -> None:
        film = dx(PatientID=patient_id, PatientName="DOE^JANE", StudyInstanceUID=study, SOPInstanceUID=f"{study}.5", **elements)
        film.AccessionNumber, film.StudyDate, film.PatientSex, film.PatientAge = "ACC-1", "20240229", "F", "041Y"
        content = file_of(film)
        header = part10.read_header(*part10.split_file(content))
        scores = decisions.predict_study([0.2] * len(FINDINGS), a_version())  # type: ignore[arg-type]  # a vector
        with self.catalog.begin() as tx:
            tx.studies.add_instance(header, self.images.write(content), Sender("ORTHANC", "h", "US"), opens_study=True)
            tx.scores.put_predictions(1, {study: scores}, tx.studies.next_revisions([study]))
        states = {"Mass": LabelState.PRESENT}
        statement = ReaderStatement(study_instance_uid=study, findings=states, reader="dr.house", source="from PAT-1")
        labels.import_readings([statement], catalog=self.catalog)

    def export(self, name: str, choice: ExportChoice = ALL) -> ExportResult:
        return export(
            choice,
            catalog=self.catalog,
            images=self.images,
            deidentifier=RadiographDeidentifier(BurnedInPolicy()),
            writer=FileExportWriter(self.folder / name, parquet=True),
            source="cli:root",
        )

    def table(self, name: str, table: str) -> list[dict[str, str]]:
        with (self.folder / name / f"{table}.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def archive(catalog_url: str, tmp_path: Path) -> Iterator[Archive]:
    made = Archive(catalog_url, tmp_path)
    yield made
    made.catalog.dispose()


def test_an_export_holds_images_labels_and_predictions_and_no_identity(archive: Archive) -> None:
    result = archive.export("out")
    assert (result.patients, result.studies, result.images, result.labels, result.predictions) == (2, 3, 2, 3, 3 * len(FINDINGS))
    assert result.left_out == {"text may be burned into the pixels": 1}
    content = b"".join(
        path.read_bytes() + str(path.relative_to(archive.folder)).encode()
        for path in (archive.folder / "out").rglob("*")
        if path.is_file()
    )
    assert [secret for secret in SECRETS if secret.encode() in content] == []
    for row in archive.table("out", "instances"):
        image = dcmread(archive.folder / "out" / row["file"])
        assert (image.PatientID, image.StudyInstanceUID, image.SOPInstanceUID) == (
            row["patient_id"],
            row["study_instance_uid"],
            row["sop_instance_uid"],
        )
        assert image.StudyDate == row["study_date"]
    assert {(row["reader"], row["source"], row["state"]) for row in archive.table("out", "labels")} == {
        ("reader-1", "other", "present")
    }
    exported = rows(archive.url, "SELECT subject, source FROM v_audit WHERE action = 'export' ORDER BY id")
    assert exported == [("1.2.71.1", "cli:root"), ("1.2.72.1", "cli:root"), ("1.2.72.2", "cli:root")]


def test_a_second_export_has_the_same_pseudonyms(archive: Archive) -> None:
    archive.export("one")
    archive.export("two", ExportChoice(studies=["1.2.71.1"]))
    (row,) = archive.table("two", "instances")
    assert row in archive.table("one", "instances")
    with pytest.raises(PermanentError, match="not empty"):
        archive.export("two")
    with pytest.raises(PermanentError, match="1 of 1 studies"):
        archive.export("three", ExportChoice(studies=["9.9"]))


def test_a_forgotten_patient_leaves_the_export_and_gets_no_pseudonym_again(archive: Archive) -> None:
    archive.export("out")
    before = {row["file"] for row in archive.table("out", "instances")}
    tools = ErasureTools(images=archive.images, activations=ActivationFolder(archive.folder / "none"), exports=FileExportFolders())
    assert forget(PatientChoice(patient_id="PAT-1"), catalog=archive.catalog, tools=tools, source="test").exports == 1
    left = archive.table("out", "instances")
    assert len(left) == 1
    (gone,) = before - {row["file"] for row in left}
    assert not (archive.folder / "out" / gone).exists()
    patient = gone.split("/")[1]
    for table in ("instances", "labels", "predictions"):
        assert patient not in (archive.folder / "out" / f"{table}.csv").read_text()
        column = pyarrow.parquet.read_table(archive.folder / "out" / f"{table}.parquet").column("patient_id")
        assert patient not in column.to_pylist()
        assert len(column) > 0
    archive.add_film("PAT-1", "1.2.71.1")  # the sender brings it again
    archive.export("again")
    assert patient not in (archive.folder / "again" / "instances.csv").read_text()


def test_the_verb_exports_labelled_studies(tmp_path: Path, fresh_url: Callable[[str], str]) -> None:
    archive = Archive(fresh_url("sqlite"), tmp_path)
    archive.catalog.dispose()
    config = tmp_path / "radclipd.toml"
    config.write_text(
        f'[storage]\ndirectory = "{tmp_path}/images"\n[catalog]\nurl = "{archive.url}"\n'
        '[export]\nburned_in = "mask"\nmask_regions = ["0,0,1,0.1"]\n'
    )
    done = radclipd_on(archive.url)("--config", str(config), "export", str(tmp_path / "set"), "--labelled", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 3
