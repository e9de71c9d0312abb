"""What a method may learn from: the support's features and labels, and how its films are weighed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import ABSENT, PRESENT
from models.ladder.method import Bench, Logits, Support
from models.training.whitening import Whitening

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Films that something is known of: features [n, D] of unit length, labels [n, F]."""

    features: Floats
    labels: npt.NDArray[np.int8]

    @classmethod
    def of(cls, bench: Bench, support: Support | None) -> Labelled:
        """Return the support's films. ValueError without a support."""
        if support is None:
            raise ValueError("a method that learns needs a support")
        return cls(as_floats(bench.features[support.rows]), support.labels(bench.cases))

    @property
    def learnable(self) -> npt.NDArray[np.bool_]:
        """[F]: a positive and a negative are there."""
        return np.asarray((self.labels == PRESENT).any(axis=0) & (self.labels == ABSENT).any(axis=0))

    @property
    def positives(self) -> npt.NDArray[np.intp]:
        """[F]: how many films show it."""
        return np.asarray((self.labels == PRESENT).sum(axis=0))

    @property
    def halves(self) -> Floats:
        """[n, F]: the weight of each film in each finding. Positives sum to 1/2, negatives too; all 0 unless both are there."""
        kinds = [(self.labels == kind) / np.maximum((self.labels == kind).sum(axis=0), 1) for kind in (PRESENT, ABSENT)]
        return np.asarray((kinds[0] + kinds[1]) / 2 * self.learnable)

    @property
    def signed(self) -> Floats:
        """[n, F]: `halves`, those of the negatives with a minus."""
        return np.where(self.labels == PRESENT, self.halves, -self.halves)

    @property
    def difference(self) -> Floats:
        """[F, D]: mean of the positives minus mean of the negatives; 0 where one of them is missing."""
        return np.asarray(2 * self.signed.T @ self.features)


def as_floats(tensor: torch.Tensor) -> Floats:
    """Return a float64 copy in main memory."""
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def tested(bench: Bench) -> Floats:
    """Return the features [T, D] of the test films."""
    return as_floats(bench.features[bench.split.test])


def head_logits(head: LinearHead, bench: Bench) -> Logits:
    """Return what a head says of the test films."""
    logits: Logits = head.to(bench.features.device).logits(bench.features[bench.split.test]).cpu().numpy()
    return logits


def whitening(bench: Bench) -> Whitening:
    """Return the whitening of the pool's films, from their features alone. Estimated once a bench."""
    return _whitening(bench.features, bench.split.pool.tobytes())


@lru_cache(maxsize=4)
def _whitening(features: torch.Tensor, pool: bytes) -> Whitening:
    return Whitening.of(features[np.frombuffer(pool, dtype=np.intp).copy()])
