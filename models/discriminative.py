"""A text-anchored linear head for labels that were looked for, not drawn by lot.

`models.anchored` models how films with a finding lie in the archive: the mean of the positives against the mean of all films. That
is right for a random sample, and wrong for one that was mined: positives that were found among the films ranked highest lie high
along the very direction they were ranked by, and learning from them turns the head toward what it knew already. A model of the
finding given the film does not suffer from it, however the films were chosen by what the model sees of them: the choice drops
out of p(finding | film). So here the same prior (text as weights, text as a shift, a Gaussian for what the text does not know)
meets the likelihood of a logistic regression, and the head is its posterior mode.

In whitened coordinates z the log-odds of a finding are z . w + b with w = k1 a1 + k2 a2 + e: `Anchoring` says how k1 and k2 are
expected, e has the archive's variance to a power as its own. Every unknown is scaled to N(0, 1), so the problem is an L2-penalised
logistic regression with an offset, convex, and its size does not depend on the archive's units.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit

from models.anchored import Anchoring, Whitening, joined, text_anchors
from models.head import LinearHead

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Discrimination:
    """The numbers of the discriminative head. Fixed on the curve of random reading, on films other than the reported ones.

    `size`: squared length of e. `power`: of the archive's variance, for the variance of e. `intercept`: standard deviation of the
    log-odds of a film in the middle of the archive about those of the labelled share. `steps`: of L-BFGS at most.
    """

    size: float = 1.5
    power: float = 1.0
    intercept: float = 3.0
    steps: int = 200
    anchoring: Anchoring = field(default_factory=Anchoring)


def discriminative_head(
    features: torch.Tensor,
    labels: npt.NDArray[np.int8],
    text: LinearHead,
    whitening: Whitening,
    numbers: Discrimination = Discrimination(),
) -> LinearHead:
    """Return the head for unit vectors [n, D] and labels [n, F] (1 present, 0 absent, -1 unknown). No chance in it.

    A finding without a positive or without a negative keeps its text classifier. The others give log-odds at the prevalence that
    the films chosen for labelling have where they lie.
    """
    learnable = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    if not learnable.any():
        return text
    kept = torch.from_numpy(learnable).to(text.bias.device)
    white = whitening(features)
    both = text_anchors(text.directions[kept], whitening)  # [2, F, D]
    fits = [
        _mode(white[known], labels[known, column] == 1, both[:, place], whitening, numbers)
        for place, column in enumerate(np.flatnonzero(learnable))
        for known in [labels[:, column] >= 0]
    ]
    weights = np.stack([weights for weights, _ in fits]) @ whitening.inverse_root.T
    bias = np.array([bias for _, bias in fits]) - weights @ whitening.mean
    return joined(LinearHead.from_weights(torch.from_numpy(weights), torch.from_numpy(bias)), text, kept)


def _mode(
    white: Floats, positive: npt.NDArray[np.bool_], both: Floats, whitening: Whitening, numbers: Discrimination
) -> tuple[Floats, float]:
    """Weights [D] in whitened coordinates and the intercept of one finding."""
    prior = np.array([numbers.anchoring.as_weights, numbers.anchoring.as_shift])  # [2, (mean, sd)]
    expected = prior[:, 0] @ both
    profile = whitening.variance**numbers.power
    spread = np.sqrt(numbers.size * profile / profile.sum())
    share = positive.mean()
    middle = float(np.log(share / (1 - share)))
    design = np.column_stack([white * spread, (white @ both.T) * prior[:, 1], np.full(len(white), numbers.intercept)])
    offset = white @ expected + middle
    target = positive.astype(np.float64)

    def loss(unknown: Floats) -> tuple[float, Floats]:
        odds = offset + design @ unknown
        value = np.logaddexp(0, odds).sum() - target @ odds + unknown @ unknown / 2
        return float(value), design.T @ (expit(odds) - target) + unknown

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": numbers.steps}).x
    weights = expected + spread * found[: white.shape[1]] + (found[-3:-1] * prior[:, 1]) @ both
    return weights, middle + numbers.intercept * float(found[-1])
