"""DICOM studies of pictures: DX objects where a label table gives the view, CR objects otherwise.

The grey levels of the file are the stored values, and its bits the stored bits. Findings are never in the object.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from adapters.datasets.nih import FILE_STEM, NihRow
from adapters.datasets.pictures import Picture
from adapters.simulator.header import REGIONS, Technique, encode_file, set_dx_modules, uid
from adapters.simulator.scanner import Examination, ExaminationInstance
from adapters.simulator.truth import GroundTruth

FIRST_DAY = date(2010, 1, 4)
FOLLOW_UP_DAYS = 14
"""Days between follow-ups, from FIRST_DAY on: ChestX-ray14 publishes the order of a patient's films but no dates."""
NOMINAL_SIZE_MM = (430.0, 430.0)
"""mm, a large cassette: Imager Pixel Spacing is required (PS3.3 C.8.11.4) even where the table lacks the size."""
DERIVATION_DESCRIPTION = (
    "Bitmap as published in ChestX-ray14 (Wang et al. 2017): windowed, resampled and reduced to 8 bit by its publisher"
)


def study_from_row(row: NihRow, picture: Picture) -> Examination:
    """Return the study of one row: a DX object For Presentation (PS3.3 A.26); a CR object where the view is unknown."""
    image = _build_dataset(picture, ("chestx-ray14", row.patient, row.follow_up, row.file_name), visit=row.follow_up)
    image.PatientID, image.PatientName, image.IssuerOfPatientID = (
        f"NIH-{row.patient}"[:64],
        f"NIH^{row.patient}"[:64],
        "CHESTX-RAY14",
    )
    image.PatientSex = row.sex
    if row.age is not None:
        image.PatientAge = f"{int(row.age):03d}Y" if row.age >= 2 else f"{int(row.age * 12):03d}M"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "By the publisher of the collection"
    image.StudyDate = (FIRST_DAY + timedelta(days=FOLLOW_UP_DAYS * row.follow_up)).strftime("%Y%m%d")
    image.StudyTime = "120000"
    image.AccessionNumber = f"NIH{row.patient[-8:]}{row.follow_up:03d}"
    image.StudyID = str(row.follow_up + 1)
    image.StudyDescription = "CHEST, CHESTX-RAY14"
    _set_derivation(image, row, picture)
    if row.view:
        _set_dx_attributes(image, row)
    return _build_examination(
        image, picture, f"{image.Modality} chest {row.view}".strip() + f", {picture.bits} bit, {row.file_name}", row
    )


def study_from_picture(path: Path, picture: Picture) -> Examination:
    """Return the study of a picture without metadata: a CR chest image (PS3.3 A.2) without a view."""
    stem = FILE_STEM.match(path.stem)
    patient, visit = stem.groups() if stem else (path.stem, "0")
    image = _build_dataset(picture, ("picture", path.stem), visit=int(visit))
    image.StudyInstanceUID = uid("picture", patient, visit)
    image.PatientID, image.PatientName = patient[:64], f"PICTURE^{patient}"[:64]
    image.PatientSex = image.StudyDate = image.StudyID = image.AccessionNumber = ""
    image.StudyDescription = "CHEST, FROM A PICTURE FILE"
    return _build_examination(image, picture, f"CR from {path.name}", None)


def _build_dataset(picture: Picture, names: tuple[object, ...], *, visit: int) -> Dataset:
    """Return the attributes common to both kinds."""
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID, image.Modality = ComputedRadiographyImageStorage, "CR"
    image.SOPInstanceUID, image.SeriesInstanceUID = uid(*names, "image"), uid(*names, "series")
    image.StudyInstanceUID = uid(*names, "study")
    image.BodyPartExamined, image.ViewPosition = "CHEST", ""
    image.PatientBirthDate = image.StudyTime = image.ReferringPhysicianName = image.Manufacturer = image.PatientOrientation = ""
    image.SeriesNumber, image.InstanceNumber = 1, visit + 1
    _set_pixels(image, picture)
    return image


def _set_pixels(image: Dataset, picture: Picture) -> None:
    """Store the grey levels unchanged; the window is their whole range, so the display equals that of the file."""
    bits = picture.bits
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = picture.stored_values.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = bits, bits, bits - 1, 0
    content = picture.stored_values.astype("u1" if bits == 8 else "<u2").tobytes()
    image.PixelData = content + bytes(len(content) % 2)
    image["PixelData"].VR = "OB" if bits == 8 else "OW"
    image.WindowCenter, image.WindowWidth = str(1 << (bits - 1)), str(1 << bits)  # PS3.3 C.11.2.1.2.1: 0 is black, the top white


def _set_derivation(image: Dataset, row: NihRow, picture: Picture) -> None:
    """Set the derivation of the pixels and their size on the detector. The publisher scaled each edge by a different factor."""
    height, width = row.size_mm or NOMINAL_SIZE_MM
    rows, columns = picture.stored_values.shape
    image.ImageType = ["DERIVED", "PRIMARY", ""]
    image.DerivationDescription = DERIVATION_DESCRIPTION if row.size_mm else f"{DERIVATION_DESCRIPTION}; pixel spacing is nominal"
    image.ImagerPixelSpacing = [f"{height / rows:.6f}", f"{width / columns:.6f}"]


def _set_dx_attributes(image: Dataset, row: NihRow) -> None:
    image.SOPClassUID, image.Modality, image.ViewPosition = DigitalXRayImageStorageForPresentation, "DX", row.view
    image.PatientOrientation = list(REGIONS[row.view].orientation)
    image.SeriesDescription = f"CHEST {row.view}"
    set_dx_modules(image, Technique(view=row.view))


def _build_examination(image: Dataset, picture: Picture, title: str, row: NihRow | None) -> Examination:
    technique = Technique(modality="DX" if image.Modality == "DX" else "CR", view=image.ViewPosition, bits=picture.bits)
    shown = dict.fromkeys(sorted(row.findings), 1.0) if row else {}
    scan = ExaminationInstance(encode_file(image, ExplicitVRLittleEndian), technique, shown)
    return Examination(image.StudyInstanceUID, title, [scan], truth=GroundTruth(row.patient, row.findings) if row else None)
