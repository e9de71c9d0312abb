from __future__ import annotations

import contextlib
import struct
import zlib
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID

from adapters.dicom.image import part10
from pipeline.errors import DataSetMismatch, DataSetUnreadable, PermanentError
from tests.builders import peers
from tests.builders.dicom_files import EXPLICIT, dx, encoded, file_of, sr, stream_of

SYNTAXES = ["1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.2"]


def coded(meaning: str, value: str = "1") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_header_is_read_in_every_uncompressed_syntax(syntax: str) -> None:
    film = dx(ViewCodeSequence=coded("postero-anterior", "272479007"), AnatomicRegionSequence=coded("Chest"))
    film.ImageType = ["ORIGINAL", "PRIMARY", ""]
    header = part10.read_header(encoded(film, syntax), syntax)
    assert (header.sop_instance_uid, header.study_instance_uid) == (film.SOPInstanceUID, film.StudyInstanceUID)
    assert (header.modality, header.view_position, header.body_part_examined) == ("DX", "PA", "CHEST")
    assert (header.rows, header.columns, header.has_pixels) == (40, 32, True)
    assert (header.view_code, header.view_code_meaning, header.anatomic_region_meaning) == (
        "272479007",
        "postero-anterior",
        "Chest",
    )
    assert header.image_type == ("ORIGINAL", "PRIMARY")
    assert header.transfer_syntax_uid == syntax


def test_a_deflated_header_is_read() -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = compressor.compress(encoded(dx())) + compressor.flush()
    assert part10.read_header(body, "1.2.840.10008.1.2.1.99").rows == 40


def test_a_document_has_no_pixels() -> None:
    header = part10.read_header(encoded(sr(ManufacturerModelName="radclipd")), EXPLICIT)
    assert (header.has_pixels, header.manufacturer_model_name) == (False, "radclipd")


def test_names_and_birth_dates_are_not_read() -> None:
    header = part10.read_header(encoded(dx(PatientName="Doe^John", PatientBirthDate="19700101")), EXPLICIT)
    assert "Doe" not in str(header)
    assert "19700101" not in str(header)


def test_long_unusual_and_invalid_values_are_normalised() -> None:
    film = dx(StudyDescription="x" * 10_000, StudyDate="2020.01.02", InstanceNumber="7", AccessionNumber="A\0B")
    film.SeriesNumber = None
    header = part10.read_header(encoded(film), EXPLICIT)
    assert len(header.study_description) == 128
    assert (header.study_date, header.instance_number, header.series_number) == ("20200102", 7, None)
    assert "\0" not in header.accession_number


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "../etc", "1.2.x", "1" * 65])
def test_a_missing_or_invalid_uid_is_refused(keyword: str, value: str | None) -> None:
    film = dx()
    if value is None:
        delattr(film, keyword)
    else:
        setattr(film, keyword, value)
    with pytest.raises(DataSetMismatch, match=keyword):
        part10.read_header(encoded(film), EXPLICIT)


def test_a_data_set_always_gives_the_same_file() -> None:
    film = dx()
    assert file_of(film) == file_of(film)
    read = dcmread(stream_of(film))
    assert read.file_meta.MediaStorageSOPInstanceUID == film.SOPInstanceUID
    assert read.file_meta.ImplementationVersionName == "RADCLIPD"
    assert read.PixelData == film.PixelData


def test_splitting_a_file_returns_its_data_set_and_syntax() -> None:
    assert part10.split_file(file_of(dx(SOPInstanceUID="1.2.3"), EXPLICIT))[1] == EXPLICIT
    film = dx()
    assert part10.split_file(file_of(film)) == (encoded(film), EXPLICIT)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_syntax_of_a_file_without_meta_is_detected(syntax: str) -> None:
    body = encoded(dx(), syntax)
    assert part10.split_file(body) == (body, syntax)


def test_a_real_file_without_meta_is_read() -> None:
    body, syntax = part10.split_file(peers.shared("dicom/CR-MONO1-10-chest_nometa.dcm").read_bytes())
    header = part10.read_header(body, syntax)
    assert (header.modality, header.view_position, header.has_pixels) == ("CR", "PA", True)


