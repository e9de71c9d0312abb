"""Tip-Adapter: the support as a key-value cache, queried by the similarity of each image to each labelled one.

Zhang et al., "Tip-Adapter: Training-free adaption of CLIP for few-shot classification" (ECCV 2022). Logit = text + alpha x
sum_i exp(-beta (1 - f . f_i)) v_i. In the original v is one-hot; here it is 1 for a positive of the finding and -positives /
negatives for a negative, so that both kinds weigh the same. alpha = 1 and beta = 5.5 are the original's initial values; its search
for both on a validation set is left out, since a real few-shot support has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from models.evaluation.cases import PRESENT
from models.ladder.labelled_features import LabelledFeatures, get_test_features, head_logits, to_float64
from models.ladder.method import FewShotBenchmark, Logits, Support

Floats = npt.NDArray[np.float64]


@dataclass
class TipAdapter:
    """The cache, or (`fine_tuned`) the cache with trained keys: AdamW 1e-3, 20 epochs in batches of 256, cosine decay."""

    name: str
    fine_tuned: bool = False
    needs_support: bool = True
    alpha: float = 1.0
    beta: float = 5.5
    epochs: int = 20
    batch: int = 256
    rate: float = 1e-3
    epsilon: float = 1e-4

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        known = LabelledFeatures.of_support(bench, support)
        keys, values = torch.from_numpy(known.features), torch.from_numpy(_compute_values(known))
        text = head_logits(bench.ensemble, bench)
        if self.fine_tuned and known.learnable.any():
            keys = self._tune_keys(known, values, torch.from_numpy(to_float64(bench.ensemble.weights)), seed)
        return np.asarray(
            text + self._query_cache(torch.from_numpy(get_test_features(bench)), keys, values).numpy(), dtype=np.float32
        )

    def _query_cache(self, features: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return self.alpha * (torch.exp(-self.beta * (1 - features @ keys.T)) @ values)

    def _tune_keys(self, known: LabelledFeatures, values: torch.Tensor, weights: torch.Tensor, seed: int) -> torch.Tensor:
        """Minimise the balanced log-loss of the support over the keys. The text's bias balances the two kinds at the start."""
        features, balanced = torch.from_numpy(known.features), torch.from_numpy(known.balanced_weights)
        target = torch.from_numpy((known.labels == PRESENT).astype(np.float64))
        text = features @ weights.T
        with torch.no_grad():
            text -= (balanced * (text + self._query_cache(features, features, values))).sum(dim=0)
        tuned = features.clone().requires_grad_()
        optimiser = torch.optim.AdamW([tuned], lr=self.rate, eps=self.epsilon)
        batches = _shuffle_batches(len(features), self.batch, self.epochs, seed)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, len(batches))
        for rows in batches:
            logits = text[rows] + self._query_cache(features[rows], tuned, values)
            loss = (balanced[rows] * functional.binary_cross_entropy_with_logits(logits, target[rows], reduction="none")).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        return tuned.detach()


def _compute_values(known: LabelledFeatures) -> Floats:
    """Return cache values [n, F]; 0 for findings that cannot be learnt, whose scores stay the text's."""
    return np.asarray(2 * known.positive_counts * known.signed_weights)


def _shuffle_batches(count: int, size: int, epochs: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each step: all images once per epoch, each epoch in another order."""
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(count) for _ in range(epochs)]
    return [order[start : start + size] for order in orders for start in range(0, count, size)]
