from __future__ import annotations

import io
import subprocess
from collections import Counter
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

from adapters.datasets import film_folder
from adapters.dicom.image import part10
from adapters.dicom.image.pixels import DicomImageReader
from adapters.simulator import population, scanner
from adapters.simulator.sites import SITES
from adapters.storage.image_store import FileImageStore
from pipeline import rules
from pipeline.domain import FINDINGS, Header, StoredInstance
from pipeline.domain import Image as Film
from pipeline.errors import PermanentError
from tests.builders import peers

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
    """Return the image decoded by the daemon's reader."""
    store = FileImageStore(folder)
    file = store.write(content)
    return DicomImageReader(store).read(StoredInstance(header_of(content), file, NOW))


def taken(technique: scanner.Technique) -> bytes:
    return scanner.examine_patient(scanner.draw_patient(3, seed=1), [technique], seed=1, size=SMALL).instances[0].content


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: UID(uid).name)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "display"), [(12, "window"), (14, "lut"), (16, "none")])
def test_the_reader_decodes_the_same_image_from_every_encoding(
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
@pytest.mark.parametrize("number", range(len(scanner.VARIED_STUDIES)))
def test_complete_objects_are_valid(number: int, tmp_path: Path) -> None:
    program = peers.require("dciodvfy", "dicom3tools")
    techniques, _ = scanner.VARIED_STUDIES[number]
    examination = scanner.examine_patient(scanner.draw_patient(number, seed=2), techniques, seed=2, size=SMALL)
    for scan in examination.instances:
        if scan.technique.header == "poor" or scan.technique.transfer_syntax == DeflatedExplicitVRLittleEndian:
            continue  # dciodvfy cannot inflate
        path = tmp_path / "film.dcm"
        path.write_bytes(scan.content)
        said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True).stderr
        assert [line for line in said.splitlines() if line.startswith(("Error", "Warning"))] == []


@pytest.mark.validators
@pytest.mark.parametrize("site", SITES)
def test_sparse_objects_of_a_site_are_valid(site: str, tmp_path: Path) -> None:
    program = peers.require("dciodvfy", "dicom3tools")
    kinds = set()
    for order in scanner.natural_orders(site, 400, seed=2):
        for technique in order.techniques:
            kind = (technique.modality, technique.view, technique.header, technique.display)
            if technique.header == "poor" or kind in kinds:
                continue
            kinds.add(kind)
            [scan] = scanner.examine_case(order.case, [technique], size=(32, 32)).instances
            path = tmp_path / "film.dcm"
            path.write_bytes(scan.content)
            said = subprocess.run([program, "-new", str(path)], capture_output=True, text=True).stderr
            wrong = [line for line in said.splitlines() if line.startswith(("Error", "Warning"))]
            assert [line for line in wrong if "only permitted to be empty when actually unknown" not in line] == []
    assert {kind[1] for kind in kinds} == {"PA", "AP", "LL", "KNEE", "HAND", "ABDOMEN"}
    assert {kind[2] for kind in kinds} == {"complete", "sparse"}


def reasons(examination: scanner.Examination) -> list[str | None]:
    return [rules.exclusion_reason(header_of(scan.content), rules.ChestPolicy()) for scan in examination.instances]


def test_varied_examinations_include_scored_and_ignored_studies() -> None:
    day = scanner.varied_examinations(len(scanner.VARIED_STUDIES), size=SMALL)
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


def test_a_poor_header_lacks_the_attributes_that_old_readers_omit() -> None:
    header = header_of(taken(scanner.Technique(modality="CR", header="poor", display="none")))
    assert (header.view_position, header.body_part_examined, header.patient_sex, header.accession_number) == ("", "", "", "")
    assert header.patient_id == "PHANTOM-00003"


def test_patients_return_and_studies_have_distinct_uids() -> None:
    day = scanner.varied_examinations(22, size=(32, 32))
    patients: dict[str, list[str]] = {}
    for study in day:
        header = header_of(study.instances[0].content)
        assert header.study_instance_uid == study.study_instance_uid
        patients.setdefault(header.patient_id, []).append(header.study_date)
    assert len({study.study_instance_uid for study in day}) == len(day)
    again = [dates for dates in patients.values() if len(dates) > 1]
    assert again
    assert all(len(set(dates)) == len(dates) for dates in again)


