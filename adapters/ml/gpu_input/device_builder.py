"""Model inputs made on the device.

The GPU gets the integers of the file. They are copied as soon as an image is decoded, from page-locked memory and on a stream of
its own, so that the copies of the next batch overlap with the encoder's work on this one. The GPU applies window and resize.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from adapters.ipc.decoded_image import DecodedImage, DecoderTransform, Window, WindowedPixelData
from models.images import resize_on_device
from models.images.preprocess import Preprocess
from pipeline.domain import Image
from pipeline.ports.images import ModelInput


@dataclass(frozen=True, slots=True)
class DeviceValues:
    """Values on a device: stored values with their window, or a model input. `copy_done`: None where the copy is complete."""

    values: torch.Tensor
    window: Window | None
    copy_done: torch.cuda.Event | None = None

    def wait_for_values(self) -> torch.Tensor:
        """Return the values for the current stream, which waits for the copy; the host does not wait."""
        if self.copy_done is not None:
            stream = torch.cuda.current_stream(self.values.device)
            stream.wait_event(self.copy_done)
            self.values.record_stream(stream)  # memory of another stream: reused only after this stream has read it
        return self.values


class DeviceModelInputBuilder:
    """Implements `ModelInputBuilder` on the device. On a CPU it works the same without page-locked memory and streams."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self._preprocess, self._device = preprocess, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call] # torch's

    @property
    def decoder_transform(self) -> DecoderTransform:
        return cast("DecoderTransform", self._preprocess.defer_resize)  # its windowed values are those of the image it was given

    def to_device(self, decoded: DecodedImage, /) -> DeviceValues:
        """Copy to the device."""
        array, window = (decoded.stored, decoded.window) if isinstance(decoded, WindowedPixelData) else (decoded, None)
        host = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=self._stream is not None)
        host.numpy()[:] = array
        if self._stream is None:
            return DeviceValues(host, window)
        with torch.cuda.stream(self._stream):  # torch holds the page-locked memory until the copy is done, then reuses it
            return DeviceValues(host.to(self._device, non_blocking=True), window, self._stream.record_event())

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        return torch.stack([self._make_model_input(each) for each in decoded])

    def _make_model_input(self, decoded: Image | DeviceValues) -> torch.Tensor:
        if not isinstance(decoded, DeviceValues):
            decoded = self.to_device(self._preprocess.make_model_input_array(decoded))
        values = decoded.wait_for_values()
        return (
            values[None] if decoded.window is None else resize_on_device.make_model_input(values, decoded.window, self._preprocess)
        )


def find_host_difference(builder: DeviceModelInputBuilder, preprocess: Preprocess) -> str:
    """Return how the model inputs of two test images, signed and unsigned, of either polarity, differ from the host's, or ''."""
    ramp = np.add.outer(np.arange(601) * 5, np.arange(501) * 3)
    test_images = (
        WindowedPixelData(ramp.astype(np.uint16), Window(4000.0, 300.0)),
        WindowedPixelData((ramp - 2000).astype(np.int16), Window(-1500.0, 2000.0)),
    )
    for image in test_images:
        black, white = image.window.black, image.window.white
        host = preprocess.make_model_input_array(((image.stored - np.float32(black)) / np.float32(white - black)).clip(0, 1))
        try:
            found = builder.build([builder.to_device(image)])[0, 0].cpu().numpy()
        except RuntimeError as error:  # an operation that torch lacks on this device
            return (str(error).splitlines() or [type(error).__name__])[0]
        if (difference := float(np.abs(found - host).max())) > resize_on_device.TOLERANCE:
            return f"greys of {image.stored.dtype.name} differ by {difference:.2g}"
    return ""
