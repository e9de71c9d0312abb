"""Films from a folder: DICOM files as they are, PNG and JPEG pictures as CR objects.

A folder with a label table in the manner of ChestX-ray14 gives its pictures as DX studies, and what they show as the truth. What
DICOM files show is known from such a table by their names, or from a truth.csv by their studies.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from adapters.datasets import nih
from adapters.datasets.picture_studies import study_of_picture, study_of_row
from adapters.datasets.pictures import PICTURES, read_picture
from adapters.simulator.header import Technique
from adapters.simulator.scanner import Examination, Scan
from adapters.simulator.truth import TRUTH, Truth, known_findings
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
    examinations, skipped = _listed(folder, limit) if _has_listed_pictures(folder) else _found(folder, limit)
    if not examinations:
        raise Refused(f"no film among the {len(skipped)} files of {folder}", hint="name a folder of DICOM or PNG files")
    return examinations, skipped


def _has_listed_pictures(folder: Path) -> bool:
    return nih.find_table(folder) is not None and any(path.suffix.lower() in PICTURES for path in _files(folder))


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
    known = known_findings(folder)
    found: dict[str, Examination] = {}
    skipped: list[Skipped] = []
    for path in _files(folder):
        if path.name == TRUTH:
            continue
        try:
            one = study_of_picture(path, read_picture(path)) if path.suffix.lower() in PICTURES else _dicom(path, known)
        except Refused as error:
            skipped.append(Skipped(path, str(error)))
            continue
        study = one.study_instance_uid
        if study in found:
            found[study] = replace(found[study], scans=[*found[study].scans, *one.scans])
        elif limit is None or len(found) < limit:
            found[study] = one
    return list(found.values()), skipped


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _dicom(path: Path, known: Mapping[str, frozenset[str]]) -> Examination:
    """Return the study of a DICOM file; one without preamble and file meta gets them. Refused."""
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
    shown = known.get(study, known.get(path.stem))
    truth = None if shown is None else Truth(str(elements.get("PatientID") or study), shown)
    return Examination(study, title, [Scan(content, Technique(), {})], truth=truth)


def _with_meta(elements: Dataset) -> bytes:
    implicit, little = elements.original_encoding
    syntax = ExplicitVRBigEndian if little is False else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    elements.file_meta = FileMetaDataset()
    elements.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, elements, enforce_file_format=True)
    return buffer.getvalue()
