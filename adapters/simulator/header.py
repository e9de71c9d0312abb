"""DX and CR objects of films, with a complete header or with the poor headers found in archives.

PS3.3 A.26 (Digital X-Ray Image IOD, For Presentation) and A.2 (Computed Radiography Image IOD). The findings of a
film are never written into its object.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from adapters.simulator.anatomy import Body
from adapters.simulator.phantom import SimulatedFilm
from adapters.simulator.population import FIRST_DAY, visit_date
from adapters.simulator.raster import Field
from adapters.simulator.sites import SiteEquipment

NAMESPACE = uuid.UUID("5e0b2a4e-6f0f-4a53-9a9c-3d1f6f7b7a10")
"""Namespace of the simulated hospital's UIDs."""

HeaderKind = Literal["complete", "sparse", "poor"]
Display = Literal["window", "lut", "none"]


@dataclass(frozen=True, slots=True)
class Region:
    """Body region and acquisition parameters of one kind of film."""

    code: tuple[str, str, str]  # CID 4031
    position: str  # View Position, PS3.3 C.8.11.5
    kilovolts: str
    distance: str  # source to detector, mm
    laterality: str = "U"
    orientation: tuple[str, str] = ("L", "F")

    @property
    def name(self) -> str:
        """Name of the region."""
        return self.code[2]


