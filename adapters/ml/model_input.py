"""From films to the encoder's grey squares: on the host, where films are decoded, or on the device that encodes them.

A card is fed the integers of the file. They go up as soon as a film is decoded, from page-locked memory and on a stream of their
own, so that those of the next batch are on their way while this one is encoded; window and resize are the card's. On a CPU the
decoders make the squares themselves, 200 KB a film, band by band in their caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import structlog
import torch

from models.images import resize_on_device
from models.images.preprocess import Preprocess
from pipeline.domain import Image
from pipeline.ports.images import Landing, Seen, Sight, Window, Windowed, copied

_log = structlog.get_logger("radclipd.gpu")


class Squares(Protocol):
    """Where a film becomes a grey square."""

    @property
    def sight(self) -> Sight:
        """What is left of a film by the process that decodes it."""

    @property
    def land(self) -> Landing:
        """Where that goes as soon as it is there."""

    def of(self, seen: Sequence[Image | Seen]) -> torch.Tensor:
        """Return float32 [n, 1, size, size] in 0..1 for n images, or for what landed of them. ImageUnusable."""


def squares_for(preprocess: Preprocess, device: torch.device) -> Squares:
    """Return those of the device, where it makes what the host makes; else, with a warning, the host's."""
    if device.type == "cpu":
        return HostSquares(preprocess)
    made = DeviceSquares(preprocess, device)
    if reason := _unlike_the_host(made, preprocess):
        _log.warning("films are windowed and resized on the host, not on the device", device=str(device), reason=reason)
        return HostSquares(preprocess)
    return made


class HostSquares:
    """Squares, made by the processes that decode."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    @property
    def sight(self) -> Sight:
        return self._preprocess.reduced

    @property
    def land(self) -> Landing:
        return copied

    def of(self, seen: Sequence[Image | Seen]) -> torch.Tensor:
        return torch.stack([self._preprocess.square(image) for image in seen])


@dataclass(frozen=True, slots=True)
class Landed:
    """What goes to a device: stored values and their window, or a grey square. `there`: when it has arrived; None: it has."""

    values: torch.Tensor
    window: Window | None
    there: torch.cuda.Event | None = None

    def arrived(self) -> torch.Tensor:
        """Return the values for the current stream, which waits for them; the host does not."""
        if self.there is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.there)
            self.values.record_stream(stream)  # its memory is another stream's: not to be used again before this one is done
        return self.values


class DeviceSquares:
    """Squares, made on the device. On a CPU it is the same without page-locked memory and streams."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._preprocess, self._device = preprocess, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call] # torch's

    @property
    def sight(self) -> Sight:
        return cast("Sight", self._preprocess.deferred)  # the windowed film that it gives is the one that it was given

    def land(self, seen: Image | Windowed) -> Landed:
        array, window = (seen.stored, seen.window) if isinstance(seen, Windowed) else (seen, None)
        host = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=self._stream is not None)
        host.numpy()[:] = array
        if self._stream is None:
            return Landed(host, window)
        with torch.cuda.stream(self._stream):  # torch keeps the page-locked memory until the copy is done, then for the next film
            return Landed(host.to(self._device, non_blocking=True), window, self._stream.record_event())

    def of(self, seen: Sequence[Image | Seen]) -> torch.Tensor:
        return torch.stack([self._square(each) for each in seen])

    def _square(self, seen: Image | Landed) -> torch.Tensor:
        landed = seen if isinstance(seen, Landed) else self.land(self._preprocess.reduced(seen))
        values = landed.arrived()
        return values[None] if landed.window is None else resize_on_device.square(values, landed.window, self._preprocess)


def _unlike_the_host(squares: DeviceSquares, preprocess: Preprocess) -> str:
    """Say how the squares of two films differ from the host's, if they do: signed and unsigned, either polarity."""
    ramp = np.add.outer(np.arange(601) * 5, np.arange(501) * 3)
    films = (
        Windowed(ramp.astype(np.uint16), Window(4000.0, 300.0)),
        Windowed((ramp - 2000).astype(np.int16), Window(-1500.0, 2000.0)),
    )
    for film in films:
        black, white = film.window.black, film.window.white
        host = preprocess.reduced(((film.stored - np.float32(black)) / np.float32(white - black)).clip(0, 1))
        try:
            found = squares.of([squares.land(film)])[0, 0].cpu().numpy()
        except RuntimeError as error:  # what torch cannot do on this device
            return (str(error).splitlines() or [type(error).__name__])[0]
        if (difference := float(np.abs(found - host).max())) > resize_on_device.TOLERANCE:
            return f"greys of {film.stored.dtype.name} differ by {difference:.2g}"
    return ""
