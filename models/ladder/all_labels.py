"""The upper rung: what a linear head on the frozen features reaches when every film of the pool is labelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import PRESENT
from models.ladder.labelled import Labelled, head_logits, whitening
from models.ladder.logistic import logistic
from models.ladder.method import Bench, Logits, Support
from models.training.anchored_head import anchored_head

_HELD_OUT = 0.2  # of the pool's patients


@dataclass
class AllLabels:
    """Regularised logistic regression on whitened features, on top of what the anchored head makes of the same labels.

    Uses all labels of the pool, no support. The text and the mean of the positives are worth more than hundreds of films to a
    regression with hundreds of weights: without them a rung below would pass this one. `ridges`, in units of the number of
    features: tried for all findings together on a fifth of the pool's patients; the best is fitted to the whole pool.
    """

    name: str = "all-labels"
    learns: bool = False
    ridges: tuple[float, ...] = (0.125, 0.5, 2.0, 8.0, 32.0)

    def scores(self, bench: Bench, support: Support | None, *, seed: int) -> Logits:
        pool = bench.split.pool
        held = _of_some_patients(bench.cases.patient[pool], seed)
        losses = [_loss(bench, _fitted(bench, pool[~held], ridge), pool[held]) for ridge in self.ridges]
        return head_logits(_fitted(bench, pool, self.ridges[int(np.argmin(losses))]), bench)


def _of_some_patients(patients: npt.NDArray[np.str_], seed: int) -> npt.NDArray[np.bool_]:
    names, patient = np.unique(patients, return_inverse=True)
    return np.asarray((np.random.default_rng(seed).random(len(names)) < _HELD_OUT)[patient])


def _fitted(bench: Bench, rows: npt.NDArray[np.intp], ridge: float) -> LinearHead:
    features, labels, white = bench.features[rows], bench.cases.labels[rows], whitening(bench)
    anchored = anchored_head(features, labels, bench.ensemble, white)
    known = Labelled(white(features), labels)
    offset = anchored.to(features.device).logits(features).cpu().numpy().astype(np.float64)
    more, bias = logistic(known, ridge=ridge * len(white.mean), offset=offset)
    more = more @ white.inverse_root.T  # from whitened coordinates to those of the features
    moved = torch.from_numpy(bias - more @ white.mean)
    return LinearHead.from_weights(anchored.weights.cpu() + torch.from_numpy(more), anchored.bias.cpu() + moved)


def _loss(bench: Bench, head: LinearHead, rows: npt.NDArray[np.intp]) -> float:
    """Balanced log-loss of these films, summed over the findings."""
    features = bench.features[rows]
    known = Labelled(np.empty((len(rows), 0)), bench.cases.labels[rows])
    logits = head.to(features.device).logits(features).cpu().numpy().astype(np.float64)
    return float(np.sum(known.halves * (np.logaddexp(0.0, logits) - (known.labels == PRESENT) * logits)))
