"""A linear head from few labels: discriminant analysis whose prior is the text and whose background is the unlabelled archive.

The archive has thousands of films and the support a handful of labels, so whatever can be learnt without labels is: the mean m
and the covariance S of the features. In whitened coordinates z = S^-1/2 (f - m) films scatter alike in all directions, and the
best linear score for finding c is z . d_c, where d_c is how far the films that show it lie from all films (Fisher 1936). Most
films do not show c, so m stands for the negatives and no labelled negative is needed for the direction.

What remains unknown is d_c: F vectors of D numbers from a few films each. The text says where to expect them:

    d_c = k_c * z_c + e_c

z_c, of unit length, is the direction along which zero-shot ranks, k_c how far the text is right about the finding, and e_c what it
does not know. k_c lies around a k that all findings share, since they share a text encoder; e_c is Gaussian, larger where films
differ more. Findings can be told apart about equally well whoever says how, so what a good text explains is not left to e_c: its
size is expected to be what k^2 leaves of the whole distance. A blunt text therefore lets go at the first label, and a good one
holds until the labels outweigh it. The mean of the n_c positives is d_c with noise 1 / n_c: the posterior is closed form, and the
anchor fades as 1 / n_c does. k, the size of e_c and how it is spread are averaged over a small grid, each point weighted with the
evidence of the support of all findings together (empirical Bayes). No label but the support's is seen, nothing is tuned on a
held-out set, and with no labels left the score is the text's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp

from models.classifier.head import LinearHead
from models.training.whitening import Floats, Labels, WhiteningTransform, fit_with_text_fallback


@dataclass(frozen=True)
class AnchoredHeadSettings:
    """The numbers of the anchored head. Fixed on simulated films and texts; none is tuned to an archive, an encoder or labels.

    `text`: mean and standard deviation of k before any label, in units of the films' scatter: with k = .75 alone a finding would be
    ranked with an AUC of .70. `counts`: k tried. `differs`: standard deviation of a finding's k_c around k. `apart`: squared length
    expected of d_c: with 1.5 a finding can be told with an AUC of .81. `sizes`: median squared lengths of e_c tried; expected is
    what k leaves of `apart`, at least `least`, within `size_spread` (of natural logarithms). `own`: logarithms by which a finding's
    squared length may differ from the median, `own_spread` their standard deviation. `powers`: of the archive's variance, tried for
    the variance of e_c in each direction; 0: signal anywhere, 1: as much as films differ. `trust`: share of the evidence that
    counts, because films with several findings are seen by each of them.
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
    """Return the head for unit vectors [n, D] and labels [n, F]; see `fit_with_text_fallback`. Closed form, no chance in it."""
    return fit_with_text_fallback(partial(fit_anchored_weights, settings=settings), features, labels, text, whitening)


def fit_anchored_weights(
    white: Floats,
    labels: Labels,
    anchor: Floats,
    whitening: WhiteningTransform,
    settings: AnchoredHeadSettings = AnchoredHeadSettings(),
) -> tuple[Floats, Floats]:
    """Implements `FitWeights`: d_c and -|d_c|^2 / 2, which give the logarithm of p(z | present) / p(z | absent)."""
    expected = _average_posterior(*_summarise_positives(white, labels == 1), anchor, whitening.variance, settings)
    return expected, -(expected**2).sum(axis=1) / 2


def _summarise_positives(white: Floats, positive: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The positives' means [F, D] and the variance [F] of their noise, the same in each coordinate."""
    count = positive.sum(axis=0)
    return np.asarray((positive / count).T @ white), 1.0 / count


def _average_posterior(shifts: Floats, noise: Floats, anchor: Floats, variance: Floats, settings: AnchoredHeadSettings) -> Floats:
    """[F, D]: the expected d_c, averaged over the grid by evidence."""
    points = list(_evaluate_grid(shifts, noise, anchor, variance, settings))
    evidence = np.concatenate([evidence for evidence, _ in points])
    weight = np.exp(evidence - logsumexp(evidence))
    return np.asarray(np.einsum("m,mfd->fd", weight, np.concatenate([expected for _, expected in points])))


def _evaluate_grid(
    shifts: Floats, noise: Floats, anchor: Floats, variance: Floats, settings: AnchoredHeadSettings
) -> Iterator[tuple[Floats, Floats]]:
    """Log evidence [M] and expected d_c [M, F, D] for the M sizes, at each power and each k."""
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
    """[M]: log density, up to a constant, of k and the sizes before any label."""
    mean, spread = settings.text
    left = max(settings.apart - count**2 - settings.differs**2, settings.least)
    return -(((count - mean) / spread) ** 2 + (np.log(sizes / left) / settings.size_spread) ** 2) / 2


def _compute_posterior(
    count: float, shifts: Floats, anchor: Floats, signal: Floats, noise: Floats, differs: float
) -> tuple[Floats, Floats]:
    """Log evidence [M, own, F] and expected d_c [M, own, F, D] for k = `count` and the variances `signal` of e_c.

    The observed shift is k z_c with the variance signal + noise, and `differs`^2 more along z_c: one step of a rank-one update.
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
