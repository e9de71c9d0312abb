"""Stored bits -> an image as a radiologist would see it, in float32 without an 8-bit detour.

decode -> pixel padding masked -> Modality LUT -> VOI LUT -> presentation -> 0..1 (PS3.3 C.11.1, C.11.2, C.11.6; PS3.4 N.2).
MONOCHROME1 and Presentation LUT Shape INVERSE invert once, after the VOI, also where a header states both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGExtended12Bit, JPEGLosslessSV1

from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable, Refused
from pipeline.image_ports import Sight
from pipeline.ports import ImageStore

RENDERING = 1
"""Raised whenever the same file would give another image: what was kept of the old one is stale then."""
LARGEST_SIDE, LARGEST_PIXELS = 30_000, 200_000_000
"""Far above the largest detector: what is larger is a wrong header or a decompression bomb."""
PLUGINS = ("pyjpegls", "pylibjpeg", "gdcm", "pillow", "pydicom")
"""In this order, whatever pydicom's own is: the same film gives the same pixels on every host. pylibjpeg-openjpeg reads JPEG 2000
and HTJ2K, gdcm JPEG lossless and baseline, pydicom itself RLE."""
ROBUST_RANGE = (0.5, 99.5)
"""Percentiles that stand for a window where the header has none."""
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

Film = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Tone = Callable[[npt.NDArray[Any]], Film]
"""Value by value, whatever else is in the array."""


class DicomImageReader:
    """ports.ImageReader."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    def read(self, instance: StoredInstance) -> Image:
        return self.seen(instance, None)

    def read_ahead(self, instances: Sequence[StoredInstance], sight: Sight) -> Iterator[Image | PixelsUnreadable]:
        for instance in instances:
            try:
                yield self.seen(instance, sight)
            except PixelsUnreadable as error:
                yield error

    def seen(self, instance: StoredInstance, sight: Sight | None) -> Image:
        """Return what `sight` makes of its image, or the image itself. PixelsUnreadable."""
        uid = instance.header.sop_instance_uid
        try:
            image = rendering(dcmread(BytesIO(self._store.read(instance.file))))
            return sight(image) if sight else image[:]
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
class Rendering:
    """An image that is made of its stored values [H, W] when rows of it are asked for, so that no whole film need be in float32."""

    stored: npt.NDArray[Any]
    padding: Mask | None
    grey: Tone  # stored values to 0..1
    inverse: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """H and W."""
        return self.stored.shape

    def __getitem__(self, rows: slice) -> Film:
        film = self.grey(self.stored[rows])
        if self.inverse:
            np.subtract(1, film, out=film)
        if self.padding is not None:
            film[self.padding[rows]] = 0
        return film


def rendering(dataset: Dataset) -> Rendering:
    """Return the image of a data set with file meta, to be made row by row. PixelsUnreadable."""
    _refuse_absurd(dataset)
    stored = _decode(dataset)
    if stored.ndim == 3:
        return Rendering(_of_colour(stored, dataset), None, np.copy, inverse=False)
    padding = _padding(stored, dataset)
    modality = _modality(dataset)
    voi = _voi(stored, padding, modality, dataset)
    return Rendering(stored, padding, lambda some: voi(modality(some)), inverse=_is_inverse(dataset))


def _refuse_absurd(dataset: Dataset) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if "PixelData" not in dataset:
        raise PixelsUnreadable("no pixel data", hint="the sender must send the image itself")
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE and rows * columns <= LARGEST_PIXELS):
        raise PixelsUnreadable(f"{rows} rows x {columns} columns is no radiograph", hint="the header is wrong; see the sender")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise PixelsUnreadable(f"{dataset.NumberOfFrames} frames where one is expected", hint="send single-frame radiographs")


