from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from adapters.dicom import part10
from adapters.dicom.pixels import DicomImageReader
from adapters.hospital import import_films, scanner
from adapters.host.image_store import FileImageStore
from pipeline import rules
from pipeline.domain import Header, StoredInstance
from pipeline.domain import Image as Film
from pipeline.errors import Refused
from tests import peers

SMALL = (96, 96)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
]


def header_of(content: bytes) -> Header:
    return part10.read_header(*part10.split_file(content))


def seen(content: bytes, folder: Path) -> Film:
    """The image as the daemon's own reader sees it."""
    store = FileImageStore(folder)
    file = store.write(content)
    return DicomImageReader(store).read(StoredInstance(header_of(content), file, NOW))


def taken(technique: scanner.Technique) -> bytes:
    return scanner.examine(scanner.patient(3, seed=1), [technique], seed=1, size=SMALL).scans[0].content


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).name)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "display"), [(12, "window"), (14, "lut"), (16, "none")])
def test_however_a_film_is_stored_the_reader_sees_the_same(
    syntax: UID, photometric: str, bits: int, display: str, tmp_path: Path
) -> None:
    plain = seen(taken(scanner.Technique()), tmp_path)
    technique = scanner.Technique(transfer_syntax=syntax, photometric=photometric, bits=bits, display=display)  # type: ignore[arg-type]  # parametrised
    content = taken(technique)
    elements = pydicom.dcmread(io.BytesIO(content))
    assert elements.file_meta.TransferSyntaxUID == syntax
    assert (elements.BitsStored, elements.PhotometricInterpretation) == (bits, photometric)
    assert np.corrcoef(seen(content, tmp_path).ravel(), plain.ravel())[0, 1] > 0.98


@pytest.mark.validators
@pytest.mark.parametrize("number", range(len(scanner.VARIETY)))
def test_complete_objects_are_valid(number: int, tmp_path: Path) -> None:
    program = peers.require("dciodvfy", "dicom3tools")
    techniques, _ = scanner.VARIETY[number]
    examination = scanner.examine(scanner.patient(number, seed=2), techniques, seed=2, size=SMALL)
    for scan in examination.scans:
        if scan.technique.header == "poor" or scan.technique.transfer_syntax == DeflatedExplicitVRLittleEndian:
            continue  # dciodvfy cannot inflate
        path = tmp_path / "film.dcm"
        path.write_bytes(scan.content)
        said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True).stderr
        assert [line for line in said.splitlines() if line.startswith(("Error", "Warning"))] == []


def reasons(examination: scanner.Examination) -> list[str | None]:
    return [rules.why_not_scored(header_of(scan.content), rules.ChestPolicy()) for scan in examination.scans]


def test_a_day_brings_what_is_scored_and_what_is_not() -> None:
    day = scanner.day(len(scanner.VARIETY), size=SMALL)
    assert [reasons(study) for study in day] == [
        [None],
        [None],
        [None, "lateral view"],
        [None],
        ["not the chest"],
        [None],
        ["lateral view"],
        [None],
        [None],
    ]


def test_a_poor_header_leaves_out_what_old_readers_leave_out() -> None:
    header = header_of(taken(scanner.Technique(modality="CR", header="poor", display="none")))
    assert (header.view_position, header.body_part_examined, header.patient_sex, header.accession_number) == ("", "", "", "")
    assert header.patient_id == "PHANTOM-00003"


def test_patients_come_again_and_studies_never_share_a_uid() -> None:
    day = scanner.day(22, size=(32, 32))
    patients: dict[str, list[str]] = {}
    for study in day:
        header = header_of(study.scans[0].content)
        assert header.study_instance_uid == study.study_instance_uid
        patients.setdefault(header.patient_id, []).append(header.study_date)
    assert len({study.study_instance_uid for study in day}) == len(day)
    again = [dates for dates in patients.values() if len(dates) > 1]
    assert again
    assert all(len(set(dates)) == len(dates) for dates in again)


def test_the_same_seed_gives_the_same_files_and_everybody_is_a_phantom() -> None:
    one, again = scanner.day(2, seed=4, size=SMALL), scanner.day(2, seed=4, size=SMALL)
    assert [scan.content for study in one for scan in study.scans] == [scan.content for study in again for scan in study.scans]
    elements = pydicom.dcmread(io.BytesIO(one[0].scans[0].content))
    assert str(elements.PatientName).startswith("PHANTOM^")
    assert "PHANTOM" in elements.StudyDescription


def write_picture(path: Path, mode: str) -> None:
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    if mode == "I;16":
        Image.fromarray((ramp * 65535).astype(np.uint16)).save(path)
    else:
        Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode).save(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_picture_of_any_mode_becomes_a_film(mode: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "film.png", mode)
    [study], skipped = import_films.from_folder(tmp_path)
    image = seen(study.scans[0].content, tmp_path / "store")
    assert skipped == []
    assert image[-1, -1] - image[0, 0] > 0.9
    assert reasons(study) == [None]


def names(files: Sequence[import_films.Skipped]) -> list[str]:
    return [left.path.name for left in files]


def test_a_mixed_folder_gives_films_and_says_what_it_left_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "00000007_001.png", "L")
    write_picture(tmp_path / "00000007_002.png", "L")
    (tmp_path / "notes.txt").write_text("no film")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "film.dcm").write_bytes(taken(scanner.Technique()))
    studies, skipped = import_films.from_folder(tmp_path)
    assert names(skipped) == ["broken.png", "notes.txt"]
    headers = [header_of(study.scans[0].content) for study in studies]
    assert [header.patient_id for header in headers] == ["00000007", "00000007", "PHANTOM-00003"]
    assert len(import_films.from_folder(tmp_path, limit=1)[0]) == 1


def test_a_file_without_meta_gets_one() -> None:
    path = peers.shared("dicom/CR-MONO1-10-chest_nometa.dcm")
    studies, _ = import_films.from_folder(path.parent)
    contents = [scan.content for study in studies for scan in study.scans]
    assert all(content[128:132] == b"DICM" for content in contents)


def test_a_folder_without_films_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(Refused, match="no film among the 1 files"):
        import_films.from_folder(tmp_path)
    with pytest.raises(Refused, match="is no folder"):
        import_films.from_folder(tmp_path / "nothing")
