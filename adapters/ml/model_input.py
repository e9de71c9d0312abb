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
from pipeline.ports.images import DecoderTransform, DeviceTransfer, ModelInput, Window, WindowedPixelData, copy_to_host

_log = structlog.get_logger("radclipd.gpu")


class ModelInputBuilder(Protocol):
    """Where a film becomes a grey square."""

    @property
    def decoder_transform(self) -> DecoderTransform:
        """What is left of a film by the process that decodes it."""

    @property
    def to_device(self) -> DeviceTransfer:
        """Where that goes as soon as it is there."""

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        """Return float32 [n, 1, size, size] in 0..1 for n images, or for what landed of them. ImageUnusable."""


def choose_model_input_builder(preprocess: Preprocess, device: torch.device) -> ModelInputBuilder:
    """Return those of the device, where it makes what the host makes; else, with a warning, the host's."""
    if device.type == "cpu":
        return HostModelInputBuilder(preprocess)
    made = DeviceModelInputBuilder(preprocess, device)
    if reason := _describe_host_difference(made, preprocess):
        _log.warning("films are windowed and resized on the host, not on the device", device=str(device), reason=reason)
        return HostModelInputBuilder(preprocess)
    return made


class HostModelInputBuilder:
    """Squares, made by the processes that decode."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    @property
    def decoder_transform(self) -> DecoderTransform:
        return self._preprocess.make_model_input_array

    @property
    def to_device(self) -> DeviceTransfer:
        return copy_to_host

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        return torch.stack([self._preprocess.make_model_input(image) for image in decoded])


@dataclass(frozen=True, slots=True)
class DeviceValues:
    """What goes to a device: stored values and their window, or a grey square. `there`: when it has arrived; None: it has."""

    values: torch.Tensor
    window: Window | None
    copy_done: torch.cuda.Event | None = None

    def wait_for_values(self) -> torch.Tensor:
        """Return the values for the current stream, which waits for them; the host does not."""
        if self.copy_done is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.copy_done)
            self.values.record_stream(stream)  # its memory is another stream's: not to be used again before this one is done
        return self.values


class DeviceModelInputBuilder:
    """Squares, made on the device. On a CPU it is the same without page-locked memory and streams."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._preprocess, self._device = preprocess, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call] # torch's

    @property
    def decoder_transform(self) -> DecoderTransform:
        return cast(
            "DecoderTransform", self._preprocess.defer_resize
        )  # the windowed film that it gives is the one that it was given

    def to_device(self, decoded: Image | WindowedPixelData) -> DeviceValues:
        array, window = (decoded.stored, decoded.window) if isinstance(decoded, WindowedPixelData) else (decoded, None)
        host = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=self._stream is not None)
        host.numpy()[:] = array
        if self._stream is None:
            return DeviceValues(host, window)
        with torch.cuda.stream(self._stream):  # torch keeps the page-locked memory until the copy is done, then for the next film
            return DeviceValues(host.to(self._device, non_blocking=True), window, self._stream.record_event())

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        return torch.stack([self._make_model_input(each) for each in decoded])

    def _make_model_input(self, decoded: Image | DeviceValues) -> torch.Tensor:
        landed = decoded if isinstance(decoded, DeviceValues) else self.to_device(self._preprocess.make_model_input_array(decoded))
        values = landed.wait_for_values()
        return values[None] if landed.window is None else resize_on_device.make_model_input(values, landed.window, self._preprocess)


def _describe_host_difference(builder: DeviceModelInputBuilder, preprocess: Preprocess) -> str:
    """Say how the squares of two films differ from the host's, if they do: signed and unsigned, either polarity."""
    ramp = np.add.outer(np.arange(601) * 5, np.arange(501) * 3)
    films = (
        WindowedPixelData(ramp.astype(np.uint16), Window(4000.0, 300.0)),
        WindowedPixelData((ramp - 2000).astype(np.int16), Window(-1500.0, 2000.0)),
    )
    for film in films:
        black, white = film.window.black, film.window.white
        host = preprocess.make_model_input_array(((film.stored - np.float32(black)) / np.float32(white - black)).clip(0, 1))
        try:
            found = builder.build([builder.to_device(film)])[0, 0].cpu().numpy()
        except RuntimeError as error:  # what torch cannot do on this device
            return (str(error).splitlines() or [type(error).__name__])[0]
        if (difference := float(np.abs(found - host).max())) > resize_on_device.TOLERANCE:
            return f"greys of {film.stored.dtype.name} differ by {difference:.2g}"
    return ""
