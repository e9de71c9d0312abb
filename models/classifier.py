"""Encoder and head as one: images to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.encoder import Encoder
from models.errors import WeightsIncompatible
from models.head import LinearHead
from models.preprocess import Preprocess

BATCH_TOLERANCE = 1e-4
"""How far the score of an image may move with the size of its batch: matrix kernels sum in another order. Every image is
resized and normalised alone and no layer mixes a batch, so its mates' content has no say."""


@dataclass(frozen=True)
class Classifier:
    """A complete scorer of images."""

    encoder: Encoder
    preprocess: Preprocess
    head: LinearHead

    def __post_init__(self) -> None:
        wanted, given = int(self.encoder.architecture.config["embed_dim"]), self.head.directions.shape[1]
        if wanted != given:
            raise WeightsIncompatible(f"the head expects vectors of {given} numbers, the encoder gives {wanted}")

    def to(self, device: torch.device) -> Classifier:
        """Return the same classifier on a device (the encoder moves)."""
        return Classifier(self.encoder.to(device), self.preprocess, self.head.to(device))

    @torch.inference_mode()
    def score(self, images: Sequence[npt.NDArray[np.float32]], *, batch_size: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for N images float32 [H, W] of any size, in order. ImageUnusable."""
        parts = [self._score_batch(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.head.directions.shape[0]), dtype=np.float32)

    def _score_batch(self, images: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        pixels = torch.stack([self.preprocess(image) for image in images])
        scores: npt.NDArray[np.float32] = self.head.scores(self.encoder.encode_images(pixels)).cpu().numpy()
        return scores
