"""Stored values -> the image that a radiologist sees, in float32 without an 8-bit intermediate step.

decode -> mask pixel padding -> Modality LUT -> VOI LUT -> presentation -> 0..1 (PS3.3 C.11.1, C.11.2, C.11.6; PS3.4 N.2).
MONOCHROME1 and Presentation LUT Shape INVERSE invert once, after the VOI LUT, also where a header has both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from adapters.dicom.image import stored_values
from adapters.dicom.image.contrast import require_contrast
from adapters.dicom.image.element_values import decode_sign, get_decimals, get_integer, get_items, get_text, is_little_endian
from adapters.dicom.image.lookup_table import LookupTable, read_lookup_table
from adapters.dicom.image.palette import LUMINANCE, apply_palette
from adapters.ipc.decoded_image import DecodedImage, DecoderTransform, Window, WindowedPixelData, read_whole_image
from pipeline.domain import Image, StoredInstance
from pipeline.errors import PermanentError, PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.services import ImageStore

RENDERING_VERSION = 2
"""Increased whenever the same file gives another image: activations cached of the former image become stale."""
ROBUST_PERCENTILES = (0.5, 99.5)
"""Percentiles used as window where the header has none."""
STORED_DTYPES = tuple(np.dtype(name) for name in ("uint8", "int8", "uint16", "int16"))
"""Types of grey images in native byte order whose values float32 represents exactly."""

FloatPixels = npt.NDArray[np.float32]
PaddingRange = tuple[int, int]
"""First and last stored value of the padding."""
ValueTransform = Callable[[npt.NDArray[Any]], FloatPixels]
"""An elementwise function of stored values: each result depends on one value only."""


class DicomImageReader:
    """`ports.images.ImageReader` in this process."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def read(self, instance: StoredInstance) -> Image:
        image = self.read_transformed(instance, read_whole_image)
        assert not isinstance(image, WindowedPixelData)
        return image

    def read_ahead(self, instances: Sequence[StoredInstance], transform: InputTransform) -> Iterator[ModelInput | PixelsUnreadable]:
        for instance in instances:
            try:
                decoded = self.read_transformed(instance, transform.decoder_transform)
            except PixelsUnreadable as error:
                yield error
            else:
                yield transform.to_device(decoded)

    def read_transformed(self, instance: StoredInstance, transform: DecoderTransform) -> DecodedImage:
        """Return the result of `transform` on the instance's image. PixelsUnreadable."""
        uid = instance.header.sop_instance_uid
        try:
            rendering = _build_rendering(*stored_values.read(self._store.read(instance.file)))
            require_contrast(rendering)
            return transform(rendering)
        except MemoryError:
            raise
        except PermanentError as error:
            raise PixelsUnreadable(f"instance {uid}: {error}", hint=error.hint) from error
        except Exception as error:  # codecs raise exceptions of any type on invalid bytes
            raise PixelsUnreadable(
                f"instance {uid}: its pixel data cannot be decoded ({type(error).__name__})",
                hint="is the file whole? dcmdump, and radclipd jobs retry after the sender has sent it again",
            ) from error


def render(dataset: Dataset) -> Image:
    """Return the image of a data set with file meta: float32 [H, W] in 0..1, bone bright, padding black. PixelsUnreadable."""
    return build_rendering(dataset)[:]


@dataclass(frozen=True)
class RescaleTransform:
    """The Modality LUT by slope and intercept (PS3.3 C.11.1.1.2): a ValueTransform."""

    slope: float
    intercept: float

    def __call__(self, stored: npt.NDArray[Any]) -> FloatPixels:
        values = stored.astype(np.float32)
        if (self.slope, self.intercept) != (1.0, 0.0):
            values *= np.float32(self.slope)
            values += np.float32(self.intercept)
        return values

    def invert(self, value: float) -> float:
        """Return the stored value that maps to `value`; NaN or infinite where the slope is zero."""
        return float(np.divide(value - self.intercept, self.slope))


@dataclass(frozen=True)
class ModalityLut:
    """`transform`: from stored values to values, a new float32 array. `signed`: its results may be negative by their type.

    `is_complete`: False where the header states a rescale that cannot be read.
    """

    transform: ValueTransform
    signed: bool
    is_complete: bool = True


