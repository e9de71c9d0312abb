"""DICOM files -> stored values, for every supported transfer syntax (PS3.5 8, annex A.4)."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import JPEGExtended12Bit, JPEGLosslessSV1

from pipeline.errors import PixelsUnreadable

MAX_SIDE, MAX_PIXELS = 30_000, 200_000_000
"""Far above the largest detector: anything larger is a wrong header or a decompression bomb."""
PLUGINS = ("pyjpegls", "pylibjpeg", "gdcm", "pillow", "pydicom")
"""Codec plug-ins in fixed order, not pydicom's: an instance gives the same pixels on every host. pylibjpeg-openjpeg reads JPEG 2000
and HTJ2K, gdcm JPEG lossless and baseline, pydicom itself RLE."""
DEFER_BYTES = 1 << 16
"""Longer values are not copied out of the file: uncompressed pixel data is read in place."""
PIXEL_DATA = 0x7FE00010

StoredValues = npt.NDArray[Any]


def read(content: bytes) -> tuple[Dataset, StoredValues]:
    """Return the data set of a DICOM file and its stored values: [H, W], or [H, W, 3] for colour. PixelsUnreadable."""
    dataset = dcmread(BytesIO(content), defer_size=DEFER_BYTES)
    element = dataset.get_item(PIXEL_DATA, keep_deferred=True)
    if not isinstance(element, RawDataElement) or element.value is not None:
        return dataset, decode(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed or syntax.is_deflated:  # offsets in a deflated data set are not offsets in the file
        whole = dcmread(BytesIO(content))
        return whole, decode(whole)
    _check_pixel_attributes(dataset)
    return dataset, _read_native_pixels(dataset, memoryview(content)[element.value_tell : element.value_tell + element.length])


def decode(dataset: Dataset) -> StoredValues:
    """Return the stored values of a data set with file meta, as `read` does. PixelsUnreadable."""
    _check_pixel_attributes(dataset)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return _decompress_pixels(dataset)
    return _read_native_pixels(dataset, dataset.PixelData)


def _check_pixel_attributes(dataset: Dataset) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if "PixelData" not in dataset:
        raise PixelsUnreadable("no pixel data", hint="the sender must send the image itself")
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise PixelsUnreadable(f"{rows} rows x {columns} columns is no radiograph", hint="the header is wrong; see the sender")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise PixelsUnreadable(f"{dataset.NumberOfFrames} frames where one is expected", hint="send single-frame radiographs")


def _decompress_pixels(dataset: Dataset) -> StoredValues:
    """Decompress with the first plug-in that succeeds."""
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = get_decoder(syntax)
    failure: Exception | None = None
    for plugin in PLUGINS:
        if plugin not in decoder.available_plugins:
            continue
        try:
            return np.asarray(decoder.as_array(dataset, raw=False, decoding_plugin=plugin)[0])
        except Exception as error:  # the next plug-in may decode it
            failure = failure or error
    raise PixelsUnreadable(f"{syntax.name} cannot be decoded ({type(failure).__name__})", hint=_suggest_codec(syntax)) from failure


def _read_native_pixels(dataset: Dataset, content: bytes | memoryview) -> StoredValues:
    """Read uncompressed pixel data: a view of it, unless values must be changed."""
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel or 1) * int(dataset.BitsAllocated) // 8
    if len(content) < expected:
        raise PixelsUnreadable(f"pixel data has {len(content)} of {expected} bytes: it is truncated", hint=_SEND_AGAIN_HINT)
    signed = bool(int(dataset.get("PixelRepresentation") or 0))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    options = as_pixel_options(dataset, pixel_keyword="PixelData", view_only=True, correct_unused_bits=signed)
    pixels: StoredValues = np.asarray(decoder.as_array(content, raw=False, **options)[0])
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    largest = 2**stored - 1
    if stored < allocated and not signed and pixels.max() > largest:
        pixels = pixels & pixels.dtype.type(largest)  # old scanners put overlays above the stored bits
    return pixels


_SEND_AGAIN_HINT = "send the instance again under a new SOP Instance UID, or repair the sender's copy"


def _suggest_codec(syntax: str) -> str:
    if syntax == JPEGExtended12Bit:
        return "12-bit lossy JPEG needs the GPL codec: pip install radclipd[gpl-codecs]"
    return "is the file whole? otherwise let the archive send it uncompressed or as " + JPEGLosslessSV1.name
