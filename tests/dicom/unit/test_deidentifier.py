"""De-identification of radiographs by an allow-list, and what an independent library would have changed."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from dicognito.anonymizer import Anonymizer
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from adapters.dicom.deidentification import attributes
from adapters.dicom.deidentification.deidentifier import BurnedInPolicy, MaskRegion, RadiographDeidentifier
from adapters.dicom.image import part10, stored_values
from pipeline.export import NotExportable
from pipeline.pseudonyms import date_shift
from tests.builders.dicom_files import dx, encoded, file_of

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
SECRETS = (
    "HOUSEMAN",
    "GREGORIA",
    "MRN-4711",
    "ACC-0815",
    "19451224",
    "DRWHO",
    "ST-ELSEWHERE",
    "SN-99871",
    "10:11:12",
    "SECRETNOTE",
)
"""Texts that stand in the identified film."""


def identified_film(**elements: Any) -> Dataset:
    """A film with identity in standard elements, sequences, private elements, overlays and kept texts."""
    film = dx(
        StudyInstanceUID="1.2.3.4711",
        SeriesInstanceUID="1.2.3.4712",
        PatientName="HOUSEMAN^GREGORIA",
        PatientID="MRN-4711",
        PatientBirthDate="19451224",
        PatientSex="F",
        PatientAge="093Y",
        AccessionNumber="ACC-0815",
        ReferringPhysicianName="DRWHO^X",
        InstitutionName="ST-ELSEWHERE",
        StationName="HOUSEMAN_ROOM",
        DeviceSerialNumber="SN-99871",
        StudyDate="20240229",
        SeriesDate="20240301",
        ContentDate="20240301",
        StudyTime="101112",
        StudyDescription="SECRETNOTE for HOUSEMAN",
        PatientComments="SECRETNOTE",
        ManufacturerModelName="Scanner of HOUSEMAN",
        BodyPartExamined="CHEST",
        KVP="120",
        PixelSpacing=[0.2, 0.2],
    )
    physician = Dataset()
    physician.PersonIdentificationCodeSequence, physician.InstitutionName = Sequence([]), "ST-ELSEWHERE"
    film.ReferringPhysicianIdentificationSequence = Sequence([physician])
    block = film.private_block(0x0011, "VENDOR", create=True)
    block.add_new(0x01, "LO", "HOUSEMAN^GREGORIA")
    film.add_new(0x60000010, "US", 8)
    film.add_new(0x60000022, "LO", "HOUSEMAN overlay")
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    return film


def deidentify(film: Dataset | bytes, key: bytes = KEY, **policy: Any) -> Dataset:
    content = film if isinstance(film, bytes) else file_of(film)
    return dcmread(BytesIO(RadiographDeidentifier(BurnedInPolicy(**policy)).deidentify(content, key)))


def test_no_byte_of_the_identity_is_left() -> None:
    content = RadiographDeidentifier(BurnedInPolicy()).deidentify(file_of(identified_film()), KEY)
    assert [secret for secret in SECRETS if secret.encode() in content.upper()] == []
    made = dcmread(BytesIO(content))
    allowed = {*attributes.KEPT, *attributes.LOOKUP_TABLES, *attributes.UIDS, *attributes.DATES, *attributes.EMPTY}
    written = {"SpecificCharacterSet", "PatientName", "PatientID", "PatientAge", "PatientIdentityRemoved", "DeidentificationMethod"}
    written |= {"DeidentificationMethodCodeSequence", "LongitudinalTemporalInformationModified", "BurnedInAnnotation"}
    written |= {"BitsAllocated", "HighBit", "PixelData"}
    assert {element.keyword for element in made} <= allowed | written


def test_an_independent_library_would_change_nothing_that_stays() -> None:
    """What dicognito changes or removes is changed or missing here."""
    source, theirs = identified_film(), identified_film()
    for film in (source, theirs):
        film.file_meta = dcmread(BytesIO(file_of(film))).file_meta
    Anonymizer().anonymize(theirs)
    ours = deidentify(source)
    touched = {e.keyword for e in source if e.keyword and (e.keyword not in theirs or theirs[e.keyword].value != e.value)}
    assert {"PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "InstitutionName"} <= touched
    assert {keyword for keyword in touched if keyword in ours and source[keyword].value == ours[keyword].value} == set()


def test_the_pixels_and_what_a_rendering_needs_stay() -> None:
    film = identified_film(WindowCenter="2048", WindowWidth="4096", RescaleSlope="1", RescaleIntercept="0")
    made = deidentify(film)
    before, after = stored_values.read(file_of(film))[1], made.pixel_array
    assert np.array_equal(before, after)
    assert (made.WindowCenter, made.WindowWidth, made.KVP, made.ViewPosition, made.PatientSex) == (2048, 4096, 120, "PA", "F")
    assert "ManufacturerModelName" not in made  # it named the patient
    assert made.Manufacturer == "PHANTOM"


def test_a_compressed_film_is_written_native() -> None:
    film = identified_film()
    native = deidentify(film)
    film.file_meta = dcmread(BytesIO(file_of(film))).file_meta
    film.compress(RLELossless)
    content = part10.file_bytes(
        encoded(film, str(RLELossless)),
        sop_class_uid=film.SOPClassUID,
        sop_instance_uid=film.SOPInstanceUID,
        transfer_syntax_uid=str(RLELossless),
    )
    assert np.array_equal(deidentify(content).pixel_array, native.pixel_array)


def test_pseudonyms_are_the_patients_own_and_intervals_stay() -> None:
    first, later = deidentify(identified_film()), deidentify(identified_film(StudyDate="20240310"))
    other = deidentify(identified_film(), OTHER_KEY)
    assert first.PatientID == later.PatientID == str(first.PatientName) != other.PatientID
    assert first.StudyInstanceUID == later.StudyInstanceUID != other.StudyInstanceUID
    assert (np.datetime64(_iso(later.StudyDate)) - np.datetime64(_iso(first.StudyDate))).astype(int) == 10
    assert np.datetime64("2024-02-29") - np.datetime64(_iso(first.StudyDate)) == np.timedelta64(date_shift(KEY).days)
    assert (first.PatientAge, first.PatientIdentityRemoved) == ("090Y", "YES")
    codes = [code.CodeValue for code in first.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108"]


def _iso(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


@pytest.mark.parametrize(
    ("elements", "refused"),
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"BurnedInAnnotation": "NO"}, False),
        ({}, False),
        ({"ConversionType": "WSD"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, True),
        ({"ImageType": ["DERIVED", "SECONDARY"], "BurnedInAnnotation": "NO"}, False),
    ],
)
def test_a_film_with_burned_in_text_is_refused_unless_it_is_passed(elements: dict[str, Any], refused: bool) -> None:
    film = identified_film(**elements)
    if refused:
        with pytest.raises(NotExportable, match="burned"):
            deidentify(film)
    else:
        deidentify(film)
    assert deidentify(film, action="pass").Rows == 40


def test_a_masked_film_has_no_pixel_of_its_regions() -> None:
    film = identified_film(BurnedInAnnotation="YES")
    before = stored_values.read(file_of(film))[1]
    made = deidentify(film, action="mask", regions=[MaskRegion(0, 0, 1, 0.1), MaskRegion(0.5, 0.9, 1, 1)])
    after = made.pixel_array
    assert (after[:4] == before.min()).all()
    assert (after[36:, 16:] == before.min()).all()
    assert np.array_equal(after[4:36], before[4:36])
    assert (made.BurnedInAnnotation, made.DeidentificationMethodCodeSequence[-1].CodeValue) == ("NO", "113101")


def test_other_objects_and_damaged_files_are_refused_without_quoting_them() -> None:
    capture = dx(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    for content in (file_of(capture), b"\0" * 200, file_of(identified_film())[:700]):
        with pytest.raises(NotExportable) as refused:
            deidentify(content)
        assert not any(secret in str(refused.value) for secret in SECRETS)
        assert refused.value.__cause__ is None or "HOUSEMAN" not in str(refused.value.__cause__)