def test_a_seed_determines_the_files_and_every_patient_is_a_phantom() -> None:
    one, again = scanner.varied_examinations(2, seed=4, size=SMALL), scanner.varied_examinations(2, seed=4, size=SMALL)
    assert [scan.content for study in one for scan in study.instances] == [
        scan.content for study in again for scan in study.instances
    ]
    elements = pydicom.dcmread(io.BytesIO(one[0].instances[0].content))
    assert str(elements.PatientName).startswith("PHANTOM^")
    assert "PHANTOM" in elements.StudyDescription


def a_case(**wanted: object) -> population.Case:
    cases = population.enriched_cases("west", 300, seed=5, per_finding=8)
    return next(case for case in cases if all(getattr(case, name) == value for name, value in wanted.items()))


def test_the_examination_of_a_case_has_its_film_and_site_and_no_truth_in_the_file(tmp_path: Path) -> None:
    case = next(case for case in population.enriched_cases("west", 300, seed=5, per_finding=8) if len(case.findings) == 2)
    study = scanner.examine_case(case, size=SMALL)
    [scan] = study.instances
    elements = pydicom.dcmread(io.BytesIO(scan.content))
    assert study.case is case
    assert scan.findings == case.findings
    assert elements.StudyInstanceUID == study.study_instance_uid
    assert (elements.ViewPosition, elements.PatientSex) == (case.view, case.sex)
    assert int(elements.PatientAge[:3]) == case.age
    assert elements.StudyDate == case.day.strftime("%Y%m%d")
    assert elements.Manufacturer == SITES["west"].equipment.manufacturer
    assert elements.PatientID == f"PHANTOM-WEST-{case.number:07d}"
    assert not any(finding.lower().encode() in scan.content.lower() for finding in case.findings)
    film = population.take_film(case, size=SMALL).pixels
    assert np.corrcoef(seen(scan.content, tmp_path).ravel(), film.ravel())[0, 1] > 0.99


def test_a_study_may_have_a_lateral_of_the_same_person() -> None:
    case = a_case(view="PA")
    study = scanner.examine_case(case, [scanner.Technique(), scanner.Technique(view="LL")], size=SMALL)
    headers = [header_of(scan.content) for scan in study.instances]
    assert len({header.sop_instance_uid for header in headers}) == 2
    assert {header.study_instance_uid for header in headers} == {study.study_instance_uid}
    assert [dict(scan.findings) for scan in study.instances] == [dict(case.findings), {}]
    assert reasons(study) == [None, "lateral view"]


def test_a_site_archive_has_laterals_other_regions_and_poor_headers() -> None:
    ordered = scanner.natural_orders("south", 1500, seed=3)
    techniques = [technique for order in ordered for technique in order.techniques]
    elsewhere = [order for order in ordered if order.techniques[0].view in scanner.OTHER_REGIONS]
    assert 0.03 < len(elsewhere) / len(ordered) < 0.07
    assert all(not order.case.findings for order in elsewhere)
    pa = [order for order in ordered if order.techniques[0].view == "PA"]
    assert 0.25 < np.mean([len(order.techniques) == 2 for order in pa]) < 0.5
    equipment = SITES["south"].equipment
    assert np.mean([technique.modality == "CR" for technique in techniques]) == pytest.approx(equipment.cr_share, abs=0.06)
    assert {technique.header for technique in techniques if technique.modality == "DX"} == {"complete"}
    assert {technique.header for technique in techniques if technique.modality == "CR"} == {"complete", "sparse", "poor"}
    assert {technique.bits for technique in techniques} == set(equipment.dx_bits + equipment.cr_bits)
    assert len({order.case.patient for order in ordered}) < 700


