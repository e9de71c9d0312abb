"""Evidence of damaged headers: a report is always built, each element repaired or left out by itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from adapters.dicom.image import part10
from adapters.dicom.sr.evidence import REPAIRS, evidence_of
from pipeline.errors import ReportImpossible
from tests.builders.dicom_files import dx, encoded, file_of
from tests.builders.peers import shared
from tests.builders.report_of import report_on
from tests.builders.validators import errors_in, run

LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR")


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element of explicit VR little endian, whatever its value."""
    value += b" " * (len(value) % 2)
    length = struct.pack("<2xL", len(value)) if vr in LONG_VRS else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + length + value


def film(*extra: bytes, **values: bytes) -> bytes:
    """A chest radiograph in which these elements have these encoded values, whether their VR allows them or not."""
    dataset = dx()
    raw = {tag_for_keyword(keyword) or 0: (dictionary_VR(keyword).encode(), value) for keyword, value in values.items()}
    parts = {int(one.tag): encoded(_alone(dataset, int(one.tag))) for one in dataset}
    parts |= {tag: element(tag, vr, value) for tag, (vr, value) in raw.items()}
    parts |= {int.from_bytes(one[:2], "little") << 16 | int.from_bytes(one[2:4], "little"): one for one in extra}
    body = b"".join(parts[tag] for tag in sorted(parts))
    uids = {"sop_class_uid": dataset.SOPClassUID, "sop_instance_uid": dataset.SOPInstanceUID}
    return part10.file_bytes(body, transfer_syntax_uid=ExplicitVRLittleEndian, **uids)


def _alone(dataset: Dataset, tag: int) -> Dataset:
    one = Dataset()
    one.add(dataset[tag])
    return one


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientName", b"Doe^Jane\\Roe", "Doe^Jane"),
        ("PatientName", b"A" * 80 + b"^B", "A" * 64),
        ("PatientName", b"A^B^C^D^E^F", "A^B^C^D^E"),
        ("PatientName", b"A=B=C=D", "A=B=C"),
        ("PatientName", b"Doe\x00\x07^Jane\r\n", "Doe^Jane"),
        ("PatientName", b"M\xfcller", "Müller"),
        ("PatientName", "Müller".encode(), "Müller"),
        ("PatientName", b"\\", ""),
        ("PatientID", b"1\\2", ""),
        ("PatientID", b"1" * 65, ""),
        ("PatientID", b" 7 ", "7"),
        ("PatientBirthDate", b"1950.01.01", ""),
        ("PatientBirthDate", b"19509901", ""),
        ("PatientBirthDate", b"19500101-19600101", ""),
        ("PatientSex", b"f", ""),
        ("PatientSex", b"M\\F", ""),
        ("StudyTime", b"10:15", ""),
        ("StudyTime", b"256199", ""),
        ("StudyTime", b"101500.12", "101500.12"),
        ("AccessionNumber", b"A" * 17, ""),
        ("AccessionNumber", b"A" * 16, "A" * 16),
        ("StudyID", b"1\\2", ""),
        ("StudyDescription", b"XR\\CHEST", "XR/CHEST"),
        ("StudyDescription", b"x" * 100, "x" * 64),
        ("StudyDescription", b"\x1b$B\xff\x80", "$Bÿ"),
    ],
)
def test_an_element_that_breaks_its_vr_is_cut_or_left_out(keyword: str, value: bytes, expected: str) -> None:
    content = film(**{keyword: value})
    assert str(evidence_of(content).get(keyword)) == expected
    assert str(report_on(content).get(keyword)) == expected


@pytest.mark.parametrize(
    "value", [b"0,143\\0,143", b"0,143", b"0.143", b"0.1\\0.1\\0.1", b"0\\0", b"-1\\1", b"nan\\nan", b"a\\b", b"\\", b""]
)
def test_an_invalid_pixel_spacing_counts_as_absent(value: bytes) -> None:
    content = film(ImagerPixelSpacing=value)
    evidence = evidence_of(content)
    assert ("ImagerPixelSpacing" in evidence, evidence.Modality) == (False, "OT")
    assert report_on(content).SOPClassUID


@pytest.mark.parametrize("declared", [b"", b"ISO_IR 999", b"UTF-8", b"ISO 2022 IR 87\\\\\\", b"\xff\xff", b"ISO_IR 192"])
def test_a_wrong_character_set_prevents_no_report(declared: bytes) -> None:
    content = film(SpecificCharacterSet=declared, PatientName="山田^太郎".encode(), StudyDescription=b"\x80\x81\xff")
    assert report_on(content).SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 144", "Щербаков^Жюль"),
        ("ISO_IR 127", "قباني^لنزار"),
        ("ISO_IR 100", "Müller^Änne"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_a_name_in_any_declared_character_set_is_the_reports(characters: object, name: str) -> None:
    content = file_of(dx(SpecificCharacterSet=characters, PatientName=name))
    assert str(evidence_of(content).PatientName) == name
    assert str(report_on(content).PatientName) == name


def test_elements_that_an_sr_does_not_copy_are_not_read() -> None:
    content = film(
        element(0x00290010, b"LO", b"ACME"),
        element(0x00291001, b"ZZ", b"??"),
        element(0x00081110, b"SQ", b"\xff\xff\xff\xff"),
        PatientWeight=b"heavy",
        AdmittingDiagnosesDescription=b"\xff\xfe",
        OtherPatientIDs=b"\\" * 99,
        PatientComments=b"private",
    )
    report = report_on(content)
    assert not {"PatientWeight", "OtherPatientIDs", "PatientComments"} & {one.keyword for one in report}


def test_a_file_without_readable_uids_is_told() -> None:
    with pytest.raises(ReportImpossible, match="SeriesInstanceUID is not a UID"):
        evidence_of(film(SeriesInstanceUID=b"none"))
    with pytest.raises(ReportImpossible):
        evidence_of(b"no DICOM")


VALUES = st.one_of(
    st.binary(max_size=90),
    st.text(max_size=90).map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from(
        [b"", b"\\", b"\\\\", b"^=^", b"0,1\\0,1", b"99999999", b"20200230", b"M", b" ", b"\0\0", b"A" * 200, b"\x1b(B"]
    ),
)
DAMAGES = st.dictionaries(st.sampled_from([*sorted(REPAIRS), "SpecificCharacterSet"]), VALUES, min_size=1, max_size=6)


@given(DAMAGES)
@settings(deadline=None, max_examples=30)
def test_a_report_is_built_on_any_damaged_header(damages: dict[str, bytes]) -> None:
    assert report_on(film(**damages)).SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.validators
@given(DAMAGES)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_report_on_any_damaged_header_is_valid(tmp_path: Path, damages: dict[str, bytes]) -> None:
    validate(film(**damages), tmp_path)


def validate(content: bytes, folder: Path) -> None:
    written = folder / "sr.dcm"
    report_on(content).save_as(written)
    assert errors_in(run("dciodvfy", "dicom3tools", "-new", written)) == []
    output = run("dsrdump", "dcmtk", written)
    assert errors_in(output) == []
    assert "AI chest findings" in output


@pytest.mark.validators
@pytest.mark.parametrize(
    "name",
    [
        "vr_unknown",
        "spacing_comma",
        "spacing_one_value",
        "pn_backslash",
        "b5b_pnlong",
        "b5c_pn6",
        "b5d_pidbackslash",
        "view_ap_supine",
    ],
)
def test_reports_on_films_that_failed_are_valid(name: str, tmp_path: Path) -> None:
    validate(shared(f"faults/{name}.dcm").read_bytes(), tmp_path)
