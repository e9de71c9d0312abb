"""Two files under one SOP Instance UID: do they hold the same instance in another encoding, or with another header?

The same image: equal stored values. The same document: equal elements. What else differs is named by keywords, never by values.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

import numpy as np
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian

from adapters.dicom.image import stored_values

PIXEL_GROUP = 0x7FE0
MAX_NAMED_ELEMENTS = 12


def describe_difference(stored: bytes, incoming: bytes) -> str | None:
    """Return in words what differs between two DICOM files of the same instance; None where they are different instances.

    Any exception where a file cannot be read or decoded.
    """
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    ours, theirs = dcmread(BytesIO(stored)), dcmread(BytesIO(incoming))
    differing = list(_find_differing_elements(ours, theirs))
    if ("PixelData" in ours) != ("PixelData" in theirs):
        return None
    if "PixelData" not in ours and differing:
        return None
    if "PixelData" in ours and not _has_same_pixels(ours, theirs):
        return None
    parts = []
    before, after = (str(dataset.file_meta.TransferSyntaxUID) for dataset in (ours, theirs))
    if before != after:
        parts.append(f"transfer syntax {after} instead of {before}")
    if differing:
        parts.append("another value of " + ", ".join(_name_elements(differing)))
    return "; ".join(parts) or "another encoding"


def _has_same_pixels(ours: Dataset, theirs: Dataset) -> bool:
    """Compare the encoded pixel data; where it is encoded in two ways, the stored values of the one frame."""
    if _get_layout(ours) == _get_layout(theirs) and ours.PixelData == theirs.PixelData:
        return True
    return np.array_equal(stored_values.decode(ours), stored_values.decode(theirs))


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
