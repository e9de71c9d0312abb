"""A linear head from few labels: discriminant analysis whose prior is the text and whose background is the unlabelled archive.

The archive has thousands of films and the support a handful of labels, so whatever can be learnt without labels is: the mean m
and the covariance S of the features. In whitened coordinates z = S^-1/2 (f - m) films scatter alike in all directions, and the
best linear score for finding c is z . d_c, where d_c is how far the films that show it lie from all films (Fisher 1936). Most
films do not show c, so m stands for the negatives and no labelled negative is needed for the direction.

What remains unknown is d_c: F vectors of D numbers from a few films each. The text says where to expect them:

    d_c = k1 * z_c + k2 * g_c + e_c

z_c is the direction along which zero-shot ranks (t_c as weights), g_c the one of the text difference taken as a difference of
films (t_c as a shift), both of unit length, and e_c ~ N(0, v) is what the text does not know. Its variance in each coordinate
follows a power of the archive's variance there, and the findings share a part of it: sick films resemble each other. The mean of
the n_c positives is d_c with noise 1 / n_c, so the posterior of everything Gaussian is closed form, and the anchor fades as 1 / n_c
does. How much the text counts (k1, k2) is estimated from all findings together; how large e_c is, how it is spread and how much
is shared is averaged over a small grid, each point weighted with the evidence of the support (empirical Bayes). No label but the
support's is seen, nothing is tuned on a held-out set, and with no labels left the score is the text's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf

from models.head import LinearHead

Floats = npt.NDArray[np.float64]

_SMALLEST = 1e-9  # of the largest variance: below it a direction is rounding


@dataclass(frozen=True)
class Whitening:
    """Mean [D], principal axes [D, D] (columns) and variances [D] of an archive's features, float64."""

    mean: Floats
    axes: Floats
    variance: Floats

    @classmethod
    def of(cls, features: torch.Tensor) -> Self:
        """Estimate it from unlabelled features [N, D], the covariance shrunk as Ledoit and Wolf 2004 do. At least two films."""
        archive = features.cpu().numpy().astype(np.float64)
        mean = archive.mean(axis=0)
        covariance, _ = ledoit_wolf(archive - mean, assume_centered=True)
        variance, axes = np.linalg.eigh(covariance)
        return cls(mean, axes, np.maximum(variance, max(_SMALLEST * variance[-1], np.finfo(np.float64).tiny)))

    @property
    def inverse_root(self) -> Floats:
        """[D, D]: (f - mean) @ inverse_root has unit covariance."""
        return self.axes / np.sqrt(self.variance)

    def __call__(self, features: torch.Tensor) -> Floats:
        """Return whitened features [N, D]."""
        return np.asarray((features.cpu().numpy().astype(np.float64) - self.mean) @ self.inverse_root)


@dataclass(frozen=True)
class Anchoring:
    """The numbers of the anchored head. Fixed on simulated features; none is tuned to an archive, an encoder or labels.

    `as_weights`, `as_shift`: mean and standard deviation, before any label, of k1 and k2, in units of the films' scatter: with
    k1 = .6 alone a finding would be ranked with an AUC of .66. `sizes`: squared lengths of e_c tried; `size`: median and spread (in
    natural logarithms) expected of them. `powers`: of the archive's variance, tried for the variance of e_c; 0: signal anywhere,
    1: as much as films differ. `shared`: parts of it tried that are common to all findings. `overlap`: how much of the noise two
    findings share that were learnt from the same film; below 1 because films with several findings differ from films with one.
    """

    as_weights: tuple[float, float] = (0.6, 0.2)
    as_shift: tuple[float, float] = (0.1, 0.15)
    sizes: tuple[float, ...] = (0.05, 0.125, 0.3125, 0.78125, 2.0, 5.0)
    size: tuple[float, float] = (0.7, 1.0)
    powers: tuple[float, ...] = (0.5, 1.0, 1.5)
    shared: tuple[float, ...] = (0.0, 0.25)
    overlap: float = 0.6


def anchored_head(
    features: torch.Tensor,
    labels: npt.NDArray[np.int8],
    text: LinearHead,
    whitening: Whitening,
    numbers: Anchoring = Anchoring(),
) -> LinearHead:
    """Return the head for unit vectors [n, D] and labels [n, F] (1 present, 0 absent, -1 unknown). Closed form, no chance in it.

    A finding without a positive or without a negative keeps its text classifier. The logit of the others is the logarithm of
    p(z | present) / p(z | absent): a probability at even odds, to be moved to the prevalence of the place by calibration.
    """
    learnable = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    if not learnable.any():
        return text
    kept = torch.from_numpy(learnable).to(text.bias.device)
    anchors = text_anchors(text.directions[kept], whitening)
    shifts, noise = _observed(whitening(features), labels[:, learnable] == 1, numbers.overlap)
    learnt = _as_head(_posterior(shifts, noise, anchors, whitening.variance, numbers), whitening)
    return joined(learnt, text, kept)


