"""Operating points: the probability from which on a finding is called present.

Two limits hold at once, and the stricter one counts. The specificity is a stated one; the share of absent findings above a
threshold comes from the archive's images, each counted by its probability of absence. The call rate is bounded by a multiple of
the prevalence: a finding that the head does not tell apart has no specific threshold, and must not be called more often than it
occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.training.calibration import Floats


@dataclass(frozen=True)
class OperatingPointSettings:
    """`specificity`: smallest share of absent findings below the threshold. `calls`: largest share of images that are called, in
    units of
    the prevalence. `even_odds`: the threshold is a probability of one half in the balanced world instead, the prevalence here.
    """

    specificity: float = 0.98
    calls: float = 2.0
    even_odds: bool = False


def choose_thresholds(
    probabilities: Floats, prevalence: Floats, settings: OperatingPointSettings = OperatingPointSettings()
) -> Floats:
    """Return the threshold [F] of each finding, above 0, from probabilities [N, F] of the archive's images, N >= 1."""
    if settings.even_odds:
        return prevalence.copy()
    return np.array(
        [_choose_threshold(own, share, settings) for own, share in zip(probabilities.T, prevalence, strict=True)], dtype=np.float64
    )


def _choose_threshold(probability: Floats, prevalence: float, settings: OperatingPointSettings) -> float:
    """Return the threshold half-way between the last image that may be called and the first that may not."""
    falling = np.sort(probability)[::-1]
    false_calls = np.cumsum(1 - falling) / np.sum(1 - falling)
    specific = int(np.searchsorted(false_calls, 1 - settings.specificity, side="right"))
    allowed = min(specific, int(settings.calls * prevalence * len(falling)), len(falling) - 1)
    above = falling[allowed - 1] if allowed else max(1.0, falling[0])
    return float((above + falling[allowed]) / 2)
