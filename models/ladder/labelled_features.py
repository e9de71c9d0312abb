"""Training data of a method: features and labels of the support, with balanced weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import ABSENT, PRESENT
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.whitening import WhiteningTransform

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledFeatures:
    """Labelled images: features [n, D] of unit length, labels [n, F]."""

    features: Floats
    labels: npt.NDArray[np.int8]

    @classmethod
    def of_support(cls, bench: FewShotBenchmark, support: Support | None) -> LabelledFeatures:
        """Return the features and labels of the support. Raise ValueError without a support."""
        if support is None:
            raise ValueError("a method that learns needs a support")
        return cls(to_float64(bench.features[support.rows]), support.labels(bench.cases))

    @property
    def learnable(self) -> npt.NDArray[np.bool_]:
        """[F]: True with a positive and a negative."""
        return np.asarray((self.labels == PRESENT).any(axis=0) & (self.labels == ABSENT).any(axis=0))

    @property
    def positive_counts(self) -> npt.NDArray[np.intp]:
        """[F]: number of positives."""
        return np.asarray((self.labels == PRESENT).sum(axis=0))

    @property
    def balanced_weights(self) -> Floats:
        """[n, F]: weight of each image in each finding. Positives sum to 1/2, negatives to 1/2; all 0 without both kinds."""
        kinds = [(self.labels == kind) / np.maximum((self.labels == kind).sum(axis=0), 1) for kind in (PRESENT, ABSENT)]
        return np.asarray((kinds[0] + kinds[1]) / 2 * self.learnable)

    @property
    def signed_weights(self) -> Floats:
        """[n, F]: `balanced_weights`, negated for negatives."""
        return np.where(self.labels == PRESENT, self.balanced_weights, -self.balanced_weights)

    @property
    def mean_difference(self) -> Floats:
        """[F, D]: mean of the positives minus mean of the negatives; 0 without both kinds."""
        return np.asarray(2 * self.signed_weights.T @ self.features)


def to_float64(tensor: torch.Tensor) -> Floats:
    """Return a float64 copy in main memory."""
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def get_test_features(bench: FewShotBenchmark) -> Floats:
    """Return the features [T, D] of the test images. Converted once per benchmark: callers leave them unchanged."""
    return _convert_rows(bench.features, bench.split.test.tobytes())


def head_logits(head: LinearHead, bench: FewShotBenchmark) -> Logits:
    """Return a head's logits [T, F] of the test images."""
    logits: Logits = head.to(bench.features.device).logits(bench.features[bench.split.test]).cpu().numpy()
    return logits


def pool_whitening(bench: FewShotBenchmark) -> WhiteningTransform:
    """Return the whitening of the pool, from its features alone. Estimated once per benchmark."""
    return _estimate_whitening(bench.features, bench.split.pool.tobytes())


@lru_cache(maxsize=1)
def _convert_rows(features: torch.Tensor, rows: bytes) -> Floats:
    return to_float64(features[np.frombuffer(rows, dtype=np.intp).copy()])


@lru_cache(maxsize=4)
def _estimate_whitening(features: torch.Tensor, pool: bytes) -> WhiteningTransform:
    return WhiteningTransform.from_features(features[np.frombuffer(pool, dtype=np.intp).copy()])