def _decode(dataset: Dataset) -> npt.NDArray[Any]:
    """Return stored values: [H, W], or [H, W, 3] for colour. Tries the plug-ins in our order."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        return _native(dataset)
    decoder = get_decoder(syntax)
    failure: Exception | None = None
    for plugin in PLUGINS:
        if plugin not in decoder.available_plugins:
            continue
        try:
            return np.asarray(decoder.as_array(dataset, raw=False, decoding_plugin=plugin)[0])
        except Exception as error:  # the next plug-in may know this dialect
            failure = failure or error
    raise PixelsUnreadable(f"{syntax.name} cannot be decoded ({type(failure).__name__})", hint=_codec_hint(syntax)) from failure


def _native(dataset: Dataset) -> npt.NDArray[Any]:
    wanted = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel or 1) * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) < wanted:
        raise PixelsUnreadable(f"pixel data has {len(dataset.PixelData)} of {wanted} bytes: it is truncated", hint=_SEND_AGAIN)
    signed = bool(int(dataset.get("PixelRepresentation") or 0))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    options: Any = {"correct_unused_bits": signed}
    pixels = np.asarray(decoder.as_array(dataset, raw=False, **options)[0])
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if stored < allocated and not signed:
        pixels = pixels & pixels.dtype.type(2**stored - 1)  # above the stored bits old scanners kept overlays
    return pixels


_SEND_AGAIN = "send the instance again under a new SOP Instance UID, or repair the sender's copy"


def _codec_hint(syntax: str) -> str:
    if syntax == JPEGExtended12Bit:
        return "12-bit lossy JPEG needs the GPL codec: pip install radclipd[gpl-codecs]"
    return "is the file whole? otherwise let the archive send it uncompressed or as " + JPEGLosslessSV1.name


def _padding(stored: npt.NDArray[Any], dataset: Dataset) -> Mask | None:
    """Return where the detector saw nothing (PS3.3 C.7.5.1.1.2), or None."""
    low = dataset.get("PixelPaddingValue")
    if low is None:
        return None
    high = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((int(low), int(high if high is not None else low)))
    mask: Mask = (stored >= first) & (stored <= last)
    return mask if mask.any() and not mask.all() else None


def _modality(dataset: Dataset) -> Tone:
    """Return the Modality LUT: sequence or rescale (PS3.3 C.11.1). It makes float32 of its own of stored values."""
    if dataset.get("ModalityLUTSequence"):
        return lambda stored: np.array(apply_modality_lut(stored, dataset), dtype=np.float32)
    slope, intercept = _decimal(dataset, "RescaleSlope", 1.0), _decimal(dataset, "RescaleIntercept", 0.0)

    def rescaled(stored: npt.NDArray[Any]) -> Film:
        film = stored.astype(np.float32)
        if (slope, intercept) != (1.0, 0.0):
            film *= np.float32(slope)
            film += np.float32(intercept)
        return film

    return rescaled


def _voi(stored: npt.NDArray[Any], padding: Mask | None, modality: Tone, dataset: Dataset) -> Tone:
    """Return the VOI LUT: sequence before window, the first of several (PS3.3 C.11.2); without either, a robust range. To 0..1."""
    if dataset.get("VOILUTSequence"):
        return _voi_table(dataset.VOILUTSequence[0], below_zero=lambda: bool(modality(stored).min() < 0))
    centre, width = _decimal(dataset, "WindowCenter", None), _decimal(dataset, "WindowWidth", None)
    if centre is None or width is None or width <= 0:
        low, high = _robust(stored, padding, modality)
        return lambda film: _stretched(film, low, high)
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        return lambda film: _sigmoid(film, centre, width)
    if function != "LINEAR_EXACT" and width > 1:
        centre, width = centre - 0.5, width - 1  # PS3.3 C.11.2.1.2.1
    return lambda film: _stretched(film, centre - width / 2, centre + width / 2)


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


def _robust(stored: npt.NDArray[Any], padding: Mask | None, modality: Tone) -> tuple[float, float]:
    seen = stored[~padding] if padding is not None else stored.ravel()
    low, high = np.percentile(modality(seen[:: max(1, seen.size // 1_000_000)]), ROBUST_RANGE)
    if high > low:
        return float(low), float(high)
    every = modality(seen)
    return float(every.min()), float(every.max())


def _stretched(film: Film, low: float, high: float) -> Film:
    """Map low..high to 0..1 in place and clip; a film of one value becomes black."""
    if high <= low:
        return np.zeros_like(film)
    film -= np.float32(low)
    film *= np.float32(1 / (high - low))
    return np.clip(film, 0, 1, out=film)


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