@dataclass(frozen=True)
class DicomRendering:
    """An image computed from stored values [H, W] when rows are requested, so that it is never in float32 as a whole.

    `transform` maps stored values to values; `black`..`white` become 0..1, values outside are clipped.
    """

    stored: npt.NDArray[Any]
    padding: PaddingRange | None
    transform: ValueTransform
    black: float
    white: float

    @property
    def shape(self) -> tuple[int, ...]:
        """H and W."""
        return self.stored.shape

    @property
    def clipped(self) -> _ClippedRendering:
        """The image before normalisation, clipped to black..white. Linear operations may be applied before normalisation."""
        return _ClippedRendering(self)

    @property
    def windowed(self) -> WindowedPixelData | None:
        """The stored values with the window in their scale, where `transform` is a rescale of integers; else None."""
        if not isinstance(self.transform, RescaleTransform) or self.stored.dtype not in STORED_DTYPES:
            return None
        with np.errstate(all="ignore"):
            black, white = self.transform.invert(self.black), self.transform.invert(self.white)
        if not (isfinite(black) and isfinite(white)) or black == white:
            return None
        return WindowedPixelData(self.stored, Window(black, white, self.padding))

    def normalised(self, values: FloatPixels) -> FloatPixels:
        """Bring values from black..white to 0..1, in place."""
        values -= np.float32(self.black)
        values *= np.float32(1 / (self.white - self.black))
        return values

    def __getitem__(self, rows: slice) -> FloatPixels:
        return self.normalised(self.clipped[rows])

    def sample(self, edge: int) -> tuple[FloatPixels, npt.NDArray[np.bool_] | None]:
        """Return greys of about `edge` x `edge` pixels, evenly distributed, and which of them are padding; None: none is."""
        rows, columns = (slice(None, None, max(1, length // edge)) for length in self.shape)
        stored = self.stored[rows, columns]
        return replace(self, stored=stored)[:], None if self.padding is None else _mask_padding(stored, self.padding)


@dataclass(frozen=True)
class _ClippedRendering:
    rendering: DicomRendering

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rendering.shape

    def __getitem__(self, rows: slice) -> FloatPixels:
        stored = self.rendering.stored[rows]
        values = self.rendering.transform(stored)
        np.clip(values, *sorted((self.rendering.black, self.rendering.white)), out=values)
        if self.rendering.padding is not None:
            values[_mask_padding(stored, self.rendering.padding)] = self.rendering.black
        return values


def build_rendering(dataset: Dataset) -> DicomRendering:
    """Return the image of a data set with file meta, to be computed row by row. PixelsUnreadable."""
    return _build_rendering(dataset, stored_values.decode(dataset))


def _build_rendering(dataset: Dataset, stored: npt.NDArray[Any]) -> DicomRendering:
    if stored.ndim == 3:
        return DicomRendering(_convert_to_luminance(stored, dataset), None, np.copy, 0.0, 1.0)
    if get_text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return DicomRendering(apply_palette(stored, dataset), None, np.copy, 0.0, 1.0)
    padding = _find_padding(stored, dataset)
    transform, low, high = _build_voi_lut(stored, padding, _build_modality_lut(dataset), dataset)
    black, white = (high, low) if _is_inverse(dataset) else (low, high)
    return DicomRendering(stored, padding, transform, black, white)


def _find_padding(stored: npt.NDArray[Any], dataset: Dataset) -> PaddingRange | None:
    """Return the range of padding values (PS3.3 C.7.5.1.1.2); None where no pixel or every pixel is padding."""
    low, high = (get_integer(dataset, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if low is None:
        return None
    bits = get_integer(dataset, "BitsStored") or 8 * stored.dtype.itemsize
    first, last = sorted(
        decode_sign(value, signed=_is_signed(dataset), bits=bits) for value in (low, high if high is not None else low)
    )
    mask = _mask_padding(stored, (first, last))
    return (first, last) if mask.any() and not mask.all() else None


def _is_signed(dataset: Dataset) -> bool:
    return get_integer(dataset, "PixelRepresentation") == 1


def _mask_padding(stored: npt.NDArray[Any], padding: PaddingRange) -> npt.NDArray[np.bool_]:
    first, last = padding
    return (stored >= first) & (stored <= last)


def _build_modality_lut(dataset: Dataset) -> ModalityLut:
    """Return the Modality LUT: the first table, else the rescale (PS3.3 C.11.1). A rescale that cannot be meant is left out."""
    table = _find_table(dataset, "ModalityLUTSequence")
    if table is not None:
        return ModalityLut(partial(table.look_up, signed=_is_signed(dataset)), signed=False)
    signed = _is_signed(dataset)
    slopes, intercepts = (get_decimals(dataset, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = slopes[0] if slopes else 1.0, intercepts[0] if intercepts else 0.0
    if slope is None or intercept is None:
        return ModalityLut(RescaleTransform(1.0, 0.0), signed=signed, is_complete=False)
    return ModalityLut(RescaleTransform(slope, intercept) if slope else RescaleTransform(1.0, 0.0), signed=signed)


def _find_table(dataset: Dataset, sequence: str) -> LookupTable | None:
    """Return the table of the first item that has one."""
    little_endian = is_little_endian(dataset)
    tables = (read_lookup_table(item, little_endian=little_endian) for item in get_items(dataset, sequence))
    return next((table for table in tables if table is not None), None)


def _build_voi_lut(
    stored: npt.NDArray[Any], padding: PaddingRange | None, modality: ModalityLut, dataset: Dataset
) -> tuple[ValueTransform, float, float]:
    """Return the VOI LUT: the first table, else the first window (PS3.3 C.11.2), else a range by percentiles.

    The results: a transform from stored values to values, and the lowest and highest value of the grey scale. A table or window
    counts in the values behind the Modality LUT: without all of that, neither can be applied.
    """
    transform = modality.transform
    table = _find_table(dataset, "VOILUTSequence") if modality.is_complete else None
    if table is not None:
        signed = table.is_ambiguous and (modality.signed or bool(transform(stored).min() < 0))
        return (lambda values: table.look_up(transform(values), signed=signed)), 0.0, table.full_scale
    window = _find_window(dataset) if modality.is_complete else None
    if window is None:
        return _blacken_if_uniform(transform, *_compute_robust_range(stored, padding, transform))
    centre, width = window
    function = get_text(dataset, "VOILUTFunction")
    if function == "SIGMOID":
        return lambda values: _apply_sigmoid(transform(values), centre, width), 0.0, 1.0
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1  # PS3.3 C.11.2.1.2.1
    return _blacken_if_uniform(transform, centre - width / 2, centre + width / 2)


def _find_window(dataset: Dataset) -> tuple[float, float] | None:
    """Return centre and width of the first window that has both."""
    pairs = zip(get_decimals(dataset, "WindowCenter"), get_decimals(dataset, "WindowWidth"), strict=False)
    return next(((centre, width) for centre, width in pairs if centre is not None and width is not None and width > 0), None)


def _blacken_if_uniform(transform: ValueTransform, low: float, high: float) -> tuple[ValueTransform, float, float]:
    """Return the transform and its range; for an image of a single value, a transform to black."""
    return (transform, low, high) if high > low else (lambda values: np.zeros(values.shape, dtype=np.float32), 0.0, 1.0)


def _apply_sigmoid(values: FloatPixels, centre: float, width: float) -> FloatPixels:
    with np.errstate(over="ignore"):
        odds = np.exp(np.float32(-4 / width) * (values - np.float32(centre)))
        return np.asarray(1 / (1 + odds), dtype=np.float32)


def _compute_robust_range(stored: npt.NDArray[Any], padding: PaddingRange | None, modality: ValueTransform) -> tuple[float, float]:
    visible = stored[~_mask_padding(stored, padding)] if padding is not None else stored.ravel()
    low, high = np.percentile(modality(visible[:: max(1, visible.size // 1_000_000)]), ROBUST_PERCENTILES)
    if high > low:
        return float(low), float(high)
    values = modality(visible)
    return float(values.min()), float(values.max())


def _is_inverse(dataset: Dataset) -> bool:
    """Tell whether low values are white: Photometric Interpretation, Presentation LUT Shape (PS3.3 C.7.6.3.1.2, C.11.6)."""
    return get_text(dataset, "PhotometricInterpretation") == "MONOCHROME1" or get_text(dataset, "PresentationLUTShape") == "INVERSE"


def _convert_to_luminance(stored: npt.NDArray[Any], dataset: Dataset) -> Image:
    """Return the luminance of a colour secondary capture, already decoded to RGB."""
    bits = get_integer(dataset, "BitsStored") or 8 * stored.dtype.itemsize
    grey = stored.astype(np.float32) @ LUMINANCE / np.float32(2**bits - 1)
    return np.asarray(np.clip(grey, 0, 1), dtype=np.float32)
