"""The upper bound of the ladder: a linear head on frozen features, trained on every image of the pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.classifier.head import LinearHead
from models.evaluation.cases import PRESENT
from models.ladder.labelled_features import LabelledFeatures, head_logits, pool_whitening
from models.ladder.logistic import fit_logistic_regression
from models.ladder.method import FewShotBenchmark, Logits, Support
from models.training.anchored_head import anchored_head

_HELD_OUT_SHARE = 0.2  # of the pool's patients


@dataclass
class AllLabels:
    """Regularised logistic regression on whitened features, with the logits of the anchored head on the same labels as offset.

    Uses all labels of the pool, no support. The text and the mean of the positives are worth more than hundreds of images to a
    regression with hundreds of weights: without them a lower rung would exceed this one. `ridges`, in units of the number of
    features: validated for all findings together on a fifth of the pool's patients; the best is fitted to the whole pool.
    """

    name: str = "all-labels"
    needs_support: bool = False
    ridges: tuple[float, ...] = (0.125, 0.5, 2.0, 8.0, 32.0)

    def scores(self, bench: FewShotBenchmark, support: Support | None, *, seed: int) -> Logits:
        pool = bench.split.pool
        held = _draw_held_out(bench.cases.patient[pool], seed)
        losses = [_compute_loss(bench, _fit_head(bench, pool[~held], ridge), pool[held]) for ridge in self.ridges]
        return head_logits(_fit_head(bench, pool, self.ridges[int(np.argmin(losses))]), bench)


def _draw_held_out(patients: npt.NDArray[np.str_], seed: int) -> npt.NDArray[np.bool_]:
    names, patient = np.unique(patients, return_inverse=True)
    return np.asarray((np.random.default_rng(seed).random(len(names)) < _HELD_OUT_SHARE)[patient])


def _fit_head(bench: FewShotBenchmark, rows: npt.NDArray[np.intp], ridge: float) -> LinearHead:
    features, labels, white = bench.features[rows], bench.cases.labels[rows], pool_whitening(bench)
    anchored = anchored_head(features, labels, bench.ensemble, white)
    known = LabelledFeatures(white(features), labels)
    offset = anchored.to(features.device).logits(features).cpu().numpy().astype(np.float64)
    weights, bias = fit_logistic_regression(known, ridge=ridge * len(white.mean), offset=offset)
    weights = weights @ white.inverse_root.T  # from whitened coordinates to those of the features
    shift = torch.from_numpy(bias - weights @ white.mean)
    return LinearHead.from_weights(anchored.weights.cpu() + torch.from_numpy(weights), anchored.bias.cpu() + shift)


def _compute_loss(bench: FewShotBenchmark, head: LinearHead, rows: npt.NDArray[np.intp]) -> float:
    """Return the balanced log-loss of these images, summed over the findings."""
    features = bench.features[rows]
    known = LabelledFeatures(np.empty((len(rows), 0)), bench.cases.labels[rows])
    logits = head.to(features.device).logits(features).cpu().numpy().astype(np.float64)
    return float(np.sum(known.balanced_weights * (np.logaddexp(0.0, logits) - (known.labels == PRESENT) * logits)))