def test_a_real_file_in_korean_is_read() -> None:
    body, syntax = part10.split_file(peers.shared("dicom/chrKoreanMulti.dcm").read_bytes())
    assert part10.read_header(body, syntax).has_pixels is False


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 132, b"not dicom at all, only words", b"\0" * 128 + b"DICM"])
def test_content_that_is_not_dicom_is_refused_with_a_hint(content: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        body, syntax = part10.split_file(content)
        part10.read_header(body, syntax)
    assert caught.value.hint


@settings(deadline=None)
@given(st.from_regex(r"[0-2](\.[1-9][0-9]{0,8}){1,6}", fullmatch=True), st.sampled_from(SYNTAXES))
def test_the_head_of_a_file_equals_that_of_pydicom(uid: str, syntax: str) -> None:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.1.1"), UID(uid)
    meta.TransferSyntaxUID = UID(syntax)
    meta.ImplementationClassUID = UID(part10.IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = part10.IMPLEMENTATION_VERSION_NAME
    written = DicomBytesIO()
    write_file_meta_info(written, meta, enforce_standard=True)
    assert part10.file_head("1.2.840.10008.5.1.4.1.1.1.1", uid, syntax) == part10.PREAMBLE + written.getvalue()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([*SYNTAXES, "1.2.840.10008.1.2.1.99"]))
def test_random_bytes_raise_only_the_documented_errors(content: bytes, syntax: str) -> None:
    with contextlib.suppress(DataSetUnreadable, DataSetMismatch):
        part10.read_header(content, syntax)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 600), st.binary(min_size=1, max_size=4))
def test_damaged_headers_raise_only_the_documented_errors(at: int, damage: bytes) -> None:
    body = bytearray(BODY)
    body[at : at + len(damage)] = damage
    with contextlib.suppress(DataSetUnreadable, DataSetMismatch):
        part10.read_header(bytes(body), EXPLICIT)


BODY = encoded(dx())


EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
UNDEFINED_SEQUENCE = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
LONG_HEADERS = {
    "elements": b"".join(struct.pack("<HH2sH", 9, number, b"LO", 0) for number in range(1, 0xFFFF)) * 8,
    "items of a sequence": UNDEFINED_SEQUENCE + EMPTY_ITEM * (1 << 20),
    "elements of an item": UNDEFINED_SEQUENCE + EMPTY_ITEM[:4] + b"\xff" * 4 + struct.pack("<HH2sH", 9, 1, b"LO", 0) * (1 << 20),
}


@pytest.mark.parametrize("filling", LONG_HEADERS.values(), ids=LONG_HEADERS)
def test_a_header_of_countless_small_elements_is_refused_after_a_bounded_number(filling: bytes) -> None:
    film = encoded(dx())
    at = film.index(b"\x10\0\x10\0PN")  # behind the UIDs of group 0008
    reads: list[int] = []

    class Counted(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(size or 0)
            return super().read(size)

    with pytest.raises(DataSetUnreadable, match="too much before its pixel data"):
        part10.read_header(Counted(film[:at] + filling + film[at:]), EXPLICIT)
    assert len(reads) <= part10.MAX_HEADER_READS


def test_a_long_code_sequence_is_passed_over() -> None:
    film = encoded(dx())
    at = film.index(b"\x10\0\x10\0PN")
    items = EMPTY_ITEM * 100_000
    regions = struct.pack("<HH2sHL", 0x0008, 0x2218, b"SQ", 0, len(items)) + items
    header = part10.read_header(film[:at] + regions + film[at:], EXPLICIT)
    assert (header.anatomic_region_meaning, header.has_pixels) == ("", True)


@pytest.mark.parametrize(
    ("stated", "born", "seen", "age"),
    [
        ("034Y", "20200101", "20260101", "034Y"),
        ("", "19900615", "20260614", "035Y"),
        ("", "19900615", "20260615", "036Y"),
        ("", "20250301", "20260115", "010M"),
        ("", "20270301", "20260115", ""),
        ("", "1990", "20260115", ""),
        ("", "", "20260115", ""),
        ("", "19900615", "", ""),
    ],
)
def test_the_age_is_the_stated_one_else_that_on_the_day_of_the_study(stated: str, born: str, seen: str, age: str) -> None:
    film = dx(PatientAge=stated, PatientBirthDate=born, StudyDate=seen)
    assert part10.read_header(encoded(film, EXPLICIT), EXPLICIT).patient_age == age
