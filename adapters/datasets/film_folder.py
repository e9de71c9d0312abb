"""Films from a folder: DICOM files unchanged, PNG and JPEG pictures as CR objects.

A folder with a label table in the format of ChestX-ray14 gives its pictures as DX studies, with the findings of the table as
ground truth. The findings of DICOM files come from such a table by file name, or from a truth.csv by study.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from adapters.datasets import nih
from adapters.datasets.picture_studies import study_from_picture, study_from_row
from adapters.datasets.pictures import PICTURE_SUFFIXES, read_picture
from adapters.datasets.truth_table import TRUTH_FILE, known_findings
from adapters.dicom.image.image_file import FILE_META_BYTES, MAX_INFLATED_BYTES, inflate_file
from adapters.simulator.header import Technique
from adapters.simulator.scanner import Examination, ExaminationInstance
from adapters.simulator.truth import GroundTruth
from pipeline.errors import DataSetUnreadable, PermanentError

RADIOGRAPHY_MODALITIES = {"CR", "DX"}
"""Modalities that deploy/orthanc/radclipd.lua forwards."""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not a film, with the reason."""

    path: Path
    reason: str


def read_film_folder(folder: Path, *, limit: int | None = None) -> tuple[list[Examination], list[SkippedFile]]:
    """Read a folder of DICOM files and pictures recursively, by name; at most `limit` studies. PermanentError without any film."""
    if not folder.is_dir():
        raise PermanentError(f"{folder} is no folder", hint="name a folder of DICOM or PNG files")
    examinations, skipped = (
        _read_listed_films(folder, limit) if _has_listed_pictures(folder) else _read_unlisted_films(folder, limit)
    )
    if not examinations:
        raise PermanentError(f"no film among the {len(skipped)} files of {folder}", hint="name a folder of DICOM or PNG files")
    return examinations, skipped


def _has_listed_pictures(folder: Path) -> bool:
    return nih.find_table(folder) is not None and any(path.suffix.lower() in PICTURE_SUFFIXES for path in _list_files(folder))


def _read_listed_films(folder: Path, limit: int | None) -> tuple[list[Examination], list[SkippedFile]]:
    """Read the films of a label table, in the order of the table."""
    collection = nih.read_collection(folder)
    examinations: list[Examination] = []
    skipped: list[SkippedFile] = []
    for row, path in zip(collection.rows, collection.files, strict=True):
        if limit is not None and len(examinations) >= limit:
            break
        try:
            examinations.append(study_from_row(row, read_picture(path)))
        except PermanentError as error:
            skipped.append(SkippedFile(path, str(error)))
    return examinations, skipped


def _read_unlisted_films(folder: Path, limit: int | None) -> tuple[list[Examination], list[SkippedFile]]:
    """Read every film, by name; several files may form one study."""
    known = known_findings(folder)
    found: dict[str, Examination] = {}
    skipped: list[SkippedFile] = []
    for path in _list_files(folder):
        if path.name == TRUTH_FILE:
            continue
        try:
            examination = (
                study_from_picture(path, read_picture(path))
                if path.suffix.lower() in PICTURE_SUFFIXES
                else _read_dicom_file(path, known)
            )
        except PermanentError as error:
            skipped.append(SkippedFile(path, str(error)))
            continue
        study = examination.study_instance_uid
        if study in found:
            found[study] = replace(found[study], instances=[*found[study].instances, *examination.instances])
        elif limit is None or len(found) < limit:
            found[study] = examination
    return list(found.values()), skipped


def _list_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))


def _read_dicom_file(path: Path, known: Mapping[str, frozenset[str]]) -> Examination:
    """Return the study of a DICOM file; missing preamble and file meta are added. PermanentError for any other file."""
    content = path.read_bytes()
    try:
        elements = pydicom.dcmread(io.BytesIO(_inflate_film(content)), force=True)
        study = str(elements.StudyInstanceUID)
        if "TransferSyntaxUID" not in elements.file_meta:
            content = _add_file_meta(elements)
    except DataSetUnreadable:
        raise
    except (InvalidDicomError, AttributeError, ValueError, OSError, KeyError) as error:
        raise PermanentError("not a DICOM image") from error
    if "PixelData" not in elements:
        raise PermanentError("no pixel data")
    if elements.get("Modality") not in RADIOGRAPHY_MODALITIES:
        raise PermanentError("neither CR nor DX: the archive would not forward it")
    title = f"{elements.get('Modality', '')} {elements.file_meta.TransferSyntaxUID.name.split(',')[0]} ({path.name})"
    findings = known.get(study, known.get(path.stem))
    truth = None if findings is None else GroundTruth(str(elements.get("PatientID") or study), findings)
    return Examination(study, title, [ExaminationInstance(content, Technique(), {})], truth=truth)


def _inflate_film(content: bytes) -> bytes:
    """Return the file with its data set inflated within MAX_INFLATED_BYTES. DataSetUnreadable."""
    if content[128:132] != b"DICM" and DeflatedExplicitVRLittleEndian.encode() in content[:FILE_META_BYTES]:
        raise DataSetUnreadable("deflated, and without a preamble")  # pydicom would inflate it without a limit
    return inflate_file(content, max_bytes=MAX_INFLATED_BYTES)


def _add_file_meta(elements: Dataset) -> bytes:
    implicit, little = elements.original_encoding
    syntax = ExplicitVRBigEndian if little is False else ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    elements.file_meta = FileMetaDataset()
    elements.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, elements, enforce_file_format=True)
    return buffer.getvalue()
