"""Text-anchored discriminative head for labels of selected (mined) images.

`anchored_head` models the distribution of images with a finding: the mean of the positives against the mean of all images. That
holds for a random sample and fails for a mined one: positives found among the highest-ranked images lie high along the ranking
direction itself, and training on them turns the head toward what it already knew. A model of the finding given the image suffers
less, if the selection depended only on the features: the selection cancels in p(finding | image). Here a similar prior (the text's
direction, a Gaussian for the part outside the text) is combined with the likelihood of a logistic regression, and the head is the
posterior mode.

In whitened coordinates z the log-odds of finding c are z . w_c + b_c with w_c = k a_c + e_c, a_c the direction of the zero-shot
ranking. The weight k of the text is one number for all findings, learnt from all labels; the variance of e_c is proportional to the
archive's. Every unknown is scaled to N(0, 1): a convex, L2-penalised logistic regression independent of the archive's units.

The log-odds are given at even odds, without those of the labelled share: the number of labelled images of a kind says nothing of
the archive, and holding an image out would lower the share of its own kind and bias its prediction toward the other.
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
"""Gradient norm at which the optimiser stops: log-odds are off by some thousandths at most."""


@dataclass(frozen=True)
class DiscriminativeHeadSettings:
    """Constants of the discriminative head. Fixed on images other than the reported ones.

    `text`: prior mean and standard deviation of k, in units of the images' scatter. `size`: expected squared length of e_c.
    `intercept`: standard deviation of b_c about the log-odds of the labelled share. `steps`: largest number of Newton steps.
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
    """Return the head for unit vectors [n, D] and labels [n, F]; see `fit_with_text_fallback`. Deterministic."""
    return fit_with_text_fallback(partial(fit_discriminative_weights, settings=settings), features, labels, text, whitening)


def fit_discriminative_weights(
    white: Floats,
    labels: Labels,
    anchor: Floats,
    whitening: WhiteningTransform,
    weights: Floats,
    settings: DiscriminativeHeadSettings = DiscriminativeHeadSettings(),
) -> tuple[Floats, Floats]:
    """Implement `FitWeights`."""
    return _LogisticPosterior(white, labels, anchor, whitening, weights, settings).mode()


class _LogisticPosterior:
    """The posterior for n images and F learnable findings. Unknowns in one vector: k, b [F], e [F, D], each N(0, 1)."""

    def __init__(
        self,
        white: Floats,
        labels: Labels,
        anchor: Floats,
        whitening: WhiteningTransform,
        weights: Floats,
        settings: DiscriminativeHeadSettings,
    ) -> None:
        self._anchor, self._settings = anchor, settings
        self._known = (labels >= 0) * weights
        self._target = (labels == 1) * weights
        self._text_scores = white @ anchor.T
        self._scale = np.sqrt(settings.size * whitening.variance / whitening.variance.sum())
        self._scaled_features = white * self._scale
        share = self._target.sum(axis=0) / self._known.sum(axis=0)
        self._expected = settings.text[0] * self._text_scores + np.log(share / (1 - share))  # log-odds where every unknown is 0

    def mode(self) -> tuple[Floats, Floats]:
        """Return weights [F, D], and intercepts [F] without the log-odds of the labelled share, at the highest posterior."""
        start = np.zeros(1 + self._target.shape[1] * (1 + self._scaled_features.shape[1]))
        options = {"maxiter": self._settings.steps, "gtol": _GRADIENT_TOLERANCE}
        mode = minimize(self._compute_loss, start, jac=True, hessp=self._multiply_hessian, method="trust-ncg", options=options).x
        k, b, e = self._split_unknowns(mode)
        return (self._settings.text[0] + k) * self._anchor + e * self._scale, b

    def _split_unknowns(self, unknown: Floats) -> tuple[float, Floats, Floats]:
        """Return the deviation of k from its prior mean and b [F] in their own units, e [F, D] in units of its scale."""
        findings = self._target.shape[1]
        b = self._settings.intercept * unknown[1 : 1 + findings]
        return self._settings.text[1] * float(unknown[0]), b, unknown[1 + findings :].reshape(findings, -1)

    def _compute_log_odds(self, unknown: Floats) -> Floats:
        """Return the contribution of the unknowns to the log-odds [n, F]."""
        k, b, e = self._split_unknowns(unknown)
        return np.asarray(k * self._text_scores + self._scaled_features @ e.T + b)

    def _backpropagate_slopes(self, slopes: Floats) -> Floats:
        """Return the gradient along the unknowns from the gradient [n, F] along the log-odds."""
        k, b, e = self._settings.text[1] * np.sum(self._text_scores * slopes), slopes.sum(axis=0), slopes.T @ self._scaled_features
        return np.concatenate([[k], self._settings.intercept * b, e.ravel()])

    def _compute_loss(self, unknown: Floats) -> tuple[float, Floats]:
        """Return the negative log posterior and its gradient."""
        odds = self._expected + self._compute_log_odds(unknown)
        value = (self._known * np.logaddexp(0, odds) - self._target * odds).sum() + unknown @ unknown / 2
        return float(value), self._backpropagate_slopes(self._known * expit(odds) - self._target) + unknown

    def _multiply_hessian(self, unknown: Floats, along: Floats) -> Floats:
        """Return the Hessian of the loss times a vector."""
        present = expit(self._expected + self._compute_log_odds(unknown))
        return self._backpropagate_slopes(self._known * present * (1 - present) * self._compute_log_odds(along)) + along
