"""From an image of any size to the encoder's input: resize, pad or crop, normalise. No 8-bit intermediate.

The resize is bicubic with a = -0.5 and antialiased, the filter of Pillow (and so of CLIP's own preprocessing), but on float pixels:
a 16-bit image keeps its grey levels. The model input before normalisation needs no torch, and none is loaded: decoding processes
make it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from models.errors import CheckpointIncompatible, ImageUnusable
from models.fingerprint import fingerprint
from models.images.resize import Interpolation, ResizableImage, ResizeWindowedValues, resize_image

if TYPE_CHECKING:
    import torch

Pixels = TypeVar("Pixels", npt.NDArray[np.float32], "torch.Tensor")

ALGORITHM = 1
"""Incremented with each change of the pixels for the same fields; part of the fingerprint."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel mean and standard deviation of CLIP's training images (Radford et al. 2021), pixels in 0..1."""


@dataclass(frozen=True)
class Preprocess:
    """Parameters from an image to the encoder's input.

    `size`: edge of the square input, pixels. `fit`: "pad" scales the longer edge to `size` and fills the rest with black, so that
    no part of the lungs is lost; "crop" scales the shorter edge and takes the centre. Both preserve the aspect ratio.
    """

    size: int = 224
    fit: Literal["pad", "crop"] = "pad"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self:
        """Read the parameters from a card. CheckpointIncompatible where this release preprocesses differently."""
        fields = {key: value for key, value in card.items() if key != "fingerprint"}
        try:
            made = cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
        except (KeyError, TypeError) as error:
            raise CheckpointIncompatible(
                f"the card's preprocessing cannot be read: {error}", hint="import the weights again"
            ) from error
        if made.fingerprint != card.get("fingerprint"):
            raise CheckpointIncompatible(
                "this release preprocesses images in another way than the one that recorded these weights",
                hint="import the weights again: that makes a version of its own",
            )
        return made

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all fields and the algorithm's number."""
        return fingerprint({"algorithm": ALGORITHM, **asdict(self)})

    @property
    def card(self) -> dict[str, Any]:
        """Return the fields and the fingerprint, JSON-able."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "fingerprint": self.fingerprint}

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width after the resize, before pad or crop, pixels."""
        edge = max(height, width) if self.fit == "pad" else min(height, width)
        return max(1, round(height * self.size / edge)), max(1, round(width * self.size / edge))

    def __call__(self, image: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return float32 [3, size, size] for float32 [H, W] in 0..1. ImageUnusable for anything else."""
        return self.normalise(self.make_model_input(image))

    def make_model_input(self, image: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return the model input before normalisation, float32 [1, size, size] in 0..1. ImageUnusable."""
        import torch

        return torch.from_numpy(self.make_model_input_array(image))[None]

    def make_model_input_array(self, image: npt.NDArray[np.float32] | ResizableImage) -> npt.NDArray[np.float32]:
        """Return the model input before normalisation, float32 [size, size]; idempotent. ImageUnusable."""
        edges = self.checked_scaled_size(image.shape)
        with np.errstate(invalid="ignore", over="ignore"):
            if isinstance(image, np.ndarray):
                small = resize_image(image, *edges, self.interpolation)
            else:  # resize weights sum to 1, so greys may be computed after the resize
                small = image.normalised(resize_image(image.clipped, *edges, self.interpolation))
        if not np.isfinite(small).all():  # a non-finite pixel has no zero weight, so none is missed
            raise ImageUnusable("the image holds values that are not finite")
        canvas = np.zeros((self.size, self.size), dtype=np.float32)
        self.place_centred(np.clip(small, 0.0, 1.0, out=small), canvas)  # bicubic overshoots at edges
        return canvas

    def defer_resize(self, image: npt.NDArray[np.float32] | ResizableImage) -> npt.NDArray[np.float32] | ResizeWindowedValues:
        """Return the stored values and their window for `resize_on_device`; the model input for an image without them."""
        windowed = None if isinstance(image, np.ndarray) else image.windowed
        if windowed is None:
            return self.make_model_input_array(image)
        self.checked_scaled_size(windowed.stored.shape)
        return windowed

    def normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the encoder's input, float32 [..., 3, size, size], for model inputs [..., 1, size, size]."""
        mean, std = (inputs.new_tensor(three)[:, None, None] for three in (self.mean, self.std))
        return (inputs - mean).div_(std)

    def checked_scaled_size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return `scaled_size` of an image's shape. ImageUnusable for a shape of no image."""
        if len(shape) != 2 or 0 in shape:
            raise ImageUnusable(f"an image has two edges of at least one pixel, not the shape {tuple(shape)}")
        return self.scaled_size(*shape)

    def place_centred(self, pixels: Pixels, canvas: Pixels) -> None:
        """Put [h, w] into the centre of [size, size]: a shorter edge leaves bars, a longer one is cropped."""
        (to_row, from_row), (to_column, from_column) = (_compute_overlap(edge, self.size) for edge in pixels.shape)
        canvas[to_row, to_column] = pixels[from_row, from_column]


def _compute_overlap(edge: int, size: int) -> tuple[slice, slice]:
    """Return the target and source pixels of an edge centred on `size` pixels."""
    before = (size - edge) // 2
    first, last = max(0, before), min(size, before + edge)
    return slice(first, last), slice(first - before, last - before)
