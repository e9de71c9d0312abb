"""Films from a folder: DICOM files as they are, PNG and JPEG pictures as CR objects.

A folder with a label table in the manner of ChestX-ray14 gives its films as DX studies, and what they show as the truth.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from adapters.hospital import nih
from adapters.hospital.header import Technique
from adapters.hospital.picture_studies import study_of_picture, study_of_row
from adapters.hospital.pictures import PICTURES, read_picture
from adapters.hospital.scanner import Examination, Scan
from pipeline.errors import Refused

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
    examinations, skipped = _listed(folder, limit) if nih.find_table(folder) else _found(folder, limit)
    if not examinations:
        raise Refused(f"no film among the {len(skipped)} files of {folder}", hint="name a folder of DICOM or PNG files")
    return examinations, skipped


def _listed(folder: Path, limit: int | None) -> tuple[list[Examination], list[Skipped]]:
    """Read the films of a label table, in its order."""
    collection = nih.read_collection(folder)
    examinations: list[Examination] = []
    skipped: list[Skipped] = []
    for row, path in zip(collection.rows, collection.files, strict=True):
        if limit is not None and len(examinations) >= limit:
            break
        try:
            examinations.append(study_of_row(row, read_picture(path)))
        except Refused as error:
            skipped.append(Skipped(path, str(error)))
    return examinations, skipped


def _found(folder: Path, limit: int | None) -> tuple[list[Examination], list[Skipped]]:
    """Read whatever is a film, by name; several files may make one study."""
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
    return [Examination(study, titles[study], found) for study, found in scans.items()], skipped


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _picture(path: Path) -> tuple[str, str, Scan]:
    examination = study_of_picture(path, read_picture(path))
    return examination.study_instance_uid, examination.title, examination.scans[0]


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
