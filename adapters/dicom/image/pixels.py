"""Stored bits -> an image as a radiologist would see it, in float32 without an 8-bit detour.

decode -> pixel padding masked -> Modality LUT -> VOI LUT -> presentation -> 0..1 (PS3.3 C.11.1, C.11.2, C.11.6; PS3.4 N.2).
MONOCHROME1 and Presentation LUT Shape INVERSE invert once, after the VOI, also where a header states both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from adapters.dicom.image import stored_values
from adapters.ipc.decoded_image import DecodedImage, DecoderTransform, Window, WindowedPixelData, read_whole_image
from pipeline.domain import Image, StoredInstance
from pipeline.errors import PermanentError, PixelsUnreadable
from pipeline.ports.images import InputTransform, ModelInput
from pipeline.ports.services import ImageStore

RENDERING_VERSION = 1
"""Raised whenever the same file would give another image: what was kept of the old one is stale then."""
ROBUST_PERCENTILES = (0.5, 99.5)
"""Percentiles that stand for a window where the header has none."""
STORED_DTYPES = tuple(np.dtype(name) for name in ("uint8", "int8", "uint16", "int16"))
"""Of a grey film: in this machine's byte order, and each as it is in float32."""
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

FloatPixels = npt.NDArray[np.float32]
PaddingRange = tuple[int, int]
"""First and last of the stored values that stand for nothing seen."""
ValueTransform = Callable[[npt.NDArray[Any]], FloatPixels]
"""Value by value, whatever else is in the array."""


class DicomImageReader:
    """ports.ImageReader."""

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
        """Return what `transform` makes of its image. PixelsUnreadable."""
        uid = instance.header.sop_instance_uid
        try:
            return transform(_build_rendering(*stored_values.read(self._store.read(instance.file))))
        except PixelsUnreadable as error:
            raise PixelsUnreadable(f"instance {uid}: {error}", hint=error.hint) from error
        except PermanentError as error:
            raise PixelsUnreadable(f"instance {uid}: {error}", hint=error.hint) from error
        except Exception as error:  # codecs raise whatever the bytes make them stumble over
            raise PixelsUnreadable(
                f"instance {uid}: its pixel data cannot be decoded ({type(error).__name__})",
                hint="is the file whole? dcmdump, and radclipd quarantine retry after the sender has sent it again",
            ) from error


def render(dataset: Dataset) -> Image:
    """Return the image of a data set with file meta: float32 [H, W] in 0..1, bone bright, padding black. PixelsUnreadable."""
    return build_rendering(dataset)[:]


@dataclass(frozen=True)
class RescaleTransform:
    """Modality LUT by slope and intercept (PS3.3 C.11.1.1.2). A Tone."""

    slope: float
    intercept: float

    def __call__(self, stored: npt.NDArray[Any]) -> FloatPixels:
        film = stored.astype(np.float32)
        if (self.slope, self.intercept) != (1.0, 0.0):
            film *= np.float32(self.slope)
            film += np.float32(self.intercept)
        return film

    def invert(self, value: float) -> float:
        """Return the stored value that becomes this one; not a number, or infinite, where the slope is none."""
        return float(np.divide(value - self.intercept, self.slope))


