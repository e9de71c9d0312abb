"""Images with headers as hospitals send them: the elements that an SR copies are missing, too long or invalid."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from tests.builders.dicom_files import dx


def cr(**elements: Any) -> Dataset:
    """A computed radiograph without geometry and orientation."""
    film = dx(SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR", **elements)
    for keyword in ("PatientOrientation", "ImagerPixelSpacing", "PresentationIntentType"):
        delattr(film, keyword)
    return film


def bare() -> Dataset:
    """A computed radiograph without any element that may be absent."""
    film = cr()
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        delattr(film, keyword)
    return film


HEADER_VARIANTS: dict[str, Dataset] = {
    "complete DX": dx(),
    "CR without geometry": cr(),
    "nothing that may be absent": bare(),
    "empty orientation": dx(PatientOrientation=None),
    "pixel spacing only": cr(PixelSpacing=[0.2, 0.2]),
    "long description": dx(StudyDescription="chest " * 20, AccessionNumber="A" * 40),
    "cyrillic": dx(SpecificCharacterSet="ISO_IR 192", PatientName="Иванов^Иван"),
    "japanese": dx(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "korean": dx(SpecificCharacterSet=["", "ISO 2022 IR 149"], PatientName="Hong^Gildong=洪^吉洞=홍^길동"),
    "invalid values": dx(PatientAge="62", PatientSex="f", StudyDate="2020.01.02", StudyTime="10:20"),
    "half a clinical trial": dx(ClinicalTrialSponsorName="SPONSOR", ClinicalTrialSubjectID="S1"),
    "patient comments": dx(PatientComments="private", IssuerOfPatientID="HOSPITAL", PatientAge="060Y"),
}
