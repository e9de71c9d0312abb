"""Prevalence of each finding in an archive: a published share, a random sample with labels, and the archive's scores.

The prior is a log-normal distribution around the published share: hospitals differ from a published data set by factors. A random
sample with labels (the monitoring sample) gives a binomial likelihood, with the errors of readers. The scores of the archive's
images give the mixture likelihood of Saerens et al. 2002, tempered, since a head is no exact likelihood ratio; their effect is
bounded to a factor of the estimate without the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from models.published_shares import published_share
from models.training.calibration import Floats, Labels

_SHARES = np.exp(np.linspace(np.log(3e-4), np.log(0.5), 80))  # a feature present in more than half of an archive is no finding
_MAX_LOG_ODDS = 20.0


@dataclass(frozen=True)
class ReaderErrors:
    """Share of present findings that readers miss, and of absent findings that readers invent."""

    missed: float = 0.05
    invented: float = 0.005

    def observed(self, share: npt.ArrayLike) -> Floats:
        """Return the share of labels "present" where the finding has this prevalence."""
        return np.asarray(share) * (1 - self.missed) + (1 - np.asarray(share)) * self.invented


@dataclass(frozen=True)
class PrevalenceSettings:
    """`spread`: prior standard deviation of the natural logarithm of a prevalence around the published share. `temper`: weight of
    the likelihood of the archive's scores. `bound`: largest factor by which the scores change the estimate.
    """

    spread: float = 0.8
    temper: float = 0.1
    bound: float = 3.0
    errors: ReaderErrors = ReaderErrors()


def published_prevalence(findings: Sequence[str], stated: Mapping[str, float] = MappingProxyType({})) -> Floats:
    """Return the share [F] of each finding: the stated one, else that of ChestX-ray14."""
    return np.array([stated.get(finding, published_share(finding)) for finding in findings])


def estimate_prevalences(
    published: Floats, odds: Floats, sample: Labels, settings: PrevalenceSettings = PrevalenceSettings()
) -> Floats:
    """Return the prevalence [F] of each finding in the archive.

    `published` [F]: shares of a published data set. `odds` [N, F]: log-odds at even odds of the archive's images, N >= 0.
    `sample` [M, F]: labels of images drawn at random from the archive, M >= 0.
    """
    prior = -((np.log(_SHARES)[:, None] - np.log(published)) ** 2) / (2 * settings.spread**2)
    present, known = (sample == 1).sum(axis=0), (sample >= 0).sum(axis=0)
    observed = settings.errors.observed(_SHARES)[:, None]
    informed = prior + present * np.log(observed) + (known - present) * np.log1p(-observed)
    scored = informed + settings.temper * _score_likelihood(odds)
    middle = _expect_share(informed)
    return np.clip(_expect_share(scored), middle / settings.bound, middle * settings.bound)


def _score_likelihood(odds: Floats) -> Floats:
    """Return the log-likelihood [S, F] of each share, from log-odds [N, F]."""
    ratios = np.exp(np.clip(odds, -_MAX_LOG_ODDS, _MAX_LOG_ODDS))
    return np.stack([np.log(share * ratios + 1 - share).sum(axis=0) for share in _SHARES])


def _expect_share(log_density: Floats) -> Floats:
    """Return the posterior geometric mean [F] of the shares."""
    weight = np.exp(log_density - logsumexp(log_density, axis=0))
    return np.asarray(np.exp((weight * np.log(_SHARES)[:, None]).sum(axis=0)))
