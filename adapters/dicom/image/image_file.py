"""DICOM files -> the elements that an image is rendered from, and the encoded pixel data in place; inflation within a limit."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from adapters.dicom.image.element_scan import UNDEFINED_LENGTH, ElementScan
from adapters.dicom.image.part10 import DOUBLE_FLOAT_PIXEL_DATA, FLOAT_PIXEL_DATA, PIXEL_DATA, PREAMBLE, file_head
from pipeline.errors import DataSetUnreadable

MAX_INFLATED_BYTES = 1 << 28
"""Limit of a deflated data set once inflated: four times the largest radiograph. Deflate can grow a thousandfold."""
MAX_INFLATED_DOCUMENT_BYTES = 1 << 24
"""The same of a document, which holds no pixels: reports of people have some hundreds of KiB."""
FILE_META_BYTES = 1 << 12
"""The beginning of a file in which its transfer syntax stands: every stored file has the file meta information of `file_head`."""

PALETTE_COLOURS = ("Red", "Green", "Blue")
RENDERING_TAGS = [
    Tag(keyword)
    for keyword in (
        *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID"),
        *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in PALETTE_COLOURS),
        *(f"{colour}PaletteColorLookupTableData" for colour in PALETTE_COLOURS),
        "PixelDataProviderURL",
    )
]
"""The elements that a rendering reads; all others are skipped, however they are written."""


@dataclass(frozen=True, slots=True)
class EncodedPixels:
    """The value of Pixel Data as encoded. `in_items`: of undefined length, a sequence of items (PS3.5 A.4). `vr`: "": implicit."""

    content: memoryview
    in_items: bool
    vr: str = ""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The elements of an image, and its pixel data. `pixels`: None, and `reason` in words, where there are none."""

    dataset: Dataset
    pixels: EncodedPixels | None
    reason: str = ""


def inflate_file(content: bytes, *, max_bytes: int = MAX_INFLATED_BYTES) -> bytes:
    """Return a stored DICOM file with its data set inflated where it was deflated; else the file itself.

    DataSetUnreadable beyond `max_bytes`, and where it cannot be inflated.
    """
    if DeflatedExplicitVRLittleEndian.encode() not in content[:FILE_META_BYTES]:
        return content
    stream = BytesIO(content)
    stream.seek(len(PREAMBLE))
    meta = _read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return content
    body = _inflate_body(memoryview(content)[stream.tell() :], max_bytes)
    return file_head(meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, str(ExplicitVRLittleEndian)) + body


def _inflate_body(deflated: memoryview, max_bytes: int) -> bytes:
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflator.decompress(deflated, max_bytes + 1)
    except zlib.error as error:
        raise DataSetUnreadable("the deflated data set is damaged", hint=_SEND_AGAIN_HINT) from error
    if len(body) > max_bytes:
        raise DataSetUnreadable(
            f"the deflated data set of {len(deflated)} bytes inflates to more than {max_bytes}",
            hint="no radiograph is as large; let the sender send it without deflating, or find out what it sends",
        )
    if not inflator.eof:
        raise DataSetUnreadable("the deflated data set is truncated", hint=_SEND_AGAIN_HINT)
    return body


_SEND_AGAIN_HINT = "let the sender send it again"


def read_image_file(content: bytes) -> ImageFile:
    """Return the elements that an image is rendered from. DataSetUnreadable; any exception where the file is no DICOM file."""
    content = inflate_file(content)
    stream = BytesIO(content)
    stream.seek(len(PREAMBLE))
    meta = _read_file_meta_info(stream)
    implicit, little_endian = meta.TransferSyntaxUID == ImplicitVRLittleEndian, meta.TransferSyntaxUID != ExplicitVRBigEndian
    scan = ElementScan(stream, little_endian=little_endian, whole=True, stop=lambda tag: tag >= FLOAT_PIXEL_DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the value
        dataset = read_dataset(stream, implicit, little_endian, stop_when=scan, specific_tags=list(RENDERING_TAGS))
    dataset.file_meta = meta
    found = scan.stopped_at
    if found is None or found.tag != PIXEL_DATA or found.length == 0:
        return ImageFile(dataset, None, _explain_missing_pixels(dataset, found.tag if found is not None else None))
    in_items = found.length == UNDEFINED_LENGTH
    value = memoryview(content)[found.offset :]
    return ImageFile(dataset, EncodedPixels(value if in_items else value[: found.length], in_items, found.vr or ""))


def split_pixels(dataset: Dataset) -> ImageFile:
    """Return the same of a data set in memory."""
    if PIXEL_DATA not in dataset:
        tags = [tag for tag in (FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA) if tag in dataset]
        return ImageFile(dataset, None, _explain_missing_pixels(dataset, next(iter(tags), None)))
    element = dataset.get_item(PIXEL_DATA)
    if not element.value:
        return ImageFile(dataset, None, _explain_missing_pixels(dataset, PIXEL_DATA))
    undefined = element.length == UNDEFINED_LENGTH if isinstance(element, RawDataElement) else element.is_undefined_length
    return ImageFile(dataset, EncodedPixels(memoryview(element.value), undefined, element.VR or ""))


def _explain_missing_pixels(dataset: Dataset, tag: int | None) -> str:
    """Return the reason in words. `tag`: of the element at which the search for pixel data ended."""
    if tag in (FLOAT_PIXEL_DATA, DOUBLE_FLOAT_PIXEL_DATA):
        return "its pixels are floating-point numbers, which no radiograph has"
    if tag == PIXEL_DATA:
        return "its pixel data are empty"
    if "PixelDataProviderURL" in dataset:
        return "no pixel data: a URL says where they are"
    if tag is not None and tag >> 16 != PIXEL_DATA >> 16:
        return "no pixel data, or an element before them states a wrong length"
    return "no pixel data"
