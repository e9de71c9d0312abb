"""Two files under one SOP Instance UID: do they hold the same instance in another encoding, or with another header?

The same image: equal stored values. The same document: equal elements, other than those of patient, study and series. What else
differs is named by keywords, never by values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian

from adapters.dicom.image import stored_values
from adapters.dicom.image.element_values import get_integer
from adapters.dicom.image.image_file import inflate_file
from adapters.dicom.image.part10 import split_file
from pipeline.domain import InstanceDifference

PIXEL_GROUP = 0x7FE0
PATIENT_GROUP = 0x0010
IDENTITY_KEYWORDS = """
    AccessionNumber IssuerOfAccessionNumberSequence StudyDate StudyTime StudyDescription StudyID StudyInstanceUID
    ReferringPhysicianName SeriesDescription SeriesInstanceUID SeriesNumber InstitutionName InstitutionAddress
    InstitutionalDepartmentName ReferencedPatientSequence ReferencedStudySequence OriginalAttributesSequence
    InstanceCoercionDateTime"""
IDENTITY_TAGS = frozenset(tag_for_keyword(keyword) for keyword in IDENTITY_KEYWORDS.split())
"""Elements of patient, study and series (PS3.3 C.7.1 to C.7.3), which archives correct in documents, too."""
MAX_NAMED_ELEMENTS = 12


def compare_files(stored: bytes, incoming: bytes) -> InstanceDifference | None:
    """Return what differs between two DICOM files of the same instance; None where they are different instances.

    Any exception where a file cannot be read or decoded.
    """
    ours, theirs = _read_file(stored), _read_file(incoming)
    differing = list(_find_differing_elements(ours, theirs))
    if ("PixelData" in ours) != ("PixelData" in theirs):
        return None
    if "PixelData" not in ours and not all(map(_is_identity, differing)):
        return None
    if "PixelData" in ours and not _has_same_pixels(ours, theirs):
        return None
    parts = []
    before, after = (split_file(content)[1] for content in (stored, incoming))
    if before != after:
        parts.append(f"transfer syntax {after} instead of {before}")
    if differing:
        parts.append("another value of " + ", ".join(_name_elements(differing)))
    return InstanceDifference("; ".join(parts) or "another encoding", is_encoding_only=not differing)


def digest_pixels(content: bytes) -> str:
    """Return the SHA-256, hex, of number, shape and stored values of the frames, alike for every lossless encoding.

    Any exception where the file has no pixel data or cannot be decoded.
    """
    dataset = _read_file(content)
    digest = hashlib.sha256()
    for frame in _decode_frames(dataset):
        digest.update(repr(frame.shape).encode())
        digest.update(np.ascontiguousarray(frame, dtype="<i8").data)
    return digest.hexdigest()


def _read_file(content: bytes) -> Dataset:
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    return dcmread(BytesIO(inflate_file(content)))


def _decode_frames(dataset: Dataset) -> Iterator[np.ndarray[Any, Any]]:
    if (get_integer(dataset, "NumberOfFrames") or 1) > 1:  # one frame at a time: a file of many is larger than the memory
        yield from iter_pixels(dataset, raw=True)
    else:
        yield stored_values.decode(dataset)


def _is_identity(tag: BaseTag) -> bool:
    return tag.group == PATIENT_GROUP or tag in IDENTITY_TAGS


def _has_same_pixels(ours: Dataset, theirs: Dataset) -> bool:
    """Compare the encoded pixel data; where it is encoded in two ways, the stored values of each frame."""
    if _get_layout(ours) == _get_layout(theirs) and ours.PixelData == theirs.PixelData:
        return True
    frames = [get_integer(each, "NumberOfFrames") or 1 for each in (ours, theirs)]
    if frames[0] != frames[1]:
        return False
    return all(map(np.array_equal, _decode_frames(ours), _decode_frames(theirs)))


def _get_layout(dataset: Dataset) -> tuple[object, ...]:
    """Return what gives the pixel data its meaning: sizes, and the transfer syntax, or of native data the byte order."""
    syntax = dataset.file_meta.TransferSyntaxUID
    encoding = str(syntax) if syntax.is_encapsulated else str(syntax == ExplicitVRBigEndian)
    sizes = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    return (encoding, *(dataset.get(name) for name in sizes))


def _find_differing_elements(ours: Dataset, theirs: Dataset) -> Iterable[BaseTag]:
    for tag in sorted({*ours.keys(), *theirs.keys()}):
        if tag.group == PIXEL_GROUP or tag.element == 0:  # a group length is no content
            continue
        if tag not in ours or tag not in theirs or _encode_element(ours, tag) != _encode_element(theirs, tag):
            yield tag


def _encode_element(dataset: Dataset, tag: BaseTag) -> bytes:
    """Return the element in implicit VR little endian: alike for every transfer syntax."""
    alone = Dataset()
    alone[tag] = dataset[tag]
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, True
    write_dataset(encoded, alone)
    return bytes(encoded.getvalue())


def _name_elements(tags: list[BaseTag]) -> list[str]:
    names = [keyword_for_tag(tag) or str(tag) for tag in tags[:MAX_NAMED_ELEMENTS]]
    return [*names, f"{len(tags) - len(names)} more"] if len(tags) > len(names) else names
