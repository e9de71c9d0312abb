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
from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable, Refused
from pipeline.ports.images import Landing, Seen, Sight, Window, Windowed, copied, whole
from pipeline.ports.outside import ImageStore

RENDERING = 1
"""Raised whenever the same file would give another image: what was kept of the old one is stale then."""
ROBUST_RANGE = (0.5, 99.5)
"""Percentiles that stand for a window where the header has none."""
STORED = tuple(np.dtype(name) for name in ("uint8", "int8", "uint16", "int16"))
"""Of a grey film: in this machine's byte order, and each as it is in float32."""
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

Film = npt.NDArray[np.float32]
Padding = tuple[int, int]
"""First and last of the stored values that stand for nothing seen."""
Tone = Callable[[npt.NDArray[Any]], Film]
"""Value by value, whatever else is in the array."""


class DicomImageReader:
    """ports.ImageReader."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def read(self, instance: StoredInstance) -> Image:
        image = self.seen(instance, whole)
        assert not isinstance(image, Windowed)
        return image

    def read_ahead(
        self, instances: Sequence[StoredInstance], sight: Sight, land: Landing = copied
    ) -> Iterator[Seen | PixelsUnreadable]:
        for instance in instances:
            try:
                seen = self.seen(instance, sight)
            except PixelsUnreadable as error:
                yield error
            else:
                yield land(seen)

    def seen(self, instance: StoredInstance, sight: Sight) -> Image | Windowed:
        """Return what `sight` makes of its image. PixelsUnreadable."""
        uid = instance.header.sop_instance_uid
        try:
            return sight(_rendering(*stored_values.read(self._store.read(instance.file))))
        except PixelsUnreadable as error:
            raise PixelsUnreadable(f"instance {uid}: {error}", hint=error.hint) from error
        except Refused as error:
            raise PixelsUnreadable(f"instance {uid}: {error}", hint=error.hint) from error
        except Exception as error:  # codecs raise whatever the bytes make them stumble over
            raise PixelsUnreadable(
                f"instance {uid}: its pixel data cannot be decoded ({type(error).__name__})",
                hint="is the file whole? dcmdump, and radclipd quarantine retry after the sender has sent it again",
            ) from error


def render(dataset: Dataset) -> Image:
    """Return the image of a data set with file meta: float32 [H, W] in 0..1, bone bright, padding black. PixelsUnreadable."""
    return rendering(dataset)[:]


@dataclass(frozen=True)
class Rescale:
    """Modality LUT by slope and intercept (PS3.3 C.11.1.1.2). A Tone."""

    slope: float
    intercept: float

    def __call__(self, stored: npt.NDArray[Any]) -> Film:
        film = stored.astype(np.float32)
        if (self.slope, self.intercept) != (1.0, 0.0):
            film *= np.float32(self.slope)
            film += np.float32(self.intercept)
        return film

    def before(self, value: float) -> float:
        """Return the stored value that becomes this one; not a number, or infinite, where the slope is none."""
        return float(np.divide(value - self.intercept, self.slope))


@dataclass(frozen=True)
class Rendering:
    """An image that is made of its stored values [H, W] when rows of it are asked for, so that no whole film need be in float32.

    `tone` makes values of stored values; from `black` to `white` they become 0..1, and what lies beyond is clipped.
    """

    stored: npt.NDArray[Any]
    padding: Padding | None
    tone: Tone
    black: float
    white: float

    @property
    def shape(self) -> tuple[int, ...]:
        """H and W."""
        return self.stored.shape

    @property
    def clipped(self) -> _Clipped:
        """The same, of values from black to white: what only adds and multiplies may be done to them before they become 0..1."""
        return _Clipped(self)

    @property
    def windowed(self) -> Windowed | None:
        """The stored values, where `tone` is but a rescale of integers: then the window is as well one of theirs."""
        if not isinstance(self.tone, Rescale) or self.stored.dtype not in STORED:
            return None
        with np.errstate(all="ignore"):
            black, white = self.tone.before(self.black), self.tone.before(self.white)
        if not (isfinite(black) and isfinite(white)) or black == white:
            return None
        return Windowed(self.stored, Window(black, white, self.padding))

    def levelled(self, values: Film) -> Film:
        """Bring values from black..white to 0..1, in place."""
        values -= np.float32(self.black)
        values *= np.float32(1 / (self.white - self.black))
        return values

    def __getitem__(self, rows: slice) -> Film:
        return self.levelled(self.clipped[rows])


@dataclass(frozen=True)
class _Clipped:
    of: Rendering

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape

    def __getitem__(self, rows: slice) -> Film:
        stored = self.of.stored[rows]
        film = self.of.tone(stored)
        np.clip(film, *sorted((self.of.black, self.of.white)), out=film)
        if self.of.padding is not None:
            film[_within(stored, self.of.padding)] = self.of.black
        return film


def rendering(dataset: Dataset) -> Rendering:
    """Return the image of a data set with file meta, to be made row by row. PixelsUnreadable."""
    return _rendering(dataset, stored_values.of(dataset))


def _rendering(dataset: Dataset, stored: npt.NDArray[Any]) -> Rendering:
    if stored.ndim == 3:
        return Rendering(_of_colour(stored, dataset), None, np.copy, 0.0, 1.0)
    padding = _padding(stored, dataset)
    tone, low, high = _voi(stored, padding, _modality(dataset), dataset)
    black, white = (high, low) if _is_inverse(dataset) else (low, high)
    return Rendering(stored, padding, tone, black, white)


def _padding(stored: npt.NDArray[Any], dataset: Dataset) -> Padding | None:
    """Return which values say that the detector saw nothing (PS3.3 C.7.5.1.1.2); None where none or all of the film does."""
    low = dataset.get("PixelPaddingValue")
    if low is None:
        return None
    high = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((int(low), int(high if high is not None else low)))
    mask = _within(stored, (first, last))
    return (first, last) if mask.any() and not mask.all() else None


def _within(stored: npt.NDArray[Any], padding: Padding) -> npt.NDArray[np.bool_]:
    first, last = padding
    return (stored >= first) & (stored <= last)


def _modality(dataset: Dataset) -> Tone:
    """Return the Modality LUT: sequence or rescale (PS3.3 C.11.1). It makes float32 of its own of stored values."""
    if dataset.get("ModalityLUTSequence"):
        return lambda stored: np.array(apply_modality_lut(stored, dataset), dtype=np.float32)
    return Rescale(_decimal(dataset, "RescaleSlope", 1.0), _decimal(dataset, "RescaleIntercept", 0.0))


def _voi(stored: npt.NDArray[Any], padding: Padding | None, modality: Tone, dataset: Dataset) -> tuple[Tone, float, float]:
    """Return the VOI LUT: sequence before window, the first of several (PS3.3 C.11.2); without either, a robust range.

    From stored values to values, and between which of them the greys lie.
    """
    if dataset.get("VOILUTSequence"):
        table = _voi_table(dataset.VOILUTSequence[0], below_zero=lambda: bool(modality(stored).min() < 0))
        return lambda some: table(modality(some)), 0.0, 1.0
    centre, width = _decimal(dataset, "WindowCenter", None), _decimal(dataset, "WindowWidth", None)
    if centre is None or width is None or width <= 0:
        return _between(modality, *_robust(stored, padding, modality))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return lambda some: _sigmoid(modality(some), centre, width), 0.0, 1.0
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1  # PS3.3 C.11.2.1.2.1
    return _between(modality, centre - width / 2, centre + width / 2)


def _between(tone: Tone, low: float, high: float) -> tuple[Tone, float, float]:
    """A film of one value becomes black."""
    return (tone, low, high) if high > low else (lambda some: np.zeros(some.shape, dtype=np.float32), 0.0, 1.0)


def _sigmoid(film: Film, centre: float, width: float) -> Film:
    with np.errstate(over="ignore"):
        odds = np.exp(np.float32(-4 / width) * (film - np.float32(centre)))
        return np.asarray(1 / (1 + odds), dtype=np.float32)


def _voi_table(item: Dataset, *, below_zero: Callable[[], bool]) -> Tone:
    """Look up each value; the table's own range is 0..1 (PS3.3 C.11.2.1.1). `below_zero` says whether any value is."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    content = item.LUTData
    table = np.frombuffer(content, "<u2") if isinstance(content, bytes) else np.asarray(content)
    table = table[: entries or 65536].astype(np.float32)
    first = first - 65536 if first > 32767 and below_zero() else first

    def looked_up(film: Film) -> Film:
        index = np.clip(np.rint(film).astype(np.int64) - first, 0, len(table) - 1)
        return np.asarray(np.clip(table[index] / np.float32(2**bits - 1), 0, 1), dtype=np.float32)

    return looked_up


