"""The radiography room: films to DX and CR objects, complete as a good modality writes them or as poor as archives hold them.

PS3.3 A.26 (Digital X-Ray Image IOD, For Presentation) and A.2 (Computed Radiography Image IOD).
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from adapters.hospital import other_films, phantom
from adapters.hospital.anatomy import Body, person
from adapters.hospital.raster import Field

FIRST_DAY = date(2024, 1, 8)
"""The virtual hospital's first day."""
CHEST = ("816094009", "SCT", "Chest")  # CID 4031
KNEE = ("72696002", "SCT", "Knee")
VIEW_CODES = {  # CID 4010
    "PA": ("272479007", "SCT", "postero-anterior"),
    "AP": ("399348003", "SCT", "antero-posterior"),
    "LL": ("399173006", "SCT", "left lateral"),
}
ORIENTATIONS = {"PA": ["L", "F"], "AP": ["L", "F"], "LL": ["P", "F"]}
NAMESPACE = uuid.UUID("5e0b2a4e-6f0f-4a53-9a9c-3d1f6f7b7a10")
"""Root of the virtual hospital's UIDs."""

Header = Literal["complete", "poor"]
Display = Literal["window", "lut", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """How one film is turned into an object."""

    modality: Literal["DX", "CR"] = "DX"
    view: str = "PA"  # "PA", "AP", "LL", "KNEE"
    bits: int = 12
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    display: Display = "window"
    transfer_syntax: UID = ExplicitVRLittleEndian
    header: Header = "complete"


@dataclass(frozen=True, slots=True)
class Patient:
    """A person who does not exist."""

    number: int
    body: Body

    @property
    def id(self) -> str:
        """PatientID."""
        return f"PHANTOM-{self.number:05d}"


@dataclass(frozen=True, slots=True)
class Scan:
    """One DICOM file and what is worth saying of it."""

    content: bytes
    technique: Technique
    findings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Examination:
    """One study."""

    study_instance_uid: str
    title: str
    scans: Sequence[Scan]


def uid(*parts: object) -> str:
    """Return the UID that belongs to these parts: UUID-derived (PS3.5 B.2), the same each time."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '/'.join(map(str, parts))).int}"


def patient(number: int, seed: int) -> Patient:
    """Return the person of this number in the hospital of this seed."""
    return Patient(number, person(np.random.default_rng([seed, number])))


def examine(
    who: Patient,
    techniques: Sequence[Technique],
    *,
    seed: int,
    visit: int = 0,
    findings: Mapping[str, float] | None = None,
    size: tuple[int, int] = (512, 512),
) -> Examination:
    """Take the films of one study, one object for each technique, [rows, columns] = size."""
    study = uid(seed, who.number, visit)
    scans = []
    for index, technique in enumerate(techniques):
        film = _film(technique, who, [seed, who.number, visit, index], findings or {}, size)
        place = _Place(seed, who, visit, index, study)
        scans.append(Scan(written(_image(film, technique, place), technique.transfer_syntax), technique, film.findings))
    return Examination(study, _title(techniques), scans)


def _film(technique: Technique, who: Patient, key: list[int], findings: Mapping[str, float], size: tuple[int, int]) -> phantom.Film:
    seed = int(np.random.default_rng(key).integers(2**31))
    if technique.view == "KNEE":
        return other_films.knee(seed, size=size)
    if technique.view == "LL":
        return other_films.lateral(seed, size=size)
    return phantom.frontal(seed, body=who.body, view=technique.view, findings=findings, size=size)


def _title(techniques: Sequence[Technique]) -> str:
    parts = []
    for technique in techniques:
        region = "knee" if technique.view == "KNEE" else f"chest {technique.view}"
        poor = ", poor header" if technique.header == "poor" else ""
        parts.append(f"{technique.modality} {region}, {technique.bits} bit, {technique.transfer_syntax.name.split(',')[0]}{poor}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object belongs."""

    seed: int
    who: Patient
    visit: int
    index: int
    study_instance_uid: str

    @property
    def day(self) -> date:
        return FIRST_DAY + timedelta(days=37 * self.visit + self.who.number % 29)

    @property
    def time(self) -> str:
        return f"{8 + self.who.number % 9:02d}{(7 * self.who.number + self.index) % 60:02d}00"

    def uid(self, *parts: object) -> str:
        return uid(self.seed, self.who.number, self.visit, self.index, *parts)


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


def _image(film: phantom.Film, technique: Technique, place: _Place) -> Dataset:
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation if technique.modality == "DX" else ComputedRadiographyImageStorage
    image.SOPInstanceUID = place.uid("image")
    image.StudyInstanceUID = place.study_instance_uid
    image.SeriesInstanceUID = place.uid("series")
    image.Modality = technique.modality
    image.PatientID = place.who.id
    image.PatientName = f"PHANTOM^{place.who.number:05d}"
    image.InstanceNumber = 1
    image.SeriesNumber = place.index + 1
    pixels(image, film.pixels, technique)
    if technique.header == "poor":
        _poor_header(image, place)
    else:
        _complete_header(image, technique, place)
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


def _poor_header(image: Dataset, place: _Place) -> None:
    """What a worn-out cassette reader leaves: no view, no body part, no window, no character set; the study says what it was."""
    image.StudyDate = place.day.strftime("%Y%m%d")
    image.StudyDescription = "PHANTOM CHEST"
    image.Manufacturer = ""
    image.PatientOrientation = ""


def _complete_header(image: Dataset, technique: Technique, place: _Place) -> None:
    _patient_and_study(image, technique, place)
    _equipment(image, technique)
    _acquisition(image, technique, place)
    if technique.modality == "DX":
        digital_x_ray(image, technique)


def _patient_and_study(image: Dataset, technique: Technique, place: _Place) -> None:
    body, day = place.who.body, place.day.strftime("%Y%m%d")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.IssuerOfPatientID = "PHANTOM HOSPITAL"
    image.PatientBirthDate = f"{place.day.year - body.age}0101"
    image.PatientSex = body.sex
    image.PatientAge = f"{body.age:03d}Y"
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = day
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = place.time
    image.StudyID = f"{place.visit + 1}"
    image.AccessionNumber = f"PH{place.who.number:05d}{place.visit:03d}"
    image.ReferringPhysicianName = ""
    image.StudyDescription = f"PHANTOM {_region(technique)[2].upper()}"
    image.SeriesDescription = f"PHANTOM {_region(technique)[2]} {technique.view}"
    image.AcquisitionNumber = place.index + 1


def _region(technique: Technique) -> tuple[str, str, str]:
    return KNEE if technique.view == "KNEE" else CHEST


def _equipment(image: Dataset, technique: Technique) -> None:
    image.Manufacturer = "Phantom Works"
    image.ManufacturerModelName = f"Virtual {technique.modality}"
    image.DeviceSerialNumber = "0001"
    image.SoftwareVersions = "1"
    image.InstitutionName = "Phantom Hospital"
    image.StationName = f"{technique.modality}1"


def _acquisition(image: Dataset, technique: Technique, place: _Place) -> None:
    spacing = phantom.FILM_HEIGHT * 10 / image.Rows
    image.BodyPartExamined = _region(technique)[2].upper()
    image.ViewPosition = "AP" if technique.view == "KNEE" else technique.view
    image.ImageType = ["ORIGINAL", "PRIMARY", ""]
    image.ImagerPixelSpacing = [f"{spacing:.4f}"] * 2
    image.KVP = "110"
    image.PatientOrientation = ORIENTATIONS.get(technique.view, ["L", "F"])
    if technique.view == "KNEE":
        image.Laterality = "R"
    if technique.modality == "CR" and technique.view != "KNEE":
        image.PresentationLUTShape = "INVERSE" if technique.photometric == "MONOCHROME1" else "IDENTITY"


def digital_x_ray(image: Dataset, technique: Technique) -> None:
    """Fill DX Series, Anatomy Imaged, Image, Detector, Positioning, Acquisition Context (PS3.3 C.8.11, C.7.6.14)."""
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageLaterality = "R" if technique.view == "KNEE" else "U"
    image.AnatomicRegionSequence = [_code(*_region(technique))]
    image.ViewCodeSequence = [_code(*VIEW_CODES[image.ViewPosition])]
    image.ViewCodeSequence[0].ViewModifierCodeSequence = []
    image.PixelIntensityRelationship = "LOG"
    image.PixelIntensityRelationshipSign = 1 if technique.photometric == "MONOCHROME1" else -1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "US"
    image.PresentationLUTShape = "INVERSE" if technique.photometric == "MONOCHROME1" else "IDENTITY"
    image.LossyImageCompression = "00"
    image.BurnedInAnnotation = "NO"
    image.DetectorType = "SCINTILLATOR"
    image.PositionerType = "NONE"
    image.AcquisitionContextSequence = []
    if "Laterality" in image:
        del image.Laterality  # Image Laterality says it


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


VARIETY: tuple[tuple[tuple[Technique, ...], Mapping[str, float]], ...] = (
    ((Technique(),), {}),
    (
        (Technique(modality="CR", photometric="MONOCHROME1", transfer_syntax=JPEGLSLossless, header="poor", display="none"),),
        {"Effusion": 0.6},
    ),
    (
        (Technique(view="PA", bits=14, transfer_syntax=JPEG2000Lossless, display="lut"), Technique(view="LL", bits=14)),
        {"Mass": 0.6},
    ),
    ((Technique(view="AP", bits=16, transfer_syntax=RLELossless),), {"Cardiomegaly": 0.7, "Edema": 0.5}),
    ((Technique(modality="CR", view="KNEE", transfer_syntax=ImplicitVRLittleEndian),), {}),
    (
        (Technique(modality="CR", view="AP", photometric="MONOCHROME1", transfer_syntax=ImplicitVRLittleEndian),),
        {"Pneumothorax": 0.6},
    ),
    ((Technique(view="LL", transfer_syntax=DeflatedExplicitVRLittleEndian),), {}),
    ((Technique(photometric="MONOCHROME1", bits=14, transfer_syntax=JPEGLSLossless, display="lut"),), {"Consolidation": 0.7}),
    ((Technique(modality="CR", bits=14, display="lut", transfer_syntax=JPEG2000Lossless),), {"Nodule": 0.8}),
)
"""What a day brings: techniques and findings of study 1, 2, 3, ...; then again from the start with other patients."""

RETURNS = 5
"""Every so many studies a patient comes again."""


def day(count: int, *, seed: int = 0, size: tuple[int, int] = (512, 512)) -> list[Examination]:
    """Examine a day's patients: `count` studies, varied in patient, technique, header and finding; some must be ignored."""
    studies = []
    for index in range(count):
        techniques, findings = VARIETY[index % len(VARIETY)]
        returning = index % RETURNS == RETURNS - 2 and index > 0
        number = index if returning else index + 1
        if index >= len(VARIETY):
            techniques = tuple(replace(technique, bits=min(16, technique.bits + 1)) for technique in techniques)
        who = patient(number, seed)
        studies.append(examine(who, techniques, seed=seed, visit=int(returning), findings=findings, size=size))
    return studies
