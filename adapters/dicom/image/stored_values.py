"""DICOM files -> stored values, for every supported transfer syntax (PS3.5 8, annex A.4), checked against the header."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
)

from adapters.dicom.image.encapsulation import (
    CodestreamSize,
    join_frame,
    read_codestream_size,
    split_items,
    unwrap_native,
)
from adapters.dicom.image.image_file import EncodedPixels, ImageFile, read_image_file, split_pixels
from adapters.dicom.image.pixel_attributes import PixelAttributes
from pipeline.errors import PixelsUnreadable

PLUGINS = ("pyjpegls", "pylibjpeg", "gdcm", "pillow", "pydicom")
"""Codec plug-ins in fixed order, not pydicom's: an instance gives the same pixels on every host. pylibjpeg-openjpeg reads JPEG 2000
and HTJ2K, gdcm JPEG lossless and baseline, pydicom itself RLE."""
MAX_EXCESS_BYTES = 1 << 12
"""Bytes behind an uncompressed frame that count as its padding: a block of a disk. More are another frame, or a wrong header."""

NATIVE_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
"""The transfer syntaxes with uncompressed pixel data."""

StoredValues = npt.NDArray[Any]


def read(content: bytes) -> tuple[Dataset, StoredValues]:
    """Return the elements of a DICOM file that a rendering needs, and its stored values: [H, W], or [H, W, 3] for colour.

    PixelsUnreadable.
    """
    file = read_image_file(content)
    return file.dataset, _decode_pixels(file)


def decode(dataset: Dataset) -> StoredValues:
    """Return the stored values of a data set with file meta, as `read` does. PixelsUnreadable."""
    return _decode_pixels(split_pixels(dataset))


def _decode_pixels(file: ImageFile) -> StoredValues:
    if file.pixels is None:
        raise PixelsUnreadable(file.reason, hint="the sender must send the image itself, whole")
    attributes = PixelAttributes.from_dataset(file.dataset)
    syntax = file.dataset.file_meta.TransferSyntaxUID
    decode_frame = _read_native_frame if syntax in NATIVE_SYNTAXES else _decompress_frame
    values = decode_frame(file.pixels, attributes, syntax)
    if values.shape != attributes.shape or values.dtype.kind not in "iu":
        raise PixelsUnreadable(
            f"the decoded pixels are {'x'.join(map(str, values.shape))} where the header says"
            f" {'x'.join(map(str, attributes.shape))}",
            hint=_SEND_AGAIN_HINT,
        )
    return values


def _decompress_frame(pixels: EncodedPixels, attributes: PixelAttributes, syntax: UID) -> StoredValues:
    decoder = _find_decoder(syntax)
    frame = join_frame(split_items(pixels.content, little_endian=True), syntax)
    size = read_codestream_size(frame, syntax)
    if size is not None:
        _compare_codestream(size, attributes)
    precision = attributes.bits_allocated if size is None else size.precision
    is_left_aligned = attributes.unused_low_bits > 0 and precision > attributes.high_bit
    options = _list_options(attributes) | {"correct_unused_bits": not is_left_aligned}
    values = _decode_codestream(frame, decoder, options)
    return _align_samples(values, attributes) if is_left_aligned else values


def _compare_codestream(size: CodestreamSize, attributes: PixelAttributes) -> None:
    """Raise PixelsUnreadable where the codestream is not that of the header: before anything is decoded."""
    stated = (size.rows, size.columns, size.samples)
    if stated != (attributes.rows, attributes.columns, attributes.samples_per_pixel):
        raise PixelsUnreadable(
            f"the codestream holds {size.rows} rows x {size.columns} columns x {size.samples} samples, where the header says"
            f" {attributes.rows} x {attributes.columns} x {attributes.samples_per_pixel}",
            hint=_SEND_AGAIN_HINT,
        )
    if size.precision > attributes.bits_allocated:
        raise PixelsUnreadable(
            f"the codestream has samples of {size.precision} bits, where the header allocates {attributes.bits_allocated}",
            hint=_SEND_AGAIN_HINT,
        )


def _find_decoder(syntax: UID) -> Decoder:
    try:
        return get_decoder(syntax)
    except NotImplementedError as error:
        raise PixelsUnreadable(f"transfer syntax {syntax.name} cannot be decoded", hint=_suggest_codec(syntax)) from error


def _decode_codestream(frame: bytes, decoder: Decoder, options: Mapping[str, Any]) -> StoredValues:
    """Decompress with the first plug-in that succeeds. MemoryError where a plug-in ran out of memory."""
    failures = _CodecFailures()
    with failures.recorded():
        for plugin in PLUGINS:
            if plugin not in decoder.available_plugins:
                continue
            try:
                return np.asarray(decoder.as_array(encapsulate([frame]), index=0, raw=False, decoding_plugin=plugin, **options)[0])
            except Exception as error:  # the next plug-in may decode it
                failures.exceptions.append(error)
            if any(isinstance(failure, MemoryError) for failure in failures.exceptions):
                raise MemoryError
    names = dict.fromkeys(type(failure).__name__ for failure in failures.exceptions)
    raise PixelsUnreadable(
        f"{decoder.UID.name} cannot be decoded ({', '.join(names) or 'no codec is installed'})", hint=_suggest_codec(decoder.UID)
    )


class _CodecFailures(logging.Handler):
    """The exceptions of codecs: pydicom logs them, and raises another in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.exceptions: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Exception):
            self.exceptions.append(record.msg)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        logger = logging.getLogger("pydicom")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


