"""The header of a scored image, normalised as evidence of an SR: the elements that the SR copies are often missing or invalid."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileDataset
from pydicom.valuerep import validate_value

from adapters.dicom.image.image_file import inflate_file
from adapters.dicom.sr.dataset_template import UTF_8
from pipeline.errors import ReportImpossible

TYPE_2 = (  # PS3.3 C.7.1.1 and C.7.2.1: may be empty, must be present
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
VR_LIMITS = {"LO": 64, "SH": 16, "PN": 194, "CS": 16, "ST": 1024}  # characters, PS3.5 6.2; PN: three groups
CLINICAL_TRIAL = (  # PS3.3 C.7.1.3: all of these or none
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
)
PRIVATE_TO_THE_PATIENT = ("PatientComments", "AdditionalPatientHistory", "MedicalAlerts", "Allergies")
GEOMETRY = ("PatientOrientation", "ImagerPixelSpacing")
STRICT_VRS = {"AS", "CS", "DA", "TM"}
"""Value representations with a fixed format (PS3.5 6.2) that senders violate in practice."""


def evidence_of(content: bytes) -> FileDataset:
    """Return the normalised header of a stored file, without pixels, in UTF-8. ReportImpossible where it cannot be read."""
    try:
        dataset = dcmread(BytesIO(inflate_file(content)), stop_before_pixels=True)
        dataset.decode()
    except Exception as error:  # pydicom raises exceptions of any type on an invalid character set
        raise ReportImpossible(f"the image's header cannot be read ({type(error).__name__})", hint="see the sender") from error
    dataset.SpecificCharacterSet = UTF_8
    _drop_elements(dataset)
    _truncate_values(dataset)
    _delete_invalid_values(dataset)
    _fill_missing_elements(dataset)
    return dataset


def _drop_elements(dataset: Dataset) -> None:
    unwanted = list(PRIVATE_TO_THE_PATIENT)
    if any(not dataset.get(keyword) for keyword in CLINICAL_TRIAL):
        unwanted += [element.keyword for element in dataset if element.keyword.startswith("ClinicalTrial")]
    for keyword in unwanted:
        if keyword in dataset:
            del dataset[keyword]


def _fill_missing_elements(dataset: Dataset) -> None:
    for keyword in TYPE_2:
        if dataset.get(keyword) is None:
            setattr(dataset, keyword, "")
    if not _has_geometry(dataset):
        dataset.Modality = "OT"  # omits the geometry rows of the image library; an orientation must never be invented


def _has_geometry(dataset: Dataset) -> bool:
    return all(len(dataset.get(keyword) or ()) == 2 and all(map(str, dataset.get(keyword))) for keyword in GEOMETRY)


def _truncate_values(dataset: Dataset) -> None:
    """Truncate values beyond the limits of the standard: an SR with a copy would be invalid."""
    for element in dataset:
        limit = VR_LIMITS.get(dictionary_VR(element.tag) if element.keyword else "")
        if limit and element.VM <= 1 and len(str(element.value or "")) > limit:
            element.value = str(element.value)[:limit]


def _delete_invalid_values(dataset: Dataset) -> None:
    """Delete values such as an age of "62", a date with dots, a sex in lower case: a guess at their meaning may be wrong."""
    for element in list(dataset):
        if element.VR not in STRICT_VRS:
            continue
        for value in element.value if element.VM > 1 else [element.value]:
            try:
                validate_value(element.VR, str(value or ""), RAISE)
            except ValueError:
                del dataset[element.tag]
                break
