"""A text-anchored linear head for labels that were looked for, not drawn by lot.

`anchored_head` models how films with a finding lie in the archive: mean of the positives against mean of all films. That
is right for a random sample, and wrong for one that was mined: positives that were found among the films ranked highest lie high
along the very direction they were ranked by, and learning from them turns the head toward what it knew already. A model of the
finding given the film suffers less from it, however the films were chosen by what the model sees of them: the choice drops out of
p(finding | film). So here a like prior (the text's direction, a Gaussian for what the text does not know) meets the likelihood of
a logistic regression, and the head is its posterior mode.

In whitened coordinates z the log-odds of finding c are z . w_c + b_c with w_c = k a_c + e_c, a_c the direction along which
zero-shot ranks. How much the text counts, k, is one number for all findings, learnt from all their labels; e_c has the archive's
variance as its own. Every unknown is scaled to N(0, 1): a convex, L2-penalised logistic regression whose numbers do not depend on
the archive's units.

The log-odds are given at even odds, without those of the labelled share: how many films of a kind were labelled says nothing of the
archive, and a film that is held out would lower its own kind's share, and so be expected to be of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from models.classifier.head import LinearHead
from models.training.whitening import Floats, Labels, WhiteningTransform, fit_with_text_fallback

_GRADIENT_TOLERANCE = 1e-3
"""Length of the gradient at which the mode is found: log-odds are off by some thousandths at most."""


@dataclass(frozen=True)
class DiscriminativeHeadSettings:
    """The numbers of the discriminative head. Fixed on films other than the reported ones.

    `text`: mean and standard deviation, before any label, of k, in units of the films' scatter. `size`: squared length expected of
    e_c. `intercept`: standard deviation of b_c about the log-odds of the labelled share. `steps`: of Newton's method at most.
    """

    text: tuple[float, float] = (0.6, 0.2)
    size: float = 1.0
    intercept: float = 3.0
    steps: int = 200


def discriminative_head(
    features: torch.Tensor,
    labels: Labels,
    text: LinearHead,
    whitening: WhiteningTransform,
    settings: DiscriminativeHeadSettings = DiscriminativeHeadSettings(),
) -> LinearHead:
    """Return the head for unit vectors [n, D] and labels [n, F]; see `fit_with_text_fallback`. No chance in it."""
    return fit_with_text_fallback(partial(fit_discriminative_weights, settings=settings), features, labels, text, whitening)


def fit_discriminative_weights(
    white: Floats,
    labels: Labels,
    anchor: Floats,
    whitening: WhiteningTransform,
    settings: DiscriminativeHeadSettings = DiscriminativeHeadSettings(),
) -> tuple[Floats, Floats]:
    """Implements `FitWeights`."""
    return _LogisticPosterior(white, labels, anchor, whitening, settings).mode()


class _LogisticPosterior:
    """n films, F findings that can be learnt. The unknowns in one vector: k, b [F], e [F, D], each N(0, 1)."""

    def __init__(
        self, white: Floats, labels: Labels, anchor: Floats, whitening: WhiteningTransform, settings: DiscriminativeHeadSettings
    ) -> None:
        self._anchor, self._settings = anchor, settings
        self._known = (labels >= 0).astype(np.float64)
        self._target = (labels == 1).astype(np.float64)
        self._text_scores = white @ anchor.T
        self._scale = np.sqrt(settings.size * whitening.variance / whitening.variance.sum())
        self._scaled_features = white * self._scale
        share = self._target.sum(axis=0) / self._known.sum(axis=0)
        self._expected = settings.text[0] * self._text_scores + np.log(share / (1 - share))  # log-odds where every unknown is 0

    def mode(self) -> tuple[Floats, Floats]:
        """Return weights [F, D], and intercepts [F] without the log-odds of the labelled share, at the highest posterior."""
        start = np.zeros(1 + self._target.shape[1] * (1 + self._scaled_features.shape[1]))
        how = {"maxiter": self._settings.steps, "gtol": _GRADIENT_TOLERANCE}
        found = minimize(self._compute_loss, start, jac=True, hessp=self._multiply_hessian, method="trust-ncg", options=how).x
        k, b, e = self._split_unknowns(found)
        return (self._settings.text[0] + k) * self._anchor + e * self._scale, b

    def _split_unknowns(self, unknown: Floats) -> tuple[float, Floats, Floats]:
        """k, as far as it lies from what is expected, and b [F] in their own units, e [F, D] in units of its scale."""
        findings = self._target.shape[1]
        b = self._settings.intercept * unknown[1 : 1 + findings]
        return self._settings.text[1] * float(unknown[0]), b, unknown[1 + findings :].reshape(findings, -1)

    def _compute_log_odds(self, unknown: Floats) -> Floats:
        """What unknowns add to the log-odds [n, F]."""
        k, b, e = self._split_unknowns(unknown)
        return np.asarray(k * self._text_scores + self._scaled_features @ e.T + b)

    def _backpropagate_slopes(self, slopes: Floats) -> Floats:
        """From slopes [n, F] along the log-odds to those along the unknowns."""
        k, b, e = self._settings.text[1] * np.sum(self._text_scores * slopes), slopes.sum(axis=0), slopes.T @ self._scaled_features
        return np.concatenate([[k], self._settings.intercept * b, e.ravel()])

    def _compute_loss(self, unknown: Floats) -> tuple[float, Floats]:
        """Negative log posterior and its gradient."""
        odds = self._expected + self._compute_log_odds(unknown)
        value = (self._known * np.logaddexp(0, odds) - self._target * odds).sum() + unknown @ unknown / 2
        return float(value), self._backpropagate_slopes(self._known * expit(odds) - self._target) + unknown

    def _multiply_hessian(self, unknown: Floats, along: Floats) -> Floats:
        """The second derivative of the loss, times a vector."""
        present = expit(self._expected + self._compute_log_odds(unknown))
        return self._backpropagate_slopes(self._known * present * (1 - present) * self._compute_log_odds(along)) + along