def _read_native_frame(pixels: EncodedPixels, attributes: PixelAttributes, syntax: UID) -> StoredValues:
    """Read uncompressed pixel data: a view of it, unless values must be changed."""
    content, expected = pixels.content, attributes.frame_bytes
    if pixels.in_items:
        content = unwrap_native(content, expected, little_endian=syntax.is_little_endian)
    excess = len(content) - expected
    if excess < 0:
        raise PixelsUnreadable(f"pixel data has {len(content)} of {expected} bytes: it is truncated", hint=_SEND_AGAIN_HINT)
    if excess > 1 and (excess > MAX_EXCESS_BYTES or excess >= expected):
        raise PixelsUnreadable(
            f"pixel data has {len(content)} bytes, where the header says one frame of {expected}",
            hint="send single-frame radiographs; otherwise the header is wrong",
        )
    options = _list_options(attributes) | {"pixel_vr": pixels.vr, "view_only": True, "correct_unused_bits": False}
    content = content[: expected + expected % 2]
    values: StoredValues = np.asarray(get_decoder(syntax).as_array(content, raw=False, **options)[0])
    return _align_samples(values, attributes)


def _list_options(attributes: PixelAttributes) -> dict[str, Any]:
    """Return the options of pydicom's decoders."""
    return {
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
        "rows": attributes.rows,
        "columns": attributes.columns,
        "samples_per_pixel": attributes.samples_per_pixel,
        "photometric_interpretation": attributes.photometric_interpretation,
        "planar_configuration": int(attributes.planar),
        "bits_allocated": attributes.bits_allocated,
        "bits_stored": attributes.bits_stored,
        "pixel_representation": int(attributes.signed),
    }


def _align_samples(values: StoredValues, attributes: PixelAttributes) -> StoredValues:
    """Return the stored bits alone, aligned to the right: others are not part of the sample (PS3.5 8.1.1)."""
    stored, width = attributes.bits_stored, 8 * values.dtype.itemsize
    if attributes.signed:
        if stored == width:
            return values
        native = values.astype(values.dtype.newbyteorder("="))
        native <<= width - 1 - attributes.high_bit
        native >>= width - stored  # of a signed type: the sign fills the bits above
        return native
    if attributes.unused_low_bits > 0:
        values = values >> attributes.unused_low_bits
    largest = (1 << stored) - 1
    if stored < width and values.max() > largest:
        values = values & values.dtype.type(largest)  # old scanners put overlays above the stored bits
    return values


_SEND_AGAIN_HINT = "send the instance again under a new SOP Instance UID, or repair the sender's copy"


def _suggest_codec(syntax: str) -> str:
    if syntax == JPEGExtended12Bit:
        return "12-bit lossy JPEG needs the GPL codec: pip install radclipd[gpl-codecs]"
    return "is the file whole? otherwise let the archive send it uncompressed or as " + JPEGLosslessSV1.name
