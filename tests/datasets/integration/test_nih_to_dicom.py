"""ChestX-ray14 as DX studies: valid, with the bits of the files and without findings."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from adapters.cli import app
from adapters.datasets import film_folder, nih, nih_to_dicom
from adapters.datasets.pictures import read_picture
from adapters.datasets.truth_table import STUDY_UID, TRUTH_FILE
from adapters.demo.embedded_archive import EmbeddedArchive
from adapters.dicom.image import part10
from adapters.dicom.image.pixels import render
from pipeline.domain import FINDINGS
from pipeline.rules import ChestPolicy, exclusion_reason
from tests.builders import nih_folder, peers
from tests.builders.validators import errors_in, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return nih_folder.collection(tmp_path / "nih", 8, modes=nih_folder.MODES)


def test_each_film_becomes_a_study_with_the_bits_of_its_file(folder: Path, tmp_path: Path) -> None:
    made = nih_to_dicom.convert(folder, tmp_path / "out")
    assert (made.studies, made.sent, made.unreadable) == (8, 0, ())
    collection = nih.read_collection(folder)
    for row, file in zip(collection.rows, collection.files, strict=True):
        image = dcmread(tmp_path / "out" / f"NIH-{row.patient}" / f"{file.stem}.dcm")
        picture = read_picture(file)
        assert (image.Modality, image.ViewPosition, image.PatientID) == ("DX", row.view, f"NIH-{row.patient}")
        assert (image.PatientAge, image.PatientSex) == (f"{row.age:03.0f}Y", row.sex)
        assert (image.BitsAllocated, image.BitsStored) == (picture.bits, picture.bits)
        assert np.array_equal(image.pixel_array, picture.stored_values)
        assert np.abs(render(image) - picture.brightness).max() < 1e-6
        assert np.allclose(
            [float(each) * nih_folder.EDGE for each in image.ImagerPixelSpacing], [2048 * 0.168, 2500 * 0.168], atol=1e-3
        )


def test_findings_are_in_the_truth_table_and_not_in_the_file(folder: Path, tmp_path: Path) -> None:
    nih_to_dicom.convert(folder, tmp_path)
    with (tmp_path / TRUTH_FILE).open() as lines:
        truth = {row[nih.IMAGE]: row for row in csv.DictReader(lines)}
    files = sorted(tmp_path.glob("NIH-*/*.dcm"))
    assert len(files) == len(truth) == 8
    for path in files:
        content = path.read_bytes()
        row = truth[f"{path.stem}.png"]
        assert row[STUDY_UID] == dcmread(BytesIO(content)).StudyInstanceUID
        assert set(row[nih.LABELS].split("|")) == set(nih_folder.shown(int(path.stem[:8]), 8) or [nih.NO_FINDING])
        assert not [finding for finding in FINDINGS if finding.replace("_", " ").lower().encode() in content.lower()]


def test_follow_up_numbers_become_ascending_dates(tmp_path: Path) -> None:
    lines = [nih_folder.HEADER]
    for visit in (0, 1, 12):
        nih_folder.save(tmp_path / "nih" / f"00000003_{visit:03d}.png", nih_folder.picture([], seed=visit))
        lines.append(f"00000003_{visit:03d}.png,No Finding,{visit},3,50,M,PA,2500,2048,0.168,0.168")
    (tmp_path / "nih" / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    nih_to_dicom.convert(tmp_path / "nih", tmp_path / "out")
    images = [dcmread(path) for path in sorted((tmp_path / "out").glob("*/*.dcm"))]
    assert [image.StudyDate for image in images] == ["20100104", "20100118", "20100621"]
    assert len({image.StudyInstanceUID for image in images}) == 3
    assert {image.PatientID for image in images} == {"NIH-00000003"}


def test_conversion_is_deterministic_and_respects_size_and_limit(folder: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        nih_to_dicom.convert(folder, tmp_path / out, limit=3, size=24)
    one, two = (sorted((tmp_path / out).rglob("*.*")) for out in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(one) == 4
    assert {dcmread(path).Rows for path in one if path.suffix == ".dcm"} == {24}


def test_a_broken_picture_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    broken = next(folder.rglob("00000004_000.png"))
    broken.write_bytes(b"no picture")
    made = nih_to_dicom.convert(folder, tmp_path / "out")
    assert (made.studies, made.unreadable) == (7, ("00000004_000.png",))


def test_the_verb_sends_to_an_archive(folder: Path, tmp_path: Path) -> None:
    archive = EmbeddedArchive(tmp_path / "archive", ae_title="PACS")
    try:
        said = CliRunner().invoke(
            app,
            [
                "experiment",
                "nih-to-dicom",
                "--folder",
                str(folder),
                "--out",
                str(tmp_path / "out"),
                "--send",
                f"PACS@127.0.0.1:{archive.port}",
            ],
            catch_exceptions=False,
        )
    finally:
        archive.stop()
    assert said.exit_code == 0
    assert "8 studies" in said.stdout
    assert "8 sent" in said.stdout
    assert len(list((tmp_path / "archive").glob("*.dcm"))) == 8


def test_an_invalid_address_is_a_usage_error(folder: Path, tmp_path: Path) -> None:
    words = ["experiment", "nih-to-dicom", "--folder", str(folder), "--out", str(tmp_path / "out"), "--send", "PACS:4242"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 2
    assert "AE@HOST:PORT" in said.output


def test_the_demonstration_reads_the_same_folder_with_its_truth(folder: Path) -> None:
    studies, skipped = film_folder.read_film_folder(folder, limit=5)
    assert skipped == []
    assert [set(study.instances[0].findings) for study in studies] == [set(nih_folder.shown(number, 8)) for number in range(1, 6)]
    headers = [part10.read_header(*part10.split_file(study.instances[0].content)) for study in studies]
    assert [exclusion_reason(header, ChestPolicy()) for header in headers] == [None] * 5


@pytest.mark.validators
@pytest.mark.parametrize("extent", [True, False], ids=["spacing known", "spacing nominal"])
def test_dciodvfy_finds_no_error(extent: bool, folder: Path, tmp_path: Path) -> None:
    table = folder / "Data_Entry_2017_v2020.csv"
    if not extent:
        lines = [",".join(line.split(",")[:7]) for line in table.read_text().splitlines()]
        table.write_text("\n".join(lines) + "\n")
    nih_to_dicom.convert(folder, tmp_path / "out")
    for path in sorted((tmp_path / "out").glob("*/*.dcm")):
        said = run("dciodvfy", "dicom3tools", "-new", path)
        assert "DXImageForPresentation" in said
        assert errors_in(said) == []


@pytest.mark.validators
def test_real_films_become_valid_objects(tmp_path: Path) -> None:
    made = nih_to_dicom.convert(peers.shared("nih-sample"), tmp_path, limit=4)
    assert made.studies == 4
    for path in tmp_path.glob("*/*.dcm"):
        assert errors_in(run("dciodvfy", "dicom3tools", "-new", path)) == []
