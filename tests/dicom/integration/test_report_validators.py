"""dciodvfy, dcentvfy and dsrdump find no error in reports, for any header of the scored image."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.demo.dictated_sr import build_dictated_sr
from adapters.dicom.image import part10
from adapters.dicom.sr.evidence import evidence_of
from pipeline.domain import VisibleKind
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of
from tests.builders.headers import HEADER_VARIANTS
from tests.builders.report_of import LEARNT, a_card_version, report_on, visible_on
from tests.builders.validators import errors_in, run

pytestmark = pytest.mark.validators


def validate(report: Dataset, film: bytes, folder: Path) -> None:
    sr, image = folder / "sr.dcm", folder / "film.dcm"
    sr.write_bytes(file_of(report))
    evidence_of(film).save_as(
        image
    )  # dcentvfy compares bytes: the normalised header, in UTF-8 and within the limits of the standard
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", sr)) == []
    assert errors_in(run("dcentvfy", "dicom3tools", sr, image)) == []
    for tool in ("dsrdump", "dsr2html"):
        output = run(tool, "dcmtk", sr)
        assert errors_in(output) == []
        assert str(report.ConceptNameCodeSequence[0].CodeMeaning) in output


@pytest.mark.parametrize("film", HEADER_VARIANTS.values(), ids=HEADER_VARIANTS.keys())
def test_a_report_on_any_header_is_valid(film: Dataset, tmp_path: Path) -> None:
    validate(report_on(film), file_of(film), tmp_path)


@pytest.mark.parametrize("sop_class", ["comprehensive-3d", "comprehensive", "enhanced"])
def test_reports_of_every_sop_class_are_valid(sop_class: str, tmp_path: Path) -> None:
    film = dx()
    version = a_card_version(scales=LEARNT, notice="UNTRAINED")
    report = report_on(film, version=version, follows=True, sop_class=sop_class, include_absent=False, institution_name="Hospital")
    validate(report, file_of(film), tmp_path)


@pytest.mark.parametrize("film", HEADER_VARIANTS.values(), ids=HEADER_VARIANTS.keys())
def test_a_text_report_on_any_header_is_valid(film: Dataset, tmp_path: Path) -> None:
    validate(visible_on(film, follows=True), file_of(film), tmp_path)


@pytest.mark.parametrize("film", HEADER_VARIANTS.values(), ids=HEADER_VARIANTS.keys())
def test_a_card_on_any_header_is_valid(film: Dataset, tmp_path: Path) -> None:
    card, image = tmp_path / "card.dcm", tmp_path / "film.dcm"
    card.write_bytes(file_of(visible_on(film, kind=VisibleKind.CARD)))
    evidence_of(file_of(film)).save_as(image)
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", card)) == []
    assert errors_in(run("dcentvfy", "dicom3tools", card, image)) == []


@pytest.mark.parametrize("make", [report_on, visible_on], ids=["sr", "text"])
def test_a_report_of_which_nothing_is_assessed_is_valid(make: Callable[..., Dataset], tmp_path: Path) -> None:
    film = dx()
    validate(make(film, has_reference=False), file_of(film), tmp_path)


def test_a_report_on_several_images_is_valid(tmp_path: Path) -> None:
    film = dx()
    other = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    validate(report_on(film, other), file_of(film), tmp_path)


def test_the_simulated_radiologists_report_is_valid(tmp_path: Path) -> None:
    film = file_of(dx())
    report = dcmread(BytesIO(build_dictated_sr(film, frozenset({"Mass", "Hernia"}), reader="Simulated^Reader")))
    validate(report, film, tmp_path)


@pytest.mark.parametrize(
    "name", ["CR-MONO1-10-chest_nometa.dcm", "chrKoreanMulti.dcm", "siim_nih_jpegbaseline_1024.dcm", "nih_google_implicit_1024.dcm"]
)
def test_reports_on_real_headers_are_valid(name: str, tmp_path: Path) -> None:
    body, syntax = part10.split_file(peers.shared(f"dicom/{name}").read_bytes())
    header = part10.read_header(body, syntax)
    film = part10.file_bytes(
        body, sop_class_uid=header.sop_class_uid, sop_instance_uid=header.sop_instance_uid, transfer_syntax_uid=syntax
    )
    validate(report_on(film), film, tmp_path)


def test_dcentvfy_detects_another_patient(tmp_path: Path) -> None:
    film = dx()
    report = report_on(film)
    report.PatientID = "OTHER"
    with pytest.raises(AssertionError, match="Different"):
        validate(report, file_of(film), tmp_path)


def test_dciodvfy_detects_a_missing_element(tmp_path: Path) -> None:
    report = report_on(dx())
    del report.CompletionFlag
    (tmp_path / "broken.dcm").write_bytes(file_of(report))
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", tmp_path / "broken.dcm"))
