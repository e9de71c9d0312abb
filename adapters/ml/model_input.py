"""Decoded images to model inputs: on the host, by the processes that decode, or on the device that encodes (`gpu_input`).

On a CPU the decoding processes make the model inputs, 200 KB an image, band by band in their caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog
import torch

from adapters.ipc.decoded_image import DecodedImage, DecoderTransform, copy_to_host
from adapters.ml.gpu_input.device_builder import DeviceModelInputBuilder, find_host_difference
from models.images.preprocess import Preprocess
from pipeline.domain import Image
from pipeline.ports.images import InputTransform, ModelInput

_log = structlog.get_logger("radclipd.ml")


class ModelInputBuilder(InputTransform, Protocol):
    """An `InputTransform`, and the tensor of a batch of its results."""

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        """Return float32 [n, 1, size, size] in 0..1 for n images, or for n results of this transform. ImageUnusable."""


def choose_model_input_builder(preprocess: Preprocess, device: torch.device) -> ModelInputBuilder:
    """Return the device's builder where its model inputs equal the host's, else, with a warning, the host's."""
    if device.type == "cpu":
        return HostModelInputBuilder(preprocess)
    builder = DeviceModelInputBuilder(preprocess, device)
    if reason := find_host_difference(builder, preprocess):
        _log.warning("images are windowed and resized on the host, not on the device", device=str(device), reason=reason)
        return HostModelInputBuilder(preprocess)
    return builder


class HostModelInputBuilder:
    """Model inputs made by the processes that decode."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    @property
    def decoder_transform(self) -> DecoderTransform:
        return self._preprocess.make_model_input_array

    def to_device(self, decoded: DecodedImage, /) -> DecodedImage:
        return copy_to_host(decoded)

    def build(self, decoded: Sequence[Image | ModelInput]) -> torch.Tensor:
        return torch.stack([self._preprocess.make_model_input(image) for image in decoded])
