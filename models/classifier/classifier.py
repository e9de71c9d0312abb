"""Encoder and head as one: images to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.classifier.version_weights import FineTunedBlocks, VersionWeights
from models.encoder.activations import (
    SplitActivations,
    compute_activations,
    encode_activations,
    encode_images_fast,
    encode_split,
    run_blocks,
)
from models.encoder.base import Base
from models.encoder.delta import apply_delta
from models.encoder.encoder import Encoder
from models.encoder.partition import parameter_names, partition
from models.errors import CheckpointIncompatible
from models.images.preprocess import Preprocess

BATCH_TOLERANCE = 1e-4
"""How far the score of an image may move with the size of its batch: matrix kernels sum in another order. Every image is
resized and normalised alone and no layer mixes a batch, so its mates' content has no say."""
STORED_TOLERANCE = 5e-3
"""How far a score may move where activations that were stored in half precision stand for the pixels. What the frozen encoder
scores does not pass them: features are stored as they are, and move a score by no more than BATCH_TOLERANCE."""


@dataclass(frozen=True)
class UnfrozenEncoder:
    """The encoder whose last `k` blocks moved, its head, and the findings bool [F] that the two score."""

    encoder: Encoder
    head: LinearHead
    findings: torch.Tensor
    k: int

    @classmethod
    def from_blocks(cls, encoder: Encoder, blocks: FineTunedBlocks) -> Self:
        """Put moved tensors into a copy of the base's encoder. CannotPartition; WeightsIncompatible where they are another's."""
        if set(blocks.delta) != set(parameter_names(partition(encoder.network).last_parts(blocks.k))):
            raise CheckpointIncompatible(
                f"the moved tensors are not the last {blocks.k} blocks of this encoder",
                hint="use the base that they were trained on",
            )
        return cls(apply_delta(encoder, blocks.delta), blocks.head, blocks.findings, blocks.k)

    def to(self, device: torch.device) -> Self:
        """Return the same on a device (the encoder moves)."""
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), findings=self.findings.to(device))


@dataclass(frozen=True)
class Classifier:
    """A complete scorer of images. `unfrozen`, where there is one, scores some findings in place of `encoder` and `head`."""

    encoder: Encoder
    preprocess: Preprocess
    head: LinearHead
    unfrozen: UnfrozenEncoder | None = None

    def __post_init__(self) -> None:
        wanted = int(self.encoder.architecture.config["embed_dim"])
        for head in (self.head, *([self.unfrozen.head] if self.unfrozen else [])):
            if (given := head.directions.shape[1]) != wanted:
                raise CheckpointIncompatible(
                    f"the head expects vectors of {given} numbers, the encoder gives {wanted}",
                    hint="use the base that it was learnt on",
                )
            if len(head.bias) != len(self.head.bias):
                raise CheckpointIncompatible("the two heads of the version do not score the same findings")

    @classmethod
    def of(cls, base: Base, weights: VersionWeights) -> Self:
        """Join a base and what a version adds to it. CannotPartition, WeightsIncompatible."""
        unfrozen = UnfrozenEncoder.from_blocks(base.encoder, weights.fine_tuned) if weights.fine_tuned is not None else None
        return cls(base.encoder, base.preprocess, weights.head, unfrozen)

    def to(self, device: torch.device) -> Self:
        """Return the same classifier on a device (the encoder moves)."""
        moved = self.unfrozen.to(device) if self.unfrozen else None
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), unfrozen=moved)

    def map_encoders(self, change: Callable[[Encoder], Encoder]) -> Self:
        """Return the same classifier with every encoder changed."""
        moved = replace(self.unfrozen, encoder=change(self.unfrozen.encoder)) if self.unfrozen else None
        return replace(self, encoder=change(self.encoder), unfrozen=moved)

    def score(self, images: Sequence[npt.NDArray[np.float32]], *, batch_size: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for N images float32 [H, W] of any size, in order. ImageUnusable."""
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        parts = [self.score_pixels(torch.stack([self.preprocess(image) for image in batch])) for batch in batches]
        return np.concatenate(parts) if parts else np.zeros((0, self.head.directions.shape[0]), dtype=np.float32)

    @torch.inference_mode()
    def score_pixels(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for preprocessed float32 [N, 3, S, S], all at once."""
        if self.unfrozen is None:
            return _to_array(self._score_frozen(encode_images_fast(self.encoder, pixels)))
        k = self.unfrozen.k
        if bool(self.unfrozen.findings.all()):  # nothing asks for the frozen end
            return _to_array(self._score_unfrozen(compute_activations(self.encoder, pixels, k=k), k=k))
        return self._score_both(encode_split(self.encoder, pixels, k=k), k=k)

    @torch.inference_mode()
    def score_and_split(self, pixels: torch.Tensor, *, k: int) -> tuple[npt.NDArray[np.float32], SplitActivations]:
        """Return what `score_pixels` does, and of the same pass what the base makes of the images, cut in front of the last `k`
        blocks.

        CannotPartition.
        """
        outer = max(k, self.unfrozen.k if self.unfrozen else 0)
        made = encode_split(self.encoder, pixels, k=outer)
        return self._score_both(made, k=outer), SplitActivations(
            run_blocks(self.encoder, made.activations, k=outer, last=k), made.features
        )

    def can_score_from(self, k: int) -> bool:
        """Say whether what enters the last `k` blocks of the base is enough: nothing before them has moved."""
        return self.unfrozen is None or self.unfrozen.k <= k

    @torch.inference_mode()
    def score_activations(self, images: SplitActivations, *, k: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for images that the base has passed, cut in front of its last `k` blocks, all at once.

        ValueError where blocks before them have moved; CannotPartition.
        """
        if not self.can_score_from(k):
            raise ValueError(f"activations in front of the last {k} blocks do not pass all blocks that moved")
        return self._score_both(images, k=k)

    def _score_both(self, images: SplitActivations, *, k: int) -> npt.NDArray[np.float32]:
        """The end that moved, and the frozen one, whose features are there, where findings need it."""
        frozen = self._score_frozen(images.features.to(self.encoder.device))
        if self.unfrozen is None:
            return _to_array(frozen)
        return _to_array(torch.where(self.unfrozen.findings, self._score_unfrozen(images.activations, k=k), frozen))

    def _score_frozen(self, features: torch.Tensor) -> torch.Tensor:
        return self.head.scores(_require_finite(features))

    def _score_unfrozen(self, activations: torch.Tensor, *, k: int) -> torch.Tensor:
        assert self.unfrozen is not None
        moved = self.unfrozen
        activations = run_blocks(self.encoder, activations, k=k, last=moved.k)
        return moved.head.scores(_require_finite(encode_activations(moved.encoder, activations, k=moved.k).features))


def _require_finite(features: torch.Tensor) -> torch.Tensor:
    """NaN must never pass for a low score."""
    if not torch.isfinite(features).all():
        raise CheckpointIncompatible("the encoder gives values that are not finite", hint="import sound weights, or learn again")
    return features


def _to_array(scores: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = scores.cpu().numpy()
    return found
