"""reading_errors: labels "present" -> the number of true positives among them, given that readers err.

Readers miss some present findings and invent some absent ones. At a prevalence of 0.2 % and 2 % of inventions, six of seven labels
"present" of a random sample are wrong, so a count of labels is no evidence. The model is that of Dawid and Skene (Applied
Statistics 1979;28:20) with known error rates: each reader errs independently, the share of true positives among the labelled
studies of a finding is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.domain import ABSENT, PRESENT, TrainingExample

PRIOR_SHARE, PRIOR_STUDIES = 0.04, 2.0
"""Expected share of true positives among labelled studies before any label, and the number of studies that it counts for."""
_ROUNDS = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingErrors:
    """`[labels]` of the configuration: shares of present findings that a reader misses and of absent ones that a reader invents."""

    missed: float = 0.05
    invented: float = 0.02

    def log_ratio(self, net_votes: Floats) -> Floats:
        """Return the log likelihood ratio of present to absent for so many votes "present" more, or, below 0, votes "absent"."""
        for_present = np.log((1 - self.missed) / self.invented)
        for_absent = np.log((1 - self.invented) / self.missed)
        return np.asarray(np.where(net_votes > 0, for_present, for_absent) * net_votes)


USUAL_ERRORS = ReadingErrors()
"""Errors of readers where a hospital states none."""


def expected_positives(examples: Sequence[TrainingExample], errors: ReadingErrors) -> Floats:
    """Return the expected number [14] of true positives among the examples labelled present; by expectation maximisation."""
    targets = np.array([example.targets for example in examples])
    votes = np.array([example.votes or (1,) * len(example.targets) for example in examples], dtype=np.float64)
    known = targets >= ABSENT
    ratio = errors.log_ratio(np.where(targets == PRESENT, votes, -votes))
    share = np.full(targets.shape[1], PRIOR_SHARE)
    for _ in range(_ROUNDS):
        present = np.where(known, 1 / (1 + np.exp(-ratio) * (1 - share) / share), 0.0)
        share = (present.sum(axis=0) + PRIOR_SHARE * PRIOR_STUDIES) / (known.sum(axis=0) + PRIOR_STUDIES)
    return np.asarray((present * (targets == PRESENT)).sum(axis=0))


def probability_wrong(present: Floats, labelled_present: npt.NDArray[np.bool_], errors: ReadingErrors) -> Floats:
    """Return the probability that one reader's label is wrong where everything else gives `present`, the finding's probability."""
    likely = np.where(labelled_present, errors.invented * (1 - present), errors.missed * present)
    other = np.where(labelled_present, (1 - errors.missed) * present, (1 - errors.invented) * (1 - present))
    return np.asarray(likely / np.maximum(likely + other, np.finfo(np.float64).tiny))