def test_an_enriched_archive_has_every_finding_returning_patients_laterals_and_other_regions() -> None:
    ordered = scanner.enriched_orders("west", 240, seed=0)
    cases = [order.case for order in ordered]
    assert len(ordered) == 240
    assert [case.day for case in cases] == sorted(case.day for case in cases)
    assert len({case.key for case in cases}) == 240
    assert min(sum(finding in case.findings for case in cases) for finding in FINDINGS) >= 10
    studies = Counter(case.patient for case in cases)
    assert sum(count > 1 for count in studies.values()) >= 5
    assert sum(not case.findings for case in cases) >= 50
    views = Counter(technique.view for order in ordered for technique in order.techniques)
    assert views["LL"] >= 20
    assert 4 <= views["KNEE"] + views["HAND"] + views["ABDOMEN"] <= 24
    assert scanner.enriched_orders("west", 240, seed=0) == ordered


@pytest.mark.parametrize("count", [1, 2, 13, 19, 60])
def test_an_enriched_archive_can_be_small(count: int) -> None:
    for seed in range(5):
        assert len(scanner.enriched_orders("west", count, seed=seed)) == count


def test_site_examinations_follow_their_orders_in_one_process_or_two() -> None:
    one = scanner.site_examinations("west", 10, seed=3, size=(32, 32))
    two = scanner.site_examinations("west", 10, seed=3, size=(32, 32), workers=2)
    contents = [[scan.content for study in day for scan in study.instances] for day in (one, two)]
    assert contents[0] == contents[1]
    assert [study.case for study in one] == [order.case for order in scanner.natural_orders("west", 10, seed=3)]
    assert len({study.study_instance_uid for study in one}) == 10


def test_a_patient_keeps_the_birth_date_and_ages() -> None:
    cases = [case for case in population.natural_cases("north", 400, seed=3) if case.number == 2 or case.visit > 11]
    patient = [case for case in cases if case.number == cases[-1].number]
    headers = [
        pydicom.dcmread(io.BytesIO(scanner.examine_case(case, size=(16, 16)).instances[0].content))
        for case in (patient[0], patient[-1])
    ]
    assert headers[0].PatientBirthDate == headers[1].PatientBirthDate
    assert headers[0].StudyDate <= headers[1].StudyDate


def write_picture(path: Path, mode: str) -> None:
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    if mode == "I;16":
        Image.fromarray((ramp * 65535).astype(np.uint16)).save(path)
    else:
        Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode).save(path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_picture_of_any_mode_becomes_a_film(mode: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "film.png", mode)
    [study], skipped = film_folder.read_film_folder(tmp_path)
    image = seen(study.instances[0].content, tmp_path / "store")
    assert skipped == []
    assert image[-1, -1] - image[0, 0] > 0.9
    assert reasons(study) == [None]


def names(files: Sequence[film_folder.SkippedFile]) -> list[str]:
    return [left.path.name for left in files]


def test_a_mixed_folder_gives_films_and_lists_the_skipped_files(tmp_path: Path) -> None:
    write_picture(tmp_path / "00000007_001.png", "L")
    write_picture(tmp_path / "00000007_002.png", "L")
    (tmp_path / "notes.txt").write_text("no film")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "film.dcm").write_bytes(taken(scanner.Technique()))
    studies, skipped = film_folder.read_film_folder(tmp_path)
    assert names(skipped) == ["broken.png", "notes.txt"]
    headers = [header_of(study.instances[0].content) for study in studies]
    assert [header.patient_id for header in headers] == ["00000007", "00000007", "PHANTOM-00003"]
    assert len(film_folder.read_film_folder(tmp_path, limit=1)[0]) == 1


def test_a_file_without_meta_information_receives_it() -> None:
    path = peers.shared("dicom/CR-MONO1-10-chest_nometa.dcm")
    studies, _ = film_folder.read_film_folder(path.parent)
    contents = [scan.content for study in studies for scan in study.instances]
    assert all(content[128:132] == b"DICM" for content in contents)


def test_a_folder_without_films_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(PermanentError, match="no film among the 1 files"):
        film_folder.read_film_folder(tmp_path)
    with pytest.raises(PermanentError, match="is no folder"):
        film_folder.read_film_folder(tmp_path / "nothing")
