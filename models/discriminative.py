"""A text-anchored linear head for labels that were looked for, not drawn by lot.

`models.anchored` models how films with a finding lie in the archive: the mean of the positives against the mean of all films. That
is right for a random sample, and wrong for one that was mined: positives that were found among the films ranked highest lie high
along the very direction they were ranked by, and learning from them turns the head toward what it knew already. A model of the
finding given the film does not suffer from it, however the films were chosen by what the model sees of them: the choice drops
out of p(finding | film). So here the same prior (text as weights, text as a shift, a Gaussian for what the text does not know)
meets the likelihood of a logistic regression, and the head is its posterior mode.

In whitened coordinates z the log-odds of finding c are z . w_c + b_c with w_c = k1 a1_c + k2 a2_c + e_c. How much the text counts
(k1, k2) is one number for all findings, as there; e_c has the archive's variance as its own, and its size is averaged over a small
grid, each point weighted with the evidence (Laplace's approximation). Every unknown is scaled to N(0, 1), so each fit is a convex,
L2-penalised logistic regression whose numbers do not depend on the archive's units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import expit

from models.anchored import Whitening, joined, text_anchors
from models.head import LinearHead

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Discrimination:
    """The numbers of the discriminative head. Fixed on the curves of random reading, on films other than the reported ones.

    `as_weights`, `as_shift`: mean and standard deviation, before any label, of k1 and k2, in units of the films' scatter. `sizes`:
    squared lengths of e_c tried; `size`: median and spread (in natural logarithms) expected of them. `intercept`: standard
    deviation of b_c about the log-odds of the labelled share. `steps`: of L-BFGS at most.
    """

    as_weights: tuple[float, float] = (0.6, 0.4)
    as_shift: tuple[float, float] = (0.1, 0.3)
    sizes: tuple[float, ...] = (0.05, 0.25, 1.0, 3.0)
    size: tuple[float, float] = (0.3, 1.0)
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
    problem = _Problem(
        whitening(features), labels[:, learnable], text_anchors(text.directions[kept], whitening), whitening, numbers
    )
    evidence, weights, bias = map(np.array, zip(*problem.grid(), strict=True))
    share = np.exp(evidence - evidence.max())
    share /= share.sum()
    directions = np.einsum("g,gfd->fd", share, weights) @ whitening.inverse_root.T
    offsets = share @ bias - directions @ whitening.mean
    return joined(LinearHead.from_weights(torch.from_numpy(directions), torch.from_numpy(offsets)), text, kept)


class _Problem:
    """n films, F findings that can be learnt. The unknowns in one vector: k [2], b [F], e [F, D], each N(0, 1)."""

    def __init__(
        self, white: Floats, labels: npt.NDArray[np.int8], anchors: Floats, whitening: Whitening, numbers: Discrimination
    ) -> None:
        self._white, self._anchors, self._numbers = white, anchors, numbers
        self._known = (labels >= 0).astype(np.float64)
        self._target = (labels == 1).astype(np.float64)
        share = self._target.sum(axis=0) / self._known.sum(axis=0)
        self._middle = np.log(share / (1 - share))
        self._prior = np.array([numbers.as_weights, numbers.as_shift])  # [2, (mean, sd)]
        self._along = np.einsum("nd,kfd->knf", white, anchors)
        self._profile = whitening.variance / whitening.variance.sum()

    def grid(self) -> Iterator[tuple[float, Floats, Floats]]:
        """Yield log evidence, weights [F, D] and intercepts [F] at each size of e."""
        median, spread = self._numbers.size
        unknown = np.zeros(2 + self._target.shape[1] * (1 + self._white.shape[1]))
        for size in self._numbers.sizes:
            scale = np.sqrt(size * self._profile)
            scaled = self._white * scale
            found = minimize(self._loss, unknown, scaled, jac=True, method="L-BFGS-B", options={"maxiter": self._numbers.steps})
            unknown = found.x
            k, b, e = self._parts(unknown)
            fit = -float(found.fun) - self._volume(unknown, scaled) - (np.log(size / median) / spread) ** 2 / 2
            yield fit, np.einsum("k,kfd->fd", k, self._anchors) + e * scale, b

    def _parts(self, unknown: Floats) -> tuple[Floats, Floats, Floats]:
        """k [2] and b [F] in their own units, e [F, D] in units of its scale."""
        findings = len(self._middle)
        b = self._middle + self._numbers.intercept * unknown[2 : 2 + findings]
        return self._prior @ [1, 0] + self._prior @ [0, 1] * unknown[:2], b, unknown[2 + findings :].reshape(findings, -1)

    def _odds(self, unknown: Floats, scaled: Floats) -> Floats:
        k, b, e = self._parts(unknown)
        return np.asarray(np.einsum("k,knf->nf", k, self._along) + scaled @ e.T + b)

    def _loss(self, unknown: Floats, scaled: Floats) -> tuple[float, Floats]:
        """Negative log posterior and its gradient."""
        odds = self._odds(unknown, scaled)
        value = (self._known * np.logaddexp(0, odds) - self._target * odds).sum() + unknown @ unknown / 2
        excess = self._known * expit(odds) - self._target
        by_text = np.einsum("knf,nf->k", self._along, excess) * self._prior[:, 1]
        by_rest = (self._numbers.intercept * excess.sum(axis=0), (excess.T @ scaled).ravel())
        return float(value), np.concatenate([by_text, *by_rest]) + unknown

    def _volume(self, unknown: Floats, scaled: Floats) -> float:
        """Half the log determinant of the curvature in each finding's e, by the smaller of the two Gram matrices."""
        chance = expit(self._odds(unknown, scaled))
        roots = np.sqrt(self._known * chance * (1 - chance))
        tall = len(scaled) > scaled.shape[1]
        total = 0.0
        for root in roots.T:
            weighted = scaled * root[:, None]
            gram = weighted.T @ weighted if tall else weighted @ weighted.T
            total += np.linalg.slogdet(np.eye(len(gram)) + gram).logabsdet / 2
        return float(total)
