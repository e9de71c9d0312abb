"""Films to DX and CR objects, complete as a good modality writes them or as poor as archives hold them.

PS3.3 A.26 (Digital X-Ray Image IOD, For Presentation) and A.2 (Computed Radiography Image IOD). What a film shows is never
written into its object.
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
from adapters.simulator.phantom import Film
from adapters.simulator.population import FIRST_DAY, day_of
from adapters.simulator.raster import Field
from adapters.simulator.sites import Equipment

NAMESPACE = uuid.UUID("5e0b2a4e-6f0f-4a53-9a9c-3d1f6f7b7a10")
"""Root of the virtual hospital's UIDs."""

HeaderKind = Literal["complete", "sparse", "poor"]
Display = Literal["window", "lut", "none"]


@dataclass(frozen=True, slots=True)
class Region:
    """What is imaged in one kind of film, and how."""

    code: tuple[str, str, str]  # CID 4031
    position: str  # View Position, PS3.3 C.8.11.5
    kilovolts: str
    distance: str  # source to detector, mm
    laterality: str = "U"
    orientation: tuple[str, str] = ("L", "F")

    @property
    def name(self) -> str:
        """The region in a word."""
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
    """How one film is turned into an object."""

    modality: Literal["DX", "CR"] = "DX"
    view: str = "PA"  # of REGIONS
    bits: int = 12
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    display: Display = "window"
    transfer_syntax: UID = ExplicitVRLittleEndian
    header: HeaderKind = "complete"


@dataclass(frozen=True, slots=True)
class Patient:
    """A person who does not exist."""

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
class Place:
    """Where an object belongs: whose, the how manieth visit and film, made by what machine. `root` starts its UIDs."""

    root: tuple[object, ...]
    who: Patient
    visit: int
    index: int
    equipment: Equipment

    @property
    def day(self) -> date:
        return day_of(self.who.number, self.visit)

    @property
    def time(self) -> str:
        minutes = (7 * self.who.number + 13 * self.visit + self.index) % 60
        return f"{8 + self.who.number % 9:02d}{minutes:02d}00"

    @property
    def study_instance_uid(self) -> str:
        return uid(*self.root)

    def uid(self, *parts: object) -> str:
        return uid(*self.root, self.index, *parts)


def uid(*parts: object) -> str:
    """Return the UID that belongs to these parts: UUID-derived (PS3.5 B.2), the same each time."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def written(image: Dataset, transfer_syntax: UID) -> bytes:
    """Return the DICOM file of an object in this transfer syntax."""
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


def image_of(film: Film, technique: Technique, place: Place) -> Dataset:
    """Return the object of a film."""
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation if technique.modality == "DX" else ComputedRadiographyImageStorage
    image.SOPInstanceUID = place.uid("image")
    image.StudyInstanceUID = place.study_instance_uid
    image.SeriesInstanceUID = place.uid("series")
    image.Modality = technique.modality
    image.PatientID, image.PatientName = place.who.id, place.who.name
    image.InstanceNumber = 1
    image.SeriesNumber = place.index + 1
    pixels(image, film.pixels, technique)
    if technique.header == "poor":
        _poor_header(image, place)
    else:
        _complete_header(image, technique, place)
        image.ImagerPixelSpacing = [f"{film.height * 10 / image.Rows:.4f}"] * 2
    if technique.header == "sparse":
        for keyword in place.equipment.omits:
            setattr(image, keyword, None)
    return image


def pixels(image: Dataset, film: Field, technique: Technique) -> None:
    """Put a film, float32 [H, W] in 0..1 with bone bright, into an object: stored bits, polarity, VOI."""
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
        image.VOILUTSequence = [_sigmoid(technique.bits)]


def _sigmoid(bits: int) -> Dataset:
    """Return a VOI LUT (PS3.3 C.11.2) with a gentle toe and shoulder, as film has; 16 bit out."""
    ramp = np.linspace(-1, 1, 1 << bits)  # a shorter table would clip all that lies beyond its end
    curve = np.tanh(1.4 * ramp) / np.tanh(1.4)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [ramp.size % 65536, 0, 16])
    table.add_new("LUTData", "OW", np.rint((curve + 1) / 2 * 65535).astype("<u2").tobytes())
    table.LUTExplanation = "film-like"
    return table


def _poor_header(image: Dataset, place: Place) -> None:
    """What a worn-out cassette reader leaves: no view, no body part, no window, no character set; the study says what it was."""
    image.StudyDate = place.day.strftime("%Y%m%d")
    image.StudyDescription = "PHANTOM CHEST"
    image.Manufacturer = ""
    image.PatientOrientation = ""


def _complete_header(image: Dataset, technique: Technique, place: Place) -> None:
    _patient_and_study(image, technique, place)
    _equipment(image, technique, place.equipment)
    _acquisition(image, technique, place)
    if technique.modality == "DX":
        digital_x_ray(image, technique)


def _patient_and_study(image: Dataset, technique: Technique, place: Place) -> None:
    body, day, region = place.who.body, place.day.strftime("%Y%m%d"), REGIONS[technique.view].name
    born = FIRST_DAY.year - body.age
    image.SpecificCharacterSet = "ISO_IR 192"
    image.IssuerOfPatientID = "PHANTOM HOSPITAL"
    image.PatientBirthDate = f"{born}0101"
    image.PatientSex = body.sex
    image.PatientAge = f"{place.day.year - born:03d}Y"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = place.time
    image.StudyID = f"{place.visit + 1}"
    image.AccessionNumber = f"PH{place.who.number:07d}{place.visit:03d}"
    image.ReferringPhysicianName = ""
    image.StudyDescription = f"PHANTOM {region.upper()}"
    image.SeriesDescription = f"PHANTOM {region} {technique.view}"
    image.AcquisitionNumber = place.index + 1


def _equipment(image: Dataset, technique: Technique, equipment: Equipment) -> None:
    image.Manufacturer = equipment.manufacturer
    image.ManufacturerModelName = equipment.dx_model if technique.modality == "DX" else equipment.cr_model
    image.DeviceSerialNumber = "0001"
    image.SoftwareVersions = equipment.software
    image.InstitutionName = equipment.institution
    image.StationName = f"{technique.modality}{'2' if technique.view == 'AP' else '1'}"


def _acquisition(image: Dataset, technique: Technique, place: Place) -> None:
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


def digital_x_ray(image: Dataset, technique: Technique) -> None:
    """Fill DX Series, Anatomy Imaged, Image, Detector, Positioning, Acquisition Context (PS3.3 C.8.11, C.7.6.14)."""
    region = REGIONS[technique.view]
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageLaterality = region.laterality
    image.AnatomicRegionSequence = [_code(*region.code)]
    image.ViewCodeSequence = [_code(*VIEW_CODES[region.position])]
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


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
