"""Golden embeddings: an encoder's output for a fixed image and a fixed text, recorded when its weights were imported.

Compared at every load, they detect faults beyond names and shapes: the wrong activation (open_clip issues 771 and 915), a changed
preprocessing or tokenizer, a library or a processor that computes wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.encoder.activations import encode_images_fast
from models.encoder.encoder import Encoder
from models.errors import CheckpointIncompatible, GoldenMismatch
from models.images.preprocess import Preprocess

TEXT = "a chest x-ray showing pleural effusion"
TOLERANCE = 5e-4
"""Largest Euclidean distance of two unit vectors that count as equal, on the CPU in float32.

Processors and thread counts differ by about 1e-6. QuickGELU in place of GELU moves even untrained networks by 3e-3 and more.
"""
DEVICE_TOLERANCE = 5e-3
"""The same on an accelerator, whose kernels round differently."""

_DIGITS = 7


@dataclass(frozen=True)
class GoldenEmbedding:
    """Unit vectors [D] of `golden_image()` and TEXT."""

    image: tuple[float, ...]
    text: tuple[float, ...]

    @classmethod
    def compute(cls, encoder: Encoder, preprocess: Preprocess) -> Self:
        """Encode image and text, float32 on the encoder's device."""
        return cls(
            image=_round_vector(_encode_golden_image(encoder, preprocess)), text=_round_vector(encoder.encode_texts([TEXT])[0])
        )

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self:
        """Read golden embeddings from a card. CheckpointIncompatible where it has none."""
        try:
            return cls(image=tuple(map(float, card["image"])), text=tuple(map(float, card["text"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointIncompatible("the card holds no golden embeddings", hint="import the weights again") from error

    @property
    def card(self) -> dict[str, Any]:
        """Return both vectors, JSON-able."""
        return {"image": list(self.image), "text": list(self.text), "tolerance": TOLERANCE}

    def check(self, encoder: Encoder, preprocess: Preprocess, *, tolerance: float = TOLERANCE) -> None:
        """Compute both again; GoldenMismatch where the distance of either exceeds `tolerance`."""
        now = GoldenEmbedding.compute(encoder, preprocess)
        for side, recorded, computed in (("image", self.image, now.image), ("text", self.text, now.text)):
            distance = _measure_distance(recorded, computed)
            if not distance <= tolerance:
                raise GoldenMismatch(
                    f"the {side} encoder does not compute what it computed when its weights were imported: "
                    f"distance {distance:.2g}, allowed {tolerance:.2g}",
                    hint="most often QuickGELU for GELU or the reverse: import the weights again with the right --quickgelu",
                )


def golden_image() -> npt.NDArray[np.float32]:
    """Return the fixed image: float32 [320, 256] in 0..1, waves of several wavelengths and one hard edge."""
    y, x = np.mgrid[0:320, 0:256].astype(np.float64)
    waves = np.sin(x / 7.0) * np.cos(y / 11.0) + np.sin((x + 2.0 * y) / 41.0) + np.where(x > y, 0.5, -0.5)
    return np.asarray((waves + 2.5) / 5.0, dtype=np.float32)


def golden_images() -> list[npt.NDArray[np.float32]]:
    """Return eight fixed images for comparisons of scores: the golden image turned, cropped, darkened and with noise."""
    image, generator = golden_image(), np.random.default_rng(0)
    noise = generator.random(image.shape, dtype=np.float32)
    turned = [image, image[::-1], 1 - image, image[40:200, 30:230]]
    return [np.ascontiguousarray(variant) for variant in (*turned, image**3, np.sqrt(image), (image + noise) / 2, noise)]


def _encode_golden_image(encoder: Encoder, preprocess: Preprocess) -> torch.Tensor:
    """Encode with the functions that scoring uses."""
    return encode_images_fast(encoder, preprocess(golden_image())[None])[0]


def _round_vector(vector: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(value, _DIGITS) for value in vector.cpu().tolist())


def _measure_distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the Euclidean distance; infinite between vectors of different length."""
    return float(np.linalg.norm(np.subtract(a, b))) if len(a) == len(b) else float("inf")