def text_anchors(directions: torch.Tensor, whitening: Whitening) -> Floats:
    """Return [2, F, D], of unit length in whitened coordinates: text directions [F, D] as weights, and as a shift."""
    along_axes = directions.cpu().numpy().astype(np.float64) @ whitening.axes
    spread = np.sqrt(whitening.variance)
    both = np.stack([along_axes * spread, along_axes / spread])
    return np.asarray(both / np.maximum(np.linalg.norm(both, axis=-1, keepdims=True), np.finfo(np.float64).tiny))


def _observed(white: Floats, positive: npt.NDArray[np.bool_], overlap: float) -> tuple[Floats, Floats]:
    """The positives' means [F, D] and the covariance of their noise [F, F], the same in each coordinate."""
    mean = (positive / positive.sum(axis=0)).T  # [F, n]
    return mean @ white, overlap * (mean @ mean.T) + (1 - overlap) * np.diag(1 / positive.sum(axis=0))


def _posterior(shifts: Floats, noise: Floats, anchors: Floats, variance: Floats, numbers: Anchoring) -> Floats:
    """[F, D]: the expected d_c, averaged over the grid by evidence."""
    evidence, expected = zip(*_grid(shifts, noise, anchors, variance, numbers), strict=True)
    weight = np.exp(np.array(evidence) - max(evidence))
    return np.asarray(np.einsum("g,gfd->fd", weight / weight.sum(), np.stack(expected)))


def _grid(shifts: Floats, noise: Floats, anchors: Floats, variance: Floats, numbers: Anchoring) -> Iterator[tuple[float, Floats]]:
    """Log evidence and expected d_c at each point of the grid."""
    prior = np.array([numbers.as_weights, numbers.as_shift])
    median, spread = numbers.size
    for shared in numbers.shared:
        alike = shared + (1 - shared) * np.eye(len(shifts))
        # coordinates of the findings in which the noise is 1 and e_c is independent: V' noise V = 1, V' alike V = strength
        strength, basis = eigh(alike, noise)
        rotated, rotated_anchors = basis.T @ shifts, basis.T @ anchors
        for power in numbers.powers:
            profile = variance**power / np.mean(variance**power) / len(variance)
            for size in numbers.sizes:
                signal = size * profile  # [D] variance of e_c
                total = 1 + np.maximum(strength, 0.0)[:, None] * signal
                fit, counts, residual = _text_counts(rotated, rotated_anchors, total, prior)
                expected = np.einsum("k,kfd->fd", counts, anchors) + signal * (alike @ basis @ (residual / total))
                yield fit - (np.log(size / median) / spread) ** 2 / 2, expected


def _text_counts(shifts: Floats, anchors: Floats, total: Floats, prior: Floats) -> tuple[float, Floats, Floats]:
    """Log evidence, k [2], and what k does not explain of the shifts [F, D], whose variance is `total`."""
    expected, precision = prior[:, 0], 1 / prior[:, 1] ** 2
    curvature = np.einsum("kfd,lfd->kl", anchors / total, anchors) + np.diag(precision)
    counts = np.linalg.solve(curvature, np.einsum("kfd,fd->k", anchors, shifts / total) + precision * expected)
    residual = shifts - np.einsum("k,kfd->fd", counts, anchors)
    misfit = np.sum(residual**2 / total) + precision @ (counts - expected) ** 2
    return float(-(misfit + np.log(total).sum() + np.linalg.slogdet(curvature).logabsdet) / 2), counts, residual


def _as_head(expected: Floats, whitening: Whitening) -> LinearHead:
    """z . d - |d|^2 / 2, in the coordinates of the features."""
    weights = expected @ whitening.inverse_root.T
    bias = -weights @ whitening.mean - (expected**2).sum(axis=1) / 2
    return LinearHead.from_weights(torch.from_numpy(weights), torch.from_numpy(bias))


def joined(learnt: LinearHead, text: LinearHead, kept: torch.Tensor) -> LinearHead:
    """Return the text's head with the learnt findings, a mask [F], put in."""
    tensors = {name: tensor.clone() for name, tensor in text.tensors.items()}
    for name, tensor in learnt.tensors.items():
        tensors[name][kept] = tensor.to(kept.device)
    return LinearHead(**tensors)