@dataclass(frozen=True)
class DicomRendering:
    """An image that is made of its stored values [H, W] when rows of it are asked for, so that no whole film need be in float32.

    `tone` makes values of stored values; from `black` to `white` they become 0..1, and what lies beyond is clipped.
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
        """The same, of values from black to white: what only adds and multiplies may be done to them before they become 0..1."""
        return _ClippedRendering(self)

    @property
    def windowed(self) -> WindowedPixelData | None:
        """The stored values, where `tone` is but a rescale of integers: then the window is as well one of theirs."""
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


@dataclass(frozen=True)
class _ClippedRendering:
    rendering: DicomRendering

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rendering.shape

    def __getitem__(self, rows: slice) -> FloatPixels:
        stored = self.rendering.stored[rows]
        film = self.rendering.transform(stored)
        np.clip(film, *sorted((self.rendering.black, self.rendering.white)), out=film)
        if self.rendering.padding is not None:
            film[_mask_padding(stored, self.rendering.padding)] = self.rendering.black
        return film


def build_rendering(dataset: Dataset) -> DicomRendering:
    """Return the image of a data set with file meta, to be made row by row. PixelsUnreadable."""
    return _build_rendering(dataset, stored_values.decode(dataset))


def _build_rendering(dataset: Dataset, stored: npt.NDArray[Any]) -> DicomRendering:
    if stored.ndim == 3:
        return DicomRendering(_convert_to_luminance(stored, dataset), None, np.copy, 0.0, 1.0)
    padding = _find_padding(stored, dataset)
    tone, low, high = _build_voi_lut(stored, padding, _build_modality_lut(dataset), dataset)
    black, white = (high, low) if _is_inverse(dataset) else (low, high)
    return DicomRendering(stored, padding, tone, black, white)


def _find_padding(stored: npt.NDArray[Any], dataset: Dataset) -> PaddingRange | None:
    """Return which values say that the detector saw nothing (PS3.3 C.7.5.1.1.2); None where none or all of the film does."""
    low = dataset.get("PixelPaddingValue")
    if low is None:
        return None
    high = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((int(low), int(high if high is not None else low)))
    mask = _mask_padding(stored, (first, last))
    return (first, last) if mask.any() and not mask.all() else None


def _mask_padding(stored: npt.NDArray[Any], padding: PaddingRange) -> npt.NDArray[np.bool_]:
    first, last = padding
    return (stored >= first) & (stored <= last)


def _build_modality_lut(dataset: Dataset) -> ValueTransform:
    """Return the Modality LUT: sequence or rescale (PS3.3 C.11.1). It makes float32 of its own of stored values."""
    if dataset.get("ModalityLUTSequence"):
        return lambda stored: np.array(apply_modality_lut(stored, dataset), dtype=np.float32)
    return RescaleTransform(_get_decimal(dataset, "RescaleSlope", 1.0), _get_decimal(dataset, "RescaleIntercept", 0.0))


def _build_voi_lut(
    stored: npt.NDArray[Any], padding: PaddingRange | None, modality: ValueTransform, dataset: Dataset
) -> tuple[ValueTransform, float, float]:
    """Return the VOI LUT: sequence before window, the first of several (PS3.3 C.11.2); without either, a robust range.

    From stored values to values, and between which of them the greys lie.
    """
    if dataset.get("VOILUTSequence"):
        table = _build_voi_table(dataset.VOILUTSequence[0], has_negative=lambda: bool(modality(stored).min() < 0))
        return lambda some: table(modality(some)), 0.0, 1.0
    centre, width = _get_decimal(dataset, "WindowCenter", None), _get_decimal(dataset, "WindowWidth", None)
    if centre is None or width is None or width <= 0:
        return _blacken_if_uniform(modality, *_compute_robust_range(stored, padding, modality))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return lambda some: _apply_sigmoid(modality(some), centre, width), 0.0, 1.0
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1  # PS3.3 C.11.2.1.2.1
    return _blacken_if_uniform(modality, centre - width / 2, centre + width / 2)


def _blacken_if_uniform(transform: ValueTransform, low: float, high: float) -> tuple[ValueTransform, float, float]:
    """A film of one value becomes black."""
    return (transform, low, high) if high > low else (lambda some: np.zeros(some.shape, dtype=np.float32), 0.0, 1.0)


def _apply_sigmoid(film: FloatPixels, centre: float, width: float) -> FloatPixels:
    with np.errstate(over="ignore"):
        odds = np.exp(np.float32(-4 / width) * (film - np.float32(centre)))
        return np.asarray(1 / (1 + odds), dtype=np.float32)


def _build_voi_table(item: Dataset, *, has_negative: Callable[[], bool]) -> ValueTransform:
    """Look up each value; the table's own range is 0..1 (PS3.3 C.11.2.1.1). `below_zero` says whether any value is."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    content = item.LUTData
    table = np.frombuffer(content, "<u2") if isinstance(content, bytes) else np.asarray(content)
    table = table[: entries or 65536].astype(np.float32)
    first = first - 65536 if first > 32767 and has_negative() else first

    def looked_up(film: FloatPixels) -> FloatPixels:
        index = np.clip(np.rint(film).astype(np.int64) - first, 0, len(table) - 1)
        return np.asarray(np.clip(table[index] / np.float32(2**bits - 1), 0, 1), dtype=np.float32)

    return looked_up


def _compute_robust_range(stored: npt.NDArray[Any], padding: PaddingRange | None, modality: ValueTransform) -> tuple[float, float]:
    seen = stored[~_mask_padding(stored, padding)] if padding is not None else stored.ravel()
    low, high = np.percentile(modality(seen[:: max(1, seen.size // 1_000_000)]), ROBUST_PERCENTILES)
    if high > low:
        return float(low), float(high)
    every = modality(seen)
    return float(every.min()), float(every.max())


def _is_inverse(dataset: Dataset) -> bool:
    """White stands for low values, by Photometric Interpretation or by Presentation LUT Shape (PS3.3 C.7.6.3.1.2, C.11.6)."""
    monochrome1 = str(dataset.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1"
    return monochrome1 or str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"


def _convert_to_luminance(stored: npt.NDArray[Any], dataset: Dataset) -> Image:
    """A secondary capture in colour (the decoder has made RGB of it): its luminance."""
    full = np.float32(2 ** int(dataset.BitsStored) - 1)
    grey = stored[..., :3].astype(np.float32) @ LUMINANCE / full
    return np.asarray(np.clip(grey, 0, 1), dtype=np.float32)


def _get_decimal(dataset: Dataset, keyword: str, default: float | None) -> Any:
    """Return the first value of a DS element as float, or `absent`."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return default
    first = value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value
    number = float(first)
    return number if np.isfinite(number) else default
