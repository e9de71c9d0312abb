"""dciodvfy, dcentvfy and dsrdump find no error in an SR of ours, whatever the header it was made from."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.demo.dictated_sr import build_dictated_sr
from adapters.dicom.image import part10
from adapters.dicom.sr.evidence import evidence_of
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of
from tests.builders.headers import SHAPES
from tests.builders.report_of import a_card_version, report_on

pytestmark = pytest.mark.validators


def run(tool: str, package: str, *arguments: str | Path) -> str:
    """Run a validator; return what it said."""
    done = subprocess.run([peers.require(tool, package), *arguments], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def errors_in(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(("Error", "E:", "F:")) or "Different Patient" in line]


def validate(report: Dataset, film: bytes, folder: Path) -> None:
    sr, image = folder / "sr.dcm", folder / "film.dcm"
    sr.write_bytes(file_of(report))
    evidence_of(film).save_as(image)  # dcentvfy compares bytes: the film's header in UTF-8 and within the standard's limits
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", sr)) == []
    assert errors_in(run("dcentvfy", "dicom3tools", sr, image)) == []
    said = run("dsrdump", "dcmtk", sr)
    assert errors_in(said) == []
    assert "Imaging Measurement Report" in said


@pytest.mark.parametrize("film", SHAPES.values(), ids=SHAPES.keys())
def test_no_validator_finds_an_error(film: Dataset, tmp_path: Path) -> None:
    validate(report_on(film), file_of(film), tmp_path)


@pytest.mark.parametrize("sop_class", ["comprehensive-3d", "comprehensive", "enhanced"])
def test_nor_in_the_other_shapes_of_a_report(sop_class: str, tmp_path: Path) -> None:
    film = dx()
    version = a_card_version(calibrated=True, notice="UNTRAINED")
    report = report_on(film, version=version, follows=True, sop_class=sop_class, include_absent=False, institution_name="Hospital")
    validate(report, file_of(film), tmp_path)


def test_nor_with_several_films(tmp_path: Path) -> None:
    film = dx()
    other = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    validate(report_on(film, other), file_of(film), tmp_path)


def test_nor_in_the_report_of_the_simulated_radiologist(tmp_path: Path) -> None:
    film = file_of(dx())
    report = dcmread(BytesIO(build_dictated_sr(film, frozenset({"Mass", "Hernia"}), reader="Simulated^Reader")))
    validate(report, film, tmp_path)


@pytest.mark.parametrize(
    "name", ["CR-MONO1-10-chest_nometa.dcm", "chrKoreanMulti.dcm", "siim_nih_jpegbaseline_1024.dcm", "nih_google_implicit_1024.dcm"]
)
def test_nor_for_real_headers(name: str, tmp_path: Path) -> None:
    body, syntax = part10.split_file(peers.shared(f"dicom/{name}").read_bytes())
    header = part10.read_header(body, syntax)
    film = part10.file_bytes(
        body, sop_class_uid=header.sop_class_uid, sop_instance_uid=header.sop_instance_uid, transfer_syntax_uid=syntax
    )
    validate(report_on(film), film, tmp_path)


def test_dcentvfy_would_tell_of_another_patient(tmp_path: Path) -> None:
    film = dx()
    report = report_on(film)
    report.PatientID = "OTHER"
    with pytest.raises(AssertionError, match="Different"):
        validate(report, file_of(film), tmp_path)


def test_the_validators_would_have_told(tmp_path: Path) -> None:
    report = report_on(dx())
    del report.CompletionFlag
    (tmp_path / "broken.dcm").write_bytes(file_of(report))
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", tmp_path / "broken.dcm"))
