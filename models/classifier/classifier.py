"""Encoder and head as one: images to scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.classifier.version_weights import Addition, Moved
from models.encoder.activations import Cut, cut, encoded, from_prefix, onward, prefix
from models.encoder.base import Base
from models.encoder.delta import adapted
from models.encoder.encoder import Encoder
from models.encoder.partition import names_of, partition
from models.errors import WeightsIncompatible
from models.images.preprocess import Preprocess

BATCH_TOLERANCE = 1e-4
"""How far the score of an image may move with the size of its batch: matrix kernels sum in another order. Every image is
resized and normalised alone and no layer mixes a batch, so its mates' content has no say."""
STORED_TOLERANCE = 5e-3
"""How far a score may move where activations that were stored in half precision stand for the pixels. What the frozen encoder
scores does not pass them: features are stored as they are, and move a score by no more than BATCH_TOLERANCE."""


@dataclass(frozen=True)
class Unfrozen:
    """The encoder whose last `k` blocks moved, its head, and the findings bool [F] that the two score."""

    encoder: Encoder
    head: LinearHead
    findings: torch.Tensor
    k: int

    @classmethod
    def of(cls, encoder: Encoder, moved: Moved) -> Self:
        """Put moved tensors into a copy of the base's encoder. CannotPartition; WeightsIncompatible where they are another's."""
        if set(moved.delta) != set(names_of(partition(encoder.network).last(moved.k))):
            raise WeightsIncompatible(
                f"the moved tensors are not the last {moved.k} blocks of this encoder",
                hint="use the base that they were trained on",
            )
        return cls(adapted(encoder, moved.delta), moved.head, moved.findings, moved.k)

    def to(self, device: torch.device) -> Self:
        """Return the same on a device (the encoder moves)."""
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), findings=self.findings.to(device))


@dataclass(frozen=True)
class Classifier:
    """A complete scorer of images. `unfrozen`, where there is one, scores some findings in place of `encoder` and `head`."""

    encoder: Encoder
    preprocess: Preprocess
    head: LinearHead
    unfrozen: Unfrozen | None = None

    def __post_init__(self) -> None:
        wanted = int(self.encoder.architecture.config["embed_dim"])
        for head in (self.head, *([self.unfrozen.head] if self.unfrozen else [])):
            if (given := head.directions.shape[1]) != wanted:
                raise WeightsIncompatible(
                    f"the head expects vectors of {given} numbers, the encoder gives {wanted}",
                    hint="use the base that it was learnt on",
                )
            if len(head.bias) != len(self.head.bias):
                raise WeightsIncompatible("the two heads of the version do not score the same findings")

    @classmethod
    def of(cls, base: Base, addition: Addition) -> Self:
        """Join a base and what a version adds to it. CannotPartition, WeightsIncompatible."""
        unfrozen = Unfrozen.of(base.encoder, addition.moved) if addition.moved is not None else None
        return cls(base.encoder, base.preprocess, addition.head, unfrozen)

    def to(self, device: torch.device) -> Self:
        """Return the same classifier on a device (the encoder moves)."""
        moved = self.unfrozen.to(device) if self.unfrozen else None
        return replace(self, encoder=self.encoder.to(device), head=self.head.to(device), unfrozen=moved)

    def by(self, change: Callable[[Encoder], Encoder]) -> Self:
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
            return _array(self._frozen(encoded(self.encoder, pixels)))
        k = self.unfrozen.k
        if bool(self.unfrozen.findings.all()):  # nothing asks for the frozen end
            return _array(self._moved(prefix(self.encoder, pixels, k=k), k=k))
        return self._both(cut(self.encoder, pixels, k=k), k=k)

    @torch.inference_mode()
    def score_and_cut(self, pixels: torch.Tensor, *, k: int) -> tuple[npt.NDArray[np.float32], Cut]:
        """Return what `score_pixels` does, and of the same pass what the base makes of the images, cut in front of the last `k`
        blocks.

        CannotPartition.
        """
        outer = max(k, self.unfrozen.k if self.unfrozen else 0)
        made = cut(self.encoder, pixels, k=outer)
        return self._both(made, k=outer), Cut(onward(self.encoder, made.entering, k=outer, to=k), made.features)

    def scores_from(self, k: int) -> bool:
        """Say whether what enters the last `k` blocks of the base is enough: nothing before them has moved."""
        return self.unfrozen is None or self.unfrozen.k <= k

    @torch.inference_mode()
    def score_cut(self, images: Cut, *, k: int) -> npt.NDArray[np.float32]:
        """Return float32 [N, F] in 0..1 for images that the base has passed, cut in front of its last `k` blocks, all at once.

        ValueError where blocks before them have moved; CannotPartition.
        """
        if not self.scores_from(k):
            raise ValueError(f"activations in front of the last {k} blocks do not pass all blocks that moved")
        return self._both(images, k=k)

    def _both(self, images: Cut, *, k: int) -> npt.NDArray[np.float32]:
        """The end that moved, and the frozen one, whose features are there, where findings need it."""
        frozen = self._frozen(images.features.to(self.encoder.device))
        if self.unfrozen is None:
            return _array(frozen)
        return _array(torch.where(self.unfrozen.findings, self._moved(images.entering, k=k), frozen))

    def _frozen(self, features: torch.Tensor) -> torch.Tensor:
        return self.head.scores(_finite(features))

    def _moved(self, entering: torch.Tensor, *, k: int) -> torch.Tensor:
        assert self.unfrozen is not None
        moved = self.unfrozen
        entering = onward(self.encoder, entering, k=k, to=moved.k)
        return moved.head.scores(_finite(from_prefix(moved.encoder, entering, k=moved.k).features))


def _finite(features: torch.Tensor) -> torch.Tensor:
    """NaN must never pass for a low score."""
    if not torch.isfinite(features).all():
        raise WeightsIncompatible("the encoder gives values that are not finite", hint="import sound weights, or learn again")
    return features


def _array(scores: torch.Tensor) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = scores.cpu().numpy()
    return found
