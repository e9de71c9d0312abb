"""Text-anchored linear head from few labels: discriminant analysis with the text as prior and the unlabelled archive as background.

The archive has thousands of images and the support a handful of labels, so the mean m and the covariance S of the features are
estimated without labels. In whitened coordinates z = S^-1/2 (f - m) images scatter equally in all directions, and the best linear
score for finding c is z . d_c, where d_c is the shift of the images with finding c from the mean of all images (Fisher 1936). Most
images do not show c, so m stands for the negatives and the direction needs no labelled negative.

The unknowns are the d_c: F vectors of D numbers from a few images each. The text gives their prior:

    d_c = k_c * z_c + e_c

z_c, of unit length, is the direction of the zero-shot ranking, k_c the degree to which the text is right about the finding, and e_c
the part outside the text. k_c varies around a k shared by all findings, since they share a text encoder; e_c is Gaussian, larger in
directions of larger variance. Findings are separable about equally well whatever the text explains, so the part explained by a good
text is not left to e_c: the expected size of e_c is the remainder of the whole squared distance after k^2. A weak text therefore
yields at the first label, and a good one holds until the labels outweigh it. The mean of the n_c positives is d_c with noise
1 / n_c: the posterior is closed form, and the anchor fades as 1 / n_c. k, the size of e_c and its spectrum are averaged over a
small grid, each point weighted by the evidence of the support of all findings together (empirical Bayes). Only the support's labels
are used, nothing is tuned on a held-out set, and without labels the score is the text's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.special import logsumexp

from models.classifier.head import LinearHead
from models.training.whitening import Floats, Labels, WhiteningTransform, fit_with_text_fallback


@dataclass(frozen=True)
class AnchoredHeadSettings:
    """Constants of the anchored head. Fixed on simulated images and texts; none is tuned to an archive, an encoder or labels.

    `text`: prior mean and standard deviation of k, in units of the images' scatter: k = .75 alone ranks a finding with an AUC of
    .70. `counts`: grid of k. `differs`: standard deviation of a finding's k_c around k. `apart`: expected squared length of d_c:
    1.5 ranks a finding with an AUC of .81. `sizes`: grid of median squared lengths of e_c; the expected one is `apart` less the
    part explained by k, at least `least`, within `size_spread` (of natural logarithms). `own`: grid of the natural logarithm of a
    finding's squared length relative to the median, `own_spread` its standard deviation. `powers`: grid of the exponent of the
    archive's variance that gives the variance of e_c per direction; 0: equal in all directions, 1: proportional to the archive's.
    `trust`: factor on the log evidence, because images with several findings count for each of these findings.
    """

    text: tuple[float, float] = (0.75, 0.3)
    counts: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    differs: float = 0.2
    apart: float = 1.5
    sizes: tuple[float, ...] = (0.1, 0.3, 0.9, 2.7)
    least: float = 0.1
    size_spread: float = 0.5
    own: tuple[float, ...] = (-1.5, 0.0, 1.5)
    own_spread: float = 1.0
    powers: tuple[float, ...] = (0.5, 1.0)
    trust: float = 0.5


def anchored_head(
    features: torch.Tensor,
    labels: Labels,
    text: LinearHead,
    whitening: WhiteningTransform,
    settings: AnchoredHeadSettings = AnchoredHeadSettings(),
) -> LinearHead:
    """Return the head for unit vectors [n, D] and labels [n, F]; see `fit_with_text_fallback`. Closed form, deterministic."""
    return fit_with_text_fallback(partial(fit_anchored_weights, settings=settings), features, labels, text, whitening)


def fit_anchored_weights(
    white: Floats,
    labels: Labels,
    anchor: Floats,
    whitening: WhiteningTransform,
    weights: Floats,
    settings: AnchoredHeadSettings = AnchoredHeadSettings(),
) -> tuple[Floats, Floats]:
    """Implement `FitWeights`: d_c and -|d_c|^2 / 2, which give the logarithm of p(z | present) / p(z | absent)."""
    expected = _average_posterior(*_summarise_positives(white, (labels == 1) * weights), anchor, whitening.variance, settings)
    return expected, -(expected**2).sum(axis=1) / 2


def _summarise_positives(white: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Return the means [F, D] of the positives, weighted [n, F] with 0 for all other images, and the noise variance [F] of each
    mean, equal in all coordinates. An image of weight 1/2 counts as half an image.
    """
    count = positive.sum(axis=0)
    return np.asarray((positive / count).T @ white), 1.0 / count


def _average_posterior(shifts: Floats, noise: Floats, anchor: Floats, variance: Floats, settings: AnchoredHeadSettings) -> Floats:
    """Return [F, D]: the expected d_c, averaged over the grid by evidence."""
    points = list(_evaluate_grid(shifts, noise, anchor, variance, settings))
    evidence = np.concatenate([evidence for evidence, _ in points])
    weight = np.exp(evidence - logsumexp(evidence))
    return np.asarray(np.einsum("m,mfd->fd", weight, np.concatenate([expected for _, expected in points])))


def _evaluate_grid(
    shifts: Floats, noise: Floats, anchor: Floats, variance: Floats, settings: AnchoredHeadSettings
) -> Iterator[tuple[Floats, Floats]]:
    """Yield log evidence [M] and expected d_c [M, F, D] for the M sizes, at each power and each k."""
    sizes, own = np.array(settings.sizes), np.array(settings.own)
    own_prior = _normalise_logs(-((own / settings.own_spread) ** 2) / 2)
    for power in settings.powers:
        profile = variance**power / np.sum(variance**power)
        signal = (sizes[:, None] * np.exp(own))[:, :, None, None] * profile  # [M, own, 1, D] variance of e_c
        for count in settings.counts:
            evidence, expected = _compute_posterior(count, shifts, anchor, signal, noise[:, None], settings.differs)
            evidence += own_prior[:, None]
            of_finding = logsumexp(evidence, axis=1)  # [M, F]
            share = np.exp(evidence - of_finding[:, None])
            prior = _compute_log_prior(count, sizes, settings)
            yield settings.trust * of_finding.sum(axis=1) + prior, np.einsum("mof,mofd->mfd", share, expected)


def _compute_log_prior(count: float, sizes: Floats, settings: AnchoredHeadSettings) -> Floats:
    """Return [M]: log prior density, up to a constant, of k and the sizes."""
    mean, spread = settings.text
    left = max(settings.apart - count**2 - settings.differs**2, settings.least)
    return -(((count - mean) / spread) ** 2 + (np.log(sizes / left) / settings.size_spread) ** 2) / 2


def _compute_posterior(
    count: float, shifts: Floats, anchor: Floats, signal: Floats, noise: Floats, differs: float
) -> tuple[Floats, Floats]:
    """Return log evidence [M, own, F] and expected d_c [M, own, F, D] for k = `count` and the variances `signal` of e_c.

    The observed shift has the mean k z_c and the variance signal + noise, plus `differs`^2 along z_c: a rank-one update.
    """
    total = signal + noise
    residual = shifts - count * anchor
    known = 1.0 + differs**2 * (anchor**2 / total).sum(axis=-1)
    along = (anchor * residual / total).sum(axis=-1)
    more = differs**2 * along / known  # expected k_c - k
    misfit = (residual**2 / total).sum(axis=-1) - more * along
    explained = (count + more)[..., None] * anchor
    expected = explained + signal / total * (shifts - explained)
    return -(misfit + np.log(total).sum(axis=-1) + np.log(known)) / 2, expected


def _normalise_logs(logs: Floats) -> Floats:
    return np.asarray(logs - logsumexp(logs))
