"""Films as the browser gets them: the stored values, 16 bits a pixel, with the window that makes the encoder's image of them.

The browser computes the same greys as `adapters.dicom.image.pixels`: where that image is more than a window on stored values
(a VOI LUT Sequence, SIGMOID, colour), the rendered image itself takes the place of the stored values, with 65 536 greys.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.ipc.decoded_image import DecodedImage, DeferredImage, HostTransform, WindowedPixelData
from pipeline.domain import Image, PixelSpacing, StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader

FULL_SCALE = 65535
PREPARING_THREADS = 3
"""A film that is looked at, and the next ones."""
GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""A gzip header, in the words of zlib."""


@dataclass(frozen=True, slots=True)
class FilmBytes:
    """A film for the browser. `description`: JSON; `content`: gzip of two byte planes, see `encode_film`."""

    description: str
    content: bytes


class FilmCache:
    """The films that were asked for last, encoded. Thread-safe; a film is decoded in a process of the pool."""

    def __init__(
        self,
        reader: ImageReader,
        *,
        max_bytes: int,
        read_spacing: Callable[[StoredInstance], PixelSpacing | None] = lambda instance: None,
    ) -> None:
        """`max_bytes`: of all encoded films; the last one is kept, whatever its size."""
        self._reader, self._max_bytes, self._read_spacing = reader, max_bytes, read_spacing
        self._lock = threading.Lock()
        self._films: OrderedDict[str, FilmBytes] = OrderedDict()
        self._pending: dict[str, Future[FilmBytes]] = {}
        self._threads = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="film")

    def read(self, instance: StoredInstance) -> FilmBytes:
        """Return the film of an instance. PixelsUnreadable."""
        return self._request_film(instance).result()

    def prepare(self, instances: Sequence[StoredInstance]) -> None:
        """Begin to decode films that will be asked for next; a film that cannot be read says so when it is asked for."""
        for instance in instances:
            self._request_film(instance)

    def close(self) -> None:
        """Begin no further film."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _request_film(self, instance: StoredInstance) -> Future[FilmBytes]:
        """Return the film, or its decoding under way: several who ask for one film at a time have it decoded once."""
        key = instance.file.sha256
        with self._lock:
            if key in self._films:
                self._films.move_to_end(key)
                known: Future[FilmBytes] = Future()
                known.set_result(self._films[key])
                return known
            if key not in self._pending:
                self._pending[key] = self._threads.submit(self._build_film, instance)
            return self._pending[key]

    def _build_film(self, instance: StoredInstance) -> FilmBytes:
        key = instance.file.sha256
        try:
            [decoded] = self._reader.read_ahead([instance], HostTransform(read_display_values))
            if isinstance(decoded, PixelsUnreadable):
                raise decoded
            film = encode_film(decoded, self._read_spacing(instance))
            with self._lock:
                self._keep_film(key, film)
            return film
        finally:
            with self._lock:
                self._pending.pop(key, None)

    def _keep_film(self, key: str, film: FilmBytes) -> None:
        self._films[key] = film
        size = sum(len(each.content) for each in self._films.values())
        while size > self._max_bytes and len(self._films) > 1:
            size -= len(self._films.popitem(last=False)[1].content)


def read_display_values(image: Image | DeferredImage) -> DecodedImage:
    """Return stored values with their window where a window is all of the rendering, else the rendered image: DecoderTransform."""
    if isinstance(image, np.ndarray):
        return image
    return image.windowed or image[:]


def encode_film(decoded: DecodedImage, spacing: PixelSpacing | None = None) -> FilmBytes:
    """Return the film: in each row the differences of neighbours modulo 65 536, the low bytes before the high bytes, in gzip."""
    values, black, white, padding = _list_values(decoded)
    rows, columns = values.shape
    differences = values.copy()
    differences[:, 1:] -= values[:, :-1]
    planes = differences.astype("<u2").view(np.uint8).reshape(rows, columns, 2)
    content = planes[..., 0].tobytes() + planes[..., 1].tobytes()
    description: dict[str, Any] = {"rows": rows, "columns": columns, "black": black, "white": white, "padding": padding}
    description |= {"low": int(values.min()), "high": int(values.max())}
    description["spacing"] = asdict(spacing) if spacing is not None else None
    return FilmBytes(json.dumps(description), _compress_planes(content))


def _compress_planes(content: bytes) -> bytes:
    """Return gzip by Huffman codes alone: differences of noise hold no repeats, and a search for them takes five times as long."""
    coder = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW_BITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(content) + coder.flush()


def _list_values(decoded: DecodedImage) -> tuple[npt.NDArray[np.uint16], float, float, list[int] | None]:
    """Return values uint16 [H, W], the value of black, the value of white, and first and last value of the padding."""
    if not isinstance(decoded, WindowedPixelData):
        return np.rint(np.clip(decoded, 0, 1) * FULL_SCALE).astype(np.uint16), 0.0, float(FULL_SCALE), None
    lowest = min(0, int(np.iinfo(decoded.stored.dtype).min))
    values = (decoded.stored.astype(np.int32) - lowest).astype(np.uint16)
    window = decoded.window
    padding = [int(edge) - lowest for edge in window.padding] if window.padding is not None else None
    return values, window.black - lowest, window.white - lowest, padding
