"""A Secondary Capture image of one report: RGB pixels under the identity of the patient and study of a film."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed_version

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from adapters.dicom.image import part10
from adapters.dicom.sr import codes
from adapters.dicom.sr.dataset_template import UTF_8, encode_dataset
from adapters.dicom.sr.document import ReportSettings, series_description
from pipeline.domain import VisibleObject
from pipeline.ports.services import ReportContent
from pipeline.rules import OWN_MODEL_NAME

CAPTURE_SOP_CLASS_UID = str(SecondaryCaptureImageStorage)
SOURCE_IMAGE = codes.concept("121322", "DCM", "Source image for image processing operation")  # CID 7202


def build_capture(
    content: ReportContent,
    visible: VisibleObject,
    films: Sequence[Dataset],
    pixels: npt.NDArray[np.uint8],
    *,
    shows: str,
    series_number: int,
    settings: ReportSettings,
) -> bytes:
    """Return the DICOM file. `films`: headers of the images shown, the first gives patient and study; `pixels`: [H, W, 3]."""
    capture = SCImage.from_ref_dataset(
        ref_dataset=films[0],
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=visible.series_instance_uid,
        series_number=series_number,
        sop_instance_uid=visible.sop_instance_uid,
        instance_number=content.report.revision,
        manufacturer=settings.manufacturer,
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=series_description(content.version, shows),
        specific_character_set=UTF_8,
    )
    _complete_capture(capture, content, films, settings)
    return part10.file_bytes(
        encode_dataset(capture),
        sop_class_uid=CAPTURE_SOP_CLASS_UID,
        sop_instance_uid=visible.sop_instance_uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _complete_capture(capture: Dataset, content: ReportContent, films: Sequence[Dataset], settings: ReportSettings) -> None:
    """Set what highdicom leaves out or takes for granted: equipment, source images, burned-in words, no orientation."""
    now = datetime.now(UTC).astimezone()
    capture.Modality, capture.ConversionType = settings.card_modality, "WSD"
    capture.PatientOrientation = ""  # a page of words has none
    capture.BodyPartExamined = "CHEST"
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = f"{content.statement.title}, {content.statement.version_line}"
    capture.SourceImageSequence = Items([_build_source(film) for film in films])
    capture.ManufacturerModelName = OWN_MODEL_NAME
    capture.SoftwareVersions = [installed_version("radclipd"), f"model {content.version.number}"]
    capture.DeviceUID = content.version.device_uid
    if settings.institution_name:
        capture.InstitutionName = settings.institution_name
    capture.SeriesDate = capture.ContentDate = now.strftime("%Y%m%d")
    capture.SeriesTime = capture.ContentTime = now.strftime("%H%M%S")
    capture.TimezoneOffsetFromUTC = now.strftime("%z")
    if described := films[0].get("StudyDescription"):
        capture.StudyDescription = described


def _build_source(film: Dataset) -> Dataset:
    """Return an item of the Source Image Sequence (PS3.3 C.7.6.1.1.4)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = Items([SOURCE_IMAGE])
    return item