CHEST = ("816094009", "SCT", "Chest")
REGIONS: Mapping[str, Region] = {
    "PA": Region(CHEST, "PA", "120", "1800"),
    "AP": Region(CHEST, "AP", "95", "1100"),
    "LL": Region(CHEST, "LL", "125", "1800", orientation=("P", "F")),
    "KNEE": Region(("72696002", "SCT", "Knee"), "AP", "63", "1100", laterality="R"),
    "HAND": Region(("85562004", "SCT", "Hand"), "PA", "52", "1050", laterality="R"),
    "ABDOMEN": Region(("818981001", "SCT", "Abdomen"), "AP", "80", "1100"),
}
"""Kinds of film by `Technique.view`."""
VIEW_CODES = {  # CID 4010
    "PA": ("272479007", "SCT", "postero-anterior"),
    "AP": ("399348003", "SCT", "antero-posterior"),
    "LL": ("399173006", "SCT", "left lateral"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """Encoding of one film as a DICOM object."""

    modality: Literal["DX", "CR"] = "DX"
    view: str = "PA"  # of REGIONS
    bits: int = 12
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    display: Display = "window"
    transfer_syntax: UID = ExplicitVRLittleEndian
    header: HeaderKind = "complete"


@dataclass(frozen=True, slots=True)
class Patient:
    """A simulated patient."""

    number: int
    body: Body
    site: str = ""

    @property
    def id(self) -> str:
        """PatientID."""
        return f"PHANTOM-{self.site.upper()}-{self.number:07d}" if self.site else f"PHANTOM-{self.number:05d}"

    @property
    def name(self) -> str:
        """PatientName."""
        return f"PHANTOM^{self.site.upper()} {self.number:07d}" if self.site else f"PHANTOM^{self.number:05d}"


@dataclass(frozen=True, slots=True)
class InstanceContext:
    """Context of an object: patient, number of visit and film, equipment. `uid_root` is the prefix of its UIDs."""

    uid_root: tuple[object, ...]
    patient: Patient
    visit: int
    index: int
    equipment: SiteEquipment

    @property
    def day(self) -> date:
        return visit_date(self.patient.number, self.visit)

    @property
    def time(self) -> str:
        minutes = (7 * self.patient.number + 13 * self.visit + self.index) % 60
        return f"{8 + self.patient.number % 9:02d}{minutes:02d}00"

    @property
    def study_instance_uid(self) -> str:
        return uid(*self.uid_root)

    def uid(self, *parts: object) -> str:
        return uid(*self.uid_root, self.index, *parts)


def uid(*parts: object) -> str:
    """Return the UID of these parts: UUID-derived (PS3.5 B.2), deterministic."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def encode_file(image: Dataset, transfer_syntax: UID) -> bytes:
    """Return the DICOM file of an object in the given transfer syntax."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    if transfer_syntax.is_encapsulated:
        image.compress(transfer_syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = transfer_syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


def dataset_from_film(film: SimulatedFilm, technique: Technique, context: InstanceContext) -> Dataset:
    """Return the object of a film."""
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation if technique.modality == "DX" else ComputedRadiographyImageStorage
    image.SOPInstanceUID = context.uid("image")
    image.StudyInstanceUID = context.study_instance_uid
    image.SeriesInstanceUID = context.uid("series")
    image.Modality = technique.modality
    image.PatientID, image.PatientName = context.patient.id, context.patient.name
    image.InstanceNumber = 1
    image.SeriesNumber = context.index + 1
    set_pixels(image, film.pixels, technique)
    if technique.header == "poor":
        _set_poor_header(image, context)
    else:
        _set_complete_header(image, technique, context)
        image.ImagerPixelSpacing = [f"{film.height * 10 / image.Rows:.4f}"] * 2
    if technique.header == "sparse":
        for keyword in context.equipment.empty_attributes:
            setattr(image, keyword, None)
    return image


def set_pixels(image: Dataset, film: Field, technique: Technique) -> None:
    """Write a film, float32 [H, W] in 0..1 with bone bright, into an object: stored bits, polarity, VOI."""
    top = (1 << technique.bits) - 1
    low, high = round(0.06 * top), round(0.94 * top)
    stored = np.rint(low + film * (high - low))
    if technique.photometric == "MONOCHROME1":
        stored = top - stored
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = technique.photometric
    image.Rows, image.Columns = film.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, technique.bits, technique.bits - 1, 0
    image.PixelData = stored.astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    if technique.display == "window":
        image.WindowCenter, image.WindowWidth = [f"{(top + 1) / 2:.1f}"], [f"{high - low:.1f}"]
    elif technique.display == "lut":
        image.VOILUTSequence = [_build_sigmoid_lut(technique.bits)]


def _build_sigmoid_lut(bits: int) -> Dataset:
    """Return a VOI LUT (PS3.3 C.11.2) with a gentle toe and shoulder, as film has; 16 bit out."""
    ramp = np.linspace(-1, 1, 1 << bits)  # a shorter table would clip the values beyond its end
    curve = np.tanh(1.4 * ramp) / np.tanh(1.4)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [ramp.size % 65536, 0, 16])
    table.add_new("LUTData", "OW", np.rint((curve + 1) / 2 * 65535).astype("<u2").tobytes())
    table.LUTExplanation = "film-like"
    return table


def _set_poor_header(image: Dataset, context: InstanceContext) -> None:
    """Set the header of an old cassette reader: no view, body part, window or character set; only the study is described."""
    image.StudyDate = context.day.strftime("%Y%m%d")
    image.StudyDescription = "PHANTOM CHEST"
    image.Manufacturer = ""
    image.PatientOrientation = ""


def _set_complete_header(image: Dataset, technique: Technique, context: InstanceContext) -> None:
    _set_patient_and_study(image, technique, context)
    _set_equipment(image, technique, context.equipment)
    _set_acquisition(image, technique, context)
    if technique.modality == "DX":
        set_dx_modules(image, technique)


def _set_patient_and_study(image: Dataset, technique: Technique, context: InstanceContext) -> None:
    body, day, region = context.patient.body, context.day.strftime("%Y%m%d"), REGIONS[technique.view].name
    birth_year = FIRST_DAY.year - body.age
    image.SpecificCharacterSet = "ISO_IR 192"
    image.IssuerOfPatientID = "PHANTOM HOSPITAL"
    image.PatientBirthDate = f"{birth_year}0101"
    image.PatientSex = body.sex
    image.PatientAge = f"{context.day.year - birth_year:03d}Y"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = context.time
    image.StudyID = f"{context.visit + 1}"
    image.AccessionNumber = f"PH{context.patient.number:07d}{context.visit:03d}"
    image.ReferringPhysicianName = ""
    image.StudyDescription = f"PHANTOM {region.upper()}"
    image.SeriesDescription = f"PHANTOM {region} {technique.view}"
    image.AcquisitionNumber = context.index + 1


def _set_equipment(image: Dataset, technique: Technique, equipment: SiteEquipment) -> None:
    image.Manufacturer = equipment.manufacturer
    image.ManufacturerModelName = equipment.dx_model if technique.modality == "DX" else equipment.cr_model
    image.DeviceSerialNumber = "0001"
    image.SoftwareVersions = equipment.software
    image.InstitutionName = equipment.institution
    image.StationName = f"{technique.modality}{'2' if technique.view == 'AP' else '1'}"


def _set_acquisition(image: Dataset, technique: Technique, context: InstanceContext) -> None:
    region = REGIONS[technique.view]
    image.BodyPartExamined = region.name.upper()
    image.ViewPosition = region.position
    image.ImageType = ["ORIGINAL", "PRIMARY", ""]
    image.KVP = region.kilovolts
    image.DistanceSourceToDetector = region.distance
    image.PatientOrientation = list(region.orientation)
    if region.laterality != "U" and technique.modality == "CR":
        image.Laterality = region.laterality
    if technique.modality == "CR" and technique.view in ("PA", "AP", "LL"):
        image.PresentationLUTShape = "INVERSE" if technique.photometric == "MONOCHROME1" else "IDENTITY"


def set_dx_modules(image: Dataset, technique: Technique) -> None:
    """Fill DX Series, Anatomy Imaged, Image, Detector, Positioning, Acquisition Context (PS3.3 C.8.11, C.7.6.14)."""
    region = REGIONS[technique.view]
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageLaterality = region.laterality
    image.AnatomicRegionSequence = [_build_code_item(*region.code)]
    image.ViewCodeSequence = [_build_code_item(*VIEW_CODES[region.position])]
    image.ViewCodeSequence[0].ViewModifierCodeSequence = []
    image.PixelIntensityRelationship = "LOG"
    image.PixelIntensityRelationshipSign = 1 if technique.photometric == "MONOCHROME1" else -1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "US"
    image.PresentationLUTShape = "INVERSE" if technique.photometric == "MONOCHROME1" else "IDENTITY"
    image.LossyImageCompression = "00"
    image.BurnedInAnnotation = "NO"  # markers do not identify the patient
    image.DetectorType = "SCINTILLATOR"
    image.PositionerType = "NONE"
    image.AcquisitionContextSequence = []


def _build_code_item(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
