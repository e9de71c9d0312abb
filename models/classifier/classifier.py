"""Classifier: encoder and head together, from images to scores."""

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
"""Largest change of an image's score with its batch size: matrix kernels sum in another order. Each image is resized and
normalised alone and no layer mixes a batch, so the content of the other images has no influence."""
STORED_TOLERANCE = 5e-3
"""Largest change of a score computed from half-precision stored activations in place of pixels. Scores of the frozen encoder use
stored float32 features instead and change by BATCH_TOLERANCE at most."""


@dataclass(frozen=True)
class UnfrozenEncoder:
    """The encoder with its last `k` blocks fine-tuned, its head, and the findings bool [F] that the two score."""

    encoder: Encoder
    head: LinearHead
    findings: torch.Tensor
    k: int

    @classmethod
    def from_blocks(cls, encoder: Encoder, blocks: FineTunedBlocks) -> Self:
        """Put fine-tuned tensors into a copy of the base encoder.

        Raise CannotPartition, and CheckpointIncompatible for tensors of another encoder.
        """
        if set(blocks.delta) != set(parameter_names(partition(encoder.network).last_parts(blocks.k))):
            raise CheckpointIncompatible(
                f"the fine-tuned tensors are not the last {blocks.k} blocks of this encoder",
                hint="use the base that they were trained on",
            )
        return cls(apply_delta(encoder, blocks.delta), blocks.head, blocks.findings, blocks.k)

    def to(self, device: torch.device) -> Self:
        """Return the same on a device. The encoder itself is moved."""
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), findings=self.findings.to(device))


@dataclass(frozen=True)
class Classifier:
    """A complete scorer of images. `unfrozen`, if any, scores its findings in place of `encoder` and `head`."""

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
                    hint="use the base that the head was trained on",
                )
            if len(head.bias) != len(self.head.bias):
                raise CheckpointIncompatible("the two heads of the version do not score the same findings")

    @classmethod
    def of(cls, base: Base, weights: VersionWeights) -> Self:
        """Join a base and the weights of a version. Raise CannotPartition and CheckpointIncompatible."""
        unfrozen = UnfrozenEncoder.from_blocks(base.encoder, weights.fine_tuned) if weights.fine_tuned is not None else None
        return cls(base.encoder, base.preprocess, weights.head, unfrozen)

    def to(self, device: torch.device) -> Self:
        """Return the same classifier on a device. The encoder itself is moved."""
        unfrozen = self.unfrozen.to(device) if self.unfrozen else None
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), unfrozen=unfrozen)

    def map_encoders(self, change: Callable[[Encoder], Encoder]) -> Self:
        """Return the same classifier with `change` applied to every encoder."""
        unfrozen = replace(self.unfrozen, encoder=change(self.unfrozen.encoder)) if self.unfrozen else None
        return replace(self, encoder=change(self.encoder), unfrozen=unfrozen)

    def score(self, images: Sequence[npt.NDArray[np.float32]], *, batch_size: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for N images float32 [H, W] of any size, in order. Raise ImageUnusable."""
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        parts = [self.score_pixels(torch.stack([self.preprocess(image) for image in batch])) for batch in batches]
        return np.concatenate(parts) if parts else np.zeros((0, self.head.directions.shape[0]), dtype=np.float32)

    @torch.inference_mode()
    def score_pixels(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for preprocessed float32 [N, 3, S, S], in one batch."""
        if self.unfrozen is None:
            return _to_array(self._score_frozen(encode_images_fast(self.encoder, pixels)))
        k = self.unfrozen.k
        if bool(self.unfrozen.findings.all()):  # no finding needs the frozen encoder's features
            return _to_array(self._score_unfrozen(compute_activations(self.encoder, pixels, k=k), k=k))
        return self._score_both(encode_split(self.encoder, pixels, k=k), k=k)

    @torch.inference_mode()
    def score_and_split(self, pixels: torch.Tensor, *, k: int) -> tuple[npt.NDArray[np.float32], SplitActivations]:
        """Return the scores of `score_pixels` and, from the same forward pass, the base's activations entering its last `k` blocks.

        Raise CannotPartition.
        """
        outer = max(k, self.unfrozen.k if self.unfrozen else 0)
        split = encode_split(self.encoder, pixels, k=outer)
        return self._score_both(split, k=outer), SplitActivations(
            run_blocks(self.encoder, split.activations, k=outer, last=k), split.features
        )

    def can_score_from(self, k: int) -> bool:
        """Say whether activations entering the last `k` blocks of the base suffice: no block before them is fine-tuned."""
        return self.unfrozen is None or self.unfrozen.k <= k

    @torch.inference_mode()
    def score_activations(self, images: SplitActivations, *, k: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 from activations entering the base's last `k` blocks, in one batch.

        Raise ValueError for fine-tuned blocks before them; CannotPartition.
        """
        if not self.can_score_from(k):
            raise ValueError(f"activations entering the last {k} blocks do not pass all fine-tuned blocks")
        return self._score_both(images, k=k)

    def _score_both(self, images: SplitActivations, *, k: int) -> npt.NDArray[np.float32]:
        """Score with the frozen features and, for its findings, with the fine-tuned blocks."""
        frozen = self._score_frozen(images.features.to(self.encoder.device))
        if self.unfrozen is None:
            return _to_array(frozen)
        return _to_array(torch.where(self.unfrozen.findings, self._score_unfrozen(images.activations, k=k), frozen))

    def _score_frozen(self, features: torch.Tensor) -> torch.Tensor:
        return self.head.scores(_require_finite(features))

    def _score_unfrozen(self, activations: torch.Tensor, *, k: int) -> torch.Tensor:
        assert self.unfrozen is not None
        unfrozen = self.unfrozen
        activations = run_blocks(self.encoder, activations, k=k, last=unfrozen.k)
        return unfrozen.head.scores(_require_finite(encode_activations(unfrozen.encoder, activations, k=unfrozen.k).features))


def _require_finite(features: torch.Tensor) -> torch.Tensor:
    """Return the features. CheckpointIncompatible for NaN or infinity: NaN must never pass for a low score."""
    if not torch.isfinite(features).all():
        raise CheckpointIncompatible("the encoder gives values that are not finite", hint="import sound weights, or learn again")
    return features


def _to_array(scores: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = scores.cpu().numpy()
    return array
