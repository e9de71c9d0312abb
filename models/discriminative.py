"""A text-anchored linear head for labels that were looked for, not drawn by lot.

`models.anchored` models how films with a finding lie in the archive: the mean of the positives against the mean of all films. That
is right for a random sample, and wrong for one that was mined: positives that were found among the films ranked highest lie high
along the very direction they were ranked by, and learning from them turns the head toward what it knew already. A model of the
finding given the film suffers less from it, however the films were chosen by what the model sees of them: the choice drops out of
p(finding | film). So here a like prior (the text's direction, a Gaussian for what the text does not know) meets the likelihood of
a logistic regression, and the head is its posterior mode.

In whitened coordinates z the log-odds of finding c are z . w_c + b_c with w_c = k a_c + e_c, a_c the direction along which
zero-shot ranks. How much the text counts, k, is one number for all findings, learnt from all their labels; e_c has the archive's
variance as its own. Every unknown is scaled to N(0, 1): a convex, L2-penalised logistic regression whose numbers do not depend on
the archive's units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit

from models.anchored import Whitening, joined, text_anchor
from models.head import LinearHead

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Discrimination:
    """The numbers of the discriminative head. Fixed on films other than the reported ones.

    `text`: mean and standard deviation, before any label, of k, in units of the films' scatter. `size`: squared length expected of
    e_c. `intercept`: standard deviation of b_c about the log-odds of the labelled share. `steps`: of L-BFGS at most.
    """

    text: tuple[float, float] = (0.6, 0.2)
    size: float = 1.0
    intercept: float = 3.0
    steps: int = 200


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
    anchor = text_anchor(text.directions[kept], whitening)
    weights, intercepts = _Problem(whitening(features), labels[:, learnable], anchor, whitening, numbers).mode()
    directions = weights @ whitening.inverse_root.T
    bias = intercepts - directions @ whitening.mean
    return joined(LinearHead.from_weights(torch.from_numpy(directions), torch.from_numpy(bias)), text, kept)


class _Problem:
    """n films, F findings that can be learnt. The unknowns in one vector: k, b [F], e [F, D], each N(0, 1)."""

    def __init__(
        self, white: Floats, labels: npt.NDArray[np.int8], anchor: Floats, whitening: Whitening, numbers: Discrimination
    ) -> None:
        self._anchor, self._numbers = anchor, numbers
        self._known = (labels >= 0).astype(np.float64)
        self._target = (labels == 1).astype(np.float64)
        share = self._target.sum(axis=0) / self._known.sum(axis=0)
        self._middle = np.log(share / (1 - share))
        self._along = white @ anchor.T
        self._scale = np.sqrt(numbers.size * whitening.variance / whitening.variance.sum())
        self._scaled = white * self._scale

    def mode(self) -> tuple[Floats, Floats]:
        """Return weights [F, D] and intercepts [F] at the highest posterior."""
        start = np.zeros(1 + self._target.shape[1] * (1 + self._scaled.shape[1]))
        found = minimize(self._loss, start, jac=True, method="L-BFGS-B", options={"maxiter": self._numbers.steps}).x
        k, b, e = self._parts(found)
        return k * self._anchor + e * self._scale, b

    def _parts(self, unknown: Floats) -> tuple[float, Floats, Floats]:
        """k and b [F] in their own units, e [F, D] in units of its scale."""
        findings = len(self._middle)
        mean, spread = self._numbers.text
        b = self._middle + self._numbers.intercept * unknown[1 : 1 + findings]
        return mean + spread * float(unknown[0]), b, unknown[1 + findings :].reshape(findings, -1)

    def _loss(self, unknown: Floats) -> tuple[float, Floats]:
        """Negative log posterior and its gradient."""
        k, b, e = self._parts(unknown)
        odds = k * self._along + self._scaled @ e.T + b
        value = (self._known * np.logaddexp(0, odds) - self._target * odds).sum() + unknown @ unknown / 2
        excess = self._known * expit(odds) - self._target
        by_text = self._numbers.text[1] * np.sum(self._along * excess)
        by_rest = (self._numbers.intercept * excess.sum(axis=0), (excess.T @ self._scaled).ravel())
        return float(value), np.concatenate([[by_text], *by_rest]) + unknown
