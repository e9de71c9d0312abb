"""Constructed features of an archive with two findings, so that the right heads are known."""

from __future__ import annotations

import numpy as np
import torch

from models.classifier.head import LinearHead
from models.evaluation.statistics import auc
from models.training.whitening import WhiteningTransform

FINDINGS, SIZE, IMAGES = 2, 24, 6000


class World:
    """Features of unit length with two findings; the text directions agree with them in part."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scale = np.linspace(1.0, 0.3, SIZE)
        shift = rng.standard_normal((FINDINGS, SIZE)) * scale
        shift *= 1.6 / np.linalg.norm(shift / scale, axis=1, keepdims=True)
        self.labels = (rng.random((IMAGES, FINDINGS)) < 0.05).astype(np.int8)
        features = rng.standard_normal((IMAGES, SIZE)) * scale + self.labels @ shift
        features = features / 10 + np.eye(SIZE)[0]
        self.features = torch.from_numpy(features / np.linalg.norm(features, axis=1, keepdims=True)).float()
        truth = shift / scale**2
        truth /= np.linalg.norm(truth, axis=1, keepdims=True)
        guess = truth + 1.2 * rng.standard_normal(truth.shape) / np.sqrt(SIZE)
        self.text = LinearHead.from_weights(torch.from_numpy(guess), torch.zeros(FINDINGS))
        self.whitening = WhiteningTransform.from_features(self.features)

    def auc(self, head: LinearHead) -> float:
        return float(auc(head.logits(self.features).numpy(), self.labels).mean())

    def mined(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Return the images with the highest zero-shot rank for either finding."""
        order = np.argsort(-self.text.logits(self.features).numpy(), axis=0)
        return np.unique(order[:count])