def _robust(stored: npt.NDArray[Any], padding: Padding | None, modality: Tone) -> tuple[float, float]:
    seen = stored[~_within(stored, padding)] if padding is not None else stored.ravel()
    low, high = np.percentile(modality(seen[:: max(1, seen.size // 1_000_000)]), ROBUST_RANGE)
    if high > low:
        return float(low), float(high)
    every = modality(seen)
    return float(every.min()), float(every.max())


def _is_inverse(dataset: Dataset) -> bool:
    """White stands for low values, by Photometric Interpretation or by Presentation LUT Shape (PS3.3 C.7.6.3.1.2, C.11.6)."""
    monochrome1 = str(dataset.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1"
    return monochrome1 or str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"


def _of_colour(stored: npt.NDArray[Any], dataset: Dataset) -> Image:
    """A secondary capture in colour (the decoder has made RGB of it): its luminance."""
    full = np.float32(2 ** int(dataset.BitsStored) - 1)
    grey = stored[..., :3].astype(np.float32) @ LUMINANCE / full
    return np.asarray(np.clip(grey, 0, 1), dtype=np.float32)


def _decimal(dataset: Dataset, keyword: str, absent: float | None) -> Any:
    """Return the first value of a DS element as float, or `absent`."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return absent
    first = value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value
    number = float(first)
    return number if np.isfinite(number) else absent
