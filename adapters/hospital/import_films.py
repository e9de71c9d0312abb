"""Films from a folder: DICOM files as they are, PNG and JPEG pictures as CR objects."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from adapters.hospital.header import Technique, pixels, uid, written
from adapters.hospital.raster import Field
from adapters.hospital.scanner import Examination, Scan
from pipeline.errors import Refused

PICTURES = {".png", ".jpg", ".jpeg"}
NIH_NAME = re.compile(r"^(\d{8})_(\d{3})$")
"""ChestX-ray14 names a file by patient and follow-up number."""
PICTURE_BITS = 12
RADIOGRAPHY = {"CR", "DX"}
"""Modalities that deploy/orthanc/radclipd.lua forwards."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no film, and why."""

    path: Path
    reason: str


def from_folder(folder: Path, *, limit: int | None = None) -> tuple[list[Examination], list[Skipped]]:
    """Read a folder of DICOM files and pictures, deep, by name; `limit` bounds the studies. Refused where none is a film."""
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder", hint="name a folder of DICOM or PNG files")
    scans: dict[str, list[Scan]] = defaultdict(list)
    titles: dict[str, str] = {}
    skipped: list[Skipped] = []
    for path in _files(folder):
        try:
            study, title, scan = _picture(path) if path.suffix.lower() in PICTURES else _dicom(path)
        except Refused as error:
            skipped.append(Skipped(path, str(error)))
            continue
        if limit is not None and study not in scans and len(scans) >= limit:
            continue
        scans[study].append(scan)
        titles.setdefault(study, title)
    if not scans:
        raise Refused(f"no film among the {len(skipped)} files of {folder}", hint="name a folder of DICOM or PNG files")
    return [Examination(study, titles[study], found) for study, found in scans.items()], skipped


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _dicom(path: Path) -> tuple[str, str, Scan]:
    """Return study, title and scan of a DICOM file; one without preamble and file meta gets them. Refused."""
    content = path.read_bytes()
    try:
        elements = pydicom.dcmread(io.BytesIO(content), force=True)
        study = str(elements.StudyInstanceUID)
        if "TransferSyntaxUID" not in elements.file_meta:
            content = _with_meta(elements)
    except (InvalidDicomError, AttributeError, ValueError, OSError, KeyError) as error:
        raise Refused("not a DICOM image") from error
    if "PixelData" not in elements:
        raise Refused("no pixel data")
    if elements.get("Modality") not in RADIOGRAPHY:
        raise Refused("neither CR nor DX: the archive would not forward it")
    title = f"{elements.get('Modality', '')} {elements.file_meta.TransferSyntaxUID.name.split(',')[0]} ({path.name})"
    return study, title, Scan(content, Technique(), {})


def _with_meta(elements: Dataset) -> bytes:
    implicit, little = elements.original_encoding
    syntax = ExplicitVRBigEndian if little is False else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    elements.file_meta = FileMetaDataset()
    elements.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, elements, enforce_file_format=True)
    return buffer.getvalue()


def _picture(path: Path) -> tuple[str, str, Scan]:
    """Return study, title and scan of a picture: a CR chest image whose view is not known. Refused."""
    film = _brightness(path)
    named = NIH_NAME.match(path.stem)
    who, visit = named.groups() if named else (path.stem, "000")
    study = uid("picture", who, visit)
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = ComputedRadiographyImageStorage, uid("picture", path.stem, "image")
    image.StudyInstanceUID, image.SeriesInstanceUID = study, uid("picture", path.stem, "series")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.Modality, image.BodyPartExamined, image.ViewPosition = "CR", "CHEST", ""
    image.PatientID, image.PatientName = who[:64], f"PICTURE^{who}"[:64]
    image.PatientBirthDate = image.PatientSex = image.StudyDate = image.StudyTime = image.StudyID = ""
    image.ReferringPhysicianName = image.AccessionNumber = image.Manufacturer = image.PatientOrientation = ""
    image.SeriesNumber, image.InstanceNumber = 1, int(visit) + 1
    image.StudyDescription = "CHEST, FROM A PICTURE FILE"
    technique = Technique(modality="CR", bits=PICTURE_BITS, transfer_syntax=ExplicitVRLittleEndian)
    pixels(image, film, technique)
    return study, f"CR from {path.name}", Scan(written(image, technique.transfer_syntax), technique, {})


def _brightness(path: Path) -> Field:
    """Return a picture as float32 [H, W] in 0..1, whatever its mode: 8 and 16 bit, grey, colour, with alpha."""
    try:
        with PillowImage.open(path) as opened:
            wide = opened.mode.startswith("I")
            grey = np.asarray(opened if wide else opened.convert("L"), dtype=np.float32)
    except (UnidentifiedImageError, OSError) as error:
        raise Refused("not a picture that can be read") from error
    return grey / np.float32(65535 if wide else 255)
