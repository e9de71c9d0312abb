"""selection: which studies to put before a reader, and why. Pure functions of arrays; same seed, same choice.

Reading at random starves: at a prevalence of 0.2 % one study in 500 shows the finding. So a list looks for positives of the
findings that have fewest, where the model in service ranks them highest. That finds nothing where the model does not know the
finding at all: so as large a part goes to studies unlike everything that was read, which rare findings are. Smaller parts go to
studies on which two opinions differ and on which the model is undecided, and one is a plain random sample, never learnt from.

Shapes: N candidate studies, R studies read or asked for before, F findings. Scores lie in 0..1; only their order within a stratum
(view and scanner) and their logits are used, so they need not be calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pipeline import rules
from pipeline.domain import FINDINGS

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Names = npt.NDArray[np.str_]


class SelectionReason(StrEnum):
    """Kinds of reason to ask for a study: `selection_reason` of its labels."""

    MONITORING = rules.MONITORING  # by lot, to measure with; its patients are never learnt from
    POSITIVES = "positives"  # ranked high for a finding of which few positives are known
    DISAGREEMENT = "disagreement"  # the version in service and zero-shot rank it apart
    UNCERTAINTY = "uncertainty"  # the version in service is undecided on it
    COVERAGE = "coverage"  # unlike everything that was read


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionPolicy:
    """`[worklist]` of the configuration, and the numbers of the rules.

    The shares are of a list's studies, on average over lists; they need not add up to 1. `breadth`: a positive is looked for among
    so many times the studies that are asked for, so that every one of them has a known chance below 1. `prior_rate` and
    `prior_strength`: before
    anything was read for a finding's sake it is expected that `prior_rate` of the studies show it, as surely as if
    `prior_strength` of them had
    been read. `prior_positives`: so many positives is the text worth. `boldness`: how far coverage goes; see there.
    """

    positives: float = 0.35
    disagreement: float = 0.05
    uncertainty: float = 0.05
    coverage: float = 0.45
    monitoring: float = 0.1
    pool_factor: float = 2.0
    prior_rate: float = 0.15
    prior_strength: float = 4.0
    prior_positives: float = 5.0
    distance_power: float = 4.0

    @property
    def shares(self) -> dict[SelectionReason, float]:
        """Share of each reason, adding up to 1. ZeroDivisionError where all are 0."""
        total = self.positives + self.disagreement + self.uncertainty + self.coverage + self.monitoring
        return {reason: float(getattr(self, reason.value)) / total for reason in SelectionReason}


@dataclass(frozen=True)
class CandidateStudies:
    """Studies that may be asked for, row for row. `other`: another opinion, NaN in the rows of which there is none."""

    patient: Names  # [N]
    stratum: Names  # [N] view and scanner
    scores: Floats  # [N, F] of the version in service
    zero_shot_scores: Floats  # [N, F] of zero-shot

    def __len__(self) -> int:
        return len(self.patient)


@dataclass(frozen=True)
class LabelHistory:
    """What earlier lists and labels came to. Of each finding: patients known to show it, studies read for its sake, and how many
    of those showed it."""

    positives: Floats  # [F]
    searched: Floats  # [F]
    search_positives: Floats  # [F]
    read_scores: Floats  # [R, F] scores of the studies read or asked for, by the version in service


@dataclass(frozen=True, slots=True)
class SelectedStudy:
    """One study to ask for: its row, why, and with which probability this list chose it, given what stands before it there."""

    row: int
    reason: SelectionReason
    finding: str
    probability: float


def select_studies(
    candidates: CandidateStudies, experience: LabelHistory, policy: SelectionPolicy, *, count: int, seed: int
) -> list[SelectedStudy]:
    """Choose up to `count` studies, one a patient. Fewer only where there are fewer patients.

    The random sample is drawn first and from everybody. What a reason cannot use (no second opinion, say) goes to coverage.
    """
    if not len(candidates) or count < 1:
        return []
    chance = np.random.default_rng(seed)
    quota = _allocate_quotas(policy, min(count, len(np.unique(candidates.patient))), chance)
    hand = _Selection(candidates, experience, policy, chance)
    expected = policy.shares[SelectionReason.MONITORING] * count
    hand.add_draws(hand.draw_random(quota[SelectionReason.MONITORING], expected), SelectionReason.MONITORING)
    for reason, ask in (
        (SelectionReason.POSITIVES, hand.draw_positives),
        (SelectionReason.DISAGREEMENT, hand.draw_disagreement),
        (SelectionReason.UNCERTAINTY, hand.draw_uncertainty),
    ):
        hand.add_draws(ask(quota[reason]), reason)
    hand.add_draws(hand.draw_coverage(sum(quota.values()) - len(hand.picks)), SelectionReason.COVERAGE)
    return hand.picks


def _allocate_quotas(policy: SelectionPolicy, count: int, rng: np.random.Generator) -> dict[SelectionReason, int]:
    """Whole numbers that add up to `count` and whose expectations are the shares: one lot for all, as in systematic sampling."""
    until = np.cumsum([0.0, *policy.shares.values()]) * count
    until[-1] = count
    steps = np.floor(until + rng.random())
    steps[0], steps[-1] = 0, count
    return dict(zip(policy.shares, np.diff(steps).astype(int).tolist(), strict=True))


@dataclass
class _Draw:
    row: int
    probability: float
    finding: str = ""


class _Selection:
    """The list in the making. `free` are the candidates whose patients are not on it."""

    def __init__(
        self, candidates: CandidateStudies, experience: LabelHistory, policy: SelectionPolicy, chance: np.random.Generator
    ) -> None:
        self._of, self._experience, self._policy, self._chance = candidates, experience, policy, chance
        self.picks: list[SelectedStudy] = []
        self.free = np.ones(len(candidates), dtype=bool)
        self._height = ranks_within_stratum(candidates.scores, candidates.stratum)

    def add_draws(self, chosen: Iterator[_Draw], reason: SelectionReason) -> None:
        """Put studies on the list; each patient once."""
        for one in chosen:
            self.picks.append(SelectedStudy(one.row, reason, one.finding, one.probability))
            self.free &= self._of.patient != self._of.patient[one.row]

    def draw_random(self, count: int, expected: float) -> Iterator[_Draw]:
        """Draw patients with equal chances, spread over the strata in proportion, and one study of each."""
        everyone = self._chance.permutation(np.flatnonzero(self.free))
        _, first, studies = np.unique(self._of.patient[everyone], return_index=True, return_counts=True)
        rows = everyone[first]
        order = np.lexsort((self._chance.random(len(rows)), self._of.stratum[rows]))
        places = np.floor((np.arange(count) + self._chance.random()) * len(rows) / max(count, 1)).astype(int)
        for place in order[places]:
            yield _Draw(int(rows[place]), min(1.0, expected / len(rows)) / int(studies[place]))

    def draw_positives(self, count: int) -> Iterator[_Draw]:
        """Look for positives: finding by finding, the one first where a study more is worth most, then its highest studies."""
        for finding, wanted in self._allocate_findings(count):
            rows = np.flatnonzero(self.free)
            order = rows[np.lexsort((self._chance.random(len(rows)), -self._height[rows, finding]))]
            patients = _find_first_occurrences(self._of.patient[order])
            among = order[patients][: max(wanted, round(self._policy.pool_factor * wanted))]
            for row in self._chance.permutation(among)[:wanted]:
                yield _Draw(int(row), min(1.0, wanted / len(among)), FINDINGS[finding])

    def _allocate_findings(self, count: int) -> list[tuple[int, int]]:
        """How many studies are read for which finding, scarcest first.

        What is learnt from n positives errs by 1 / (n + head_start), so one more is worth what that falls by; a study brings one
        with the probability that studies read for the finding's sake have shown so far.
        """
        policy, known = self._policy, self._experience
        rate = (known.search_positives + policy.prior_rate * policy.prior_strength) / (known.searched + policy.prior_strength)
        positives, wanted = known.positives.astype(np.float64).copy(), np.zeros(len(FINDINGS), dtype=int)
        for _ in range(count):
            finding = int(np.argmax(rate / ((positives + policy.prior_positives) * (positives + policy.prior_positives + 1))))
            wanted[finding] += 1
            positives[finding] += rate[finding]
        return [(int(finding), int(wanted[finding])) for finding in np.argsort(known.positives, kind="stable") if wanted[finding]]

    def draw_disagreement(self, count: int) -> Iterator[_Draw]:
        """The studies that the two opinions rank furthest apart in any finding."""
        apart = np.abs(self._height - ranks_within_stratum(self._of.zero_shot_scores, self._of.stratum))
        apart = np.where(np.isfinite(apart), apart, -1.0)
        for row in self._iterate_highest(apart.max(axis=1), count):
            finding = int(apart[row].argmax())
            yield _Draw(row, 1.0, FINDINGS[finding])

    def draw_uncertainty(self, count: int) -> Iterator[_Draw]:
        """The studies with the highest entropy, mean over the findings."""
        p = self._of.scores.clip(1e-6, 1 - 1e-6)
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1)
        for row in self._iterate_highest(entropy, count):
            yield _Draw(row, 1.0)

    def _iterate_highest(self, value: Floats, count: int) -> Iterator[int]:
        """Yield up to `count` free rows of positive value, the highest first; the caller takes each before it asks for the next."""
        for row in np.argsort(-value, kind="stable"):
            if count < 1 or value[row] <= 0:
                return
            if self.free[row]:
                count -= 1
                yield int(row)

    def draw_coverage(self, count: int) -> Iterator[_Draw]:
        """Studies unlike all that were read, each stratum in proportion: drawn by a power of the squared distance to the nearest.

        With the power 1 these are the draws of k-means++ (Arthur and Vassilvitskii, SODA 2007), with a high one the farthest-first
        traversal of Gonzalez (Theor Comput Sci 1985;38:293). The middle of the archive counts as read.
        """
        if count < 1:
            return
        places, read = _whiten_logits(self._of.scores, self._experience.read_scores)
        taken = np.concatenate([read, places[[pick.row for pick in self.picks]], np.zeros((1, places.shape[1]))])
        apart = _compute_nearest_distance(places, taken)
        for _ in range(count):
            if not self.free.any():
                return
            here = self.free & (self._of.stratum == self._of.stratum[self._chance.choice(np.flatnonzero(self.free))])
            weight = np.where(here, (apart / max(apart[here].max(), 1e-12)) ** self._policy.distance_power, 0.0)
            weight = weight / weight.sum() if weight.sum() > 0 else here / here.sum()
            row = int(self._chance.choice(len(weight), p=weight))
            apart = np.minimum(apart, _compute_nearest_distance(places, places[row : row + 1]))
            yield _Draw(row, float(weight[row] * here.sum() / self.free.sum()))


DISTANCE_CHUNK_ROWS = 256
"""Studies that were read, whose distances to all candidates are in memory at once: 8 bytes each, a candidate."""


def ranks_within_stratum(scores: Floats, stratum: Names) -> Floats:
    """Return how high each study stands in its own stratum, 0..1, for scores [N, F]: no view, no scanner is sick as a whole.

    A stratum of one study stands in the middle. NaN stays NaN.
    """
    found = np.full(scores.shape, np.nan)
    for name in np.unique(stratum):
        rows = np.flatnonzero(stratum == name)
        rows = rows[np.isfinite(scores[rows]).all(axis=1)]
        ranks = scores[rows].argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        found[rows] = (ranks + 0.5) / max(len(rows), 1)
    return found


def _find_first_occurrences(names: Names) -> Rows:
    """Places at which each name stands first, ascending."""
    return np.sort(np.unique(names, return_index=True)[1])


def _whiten_logits(scores: Floats, read: Floats) -> tuple[Floats, Floats]:
    """Logits of scores [N, F] and of those read [R, F], in coordinates in which the former scatter alike in all directions."""
    logit, of = (np.log(p / (1 - p)) for p in (scores.clip(1e-6, 1 - 1e-6), read.clip(1e-6, 1 - 1e-6)))
    centre = logit.mean(axis=0)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(logit, rowvar=False)) if len(logit) > 1 else np.eye(logit.shape[1]))
    root = axes / np.sqrt(np.maximum(variance, 1e-3 * variance[-1] + 1e-12))
    return np.asarray((logit - centre) @ root), np.asarray((of - centre) @ root)


def _compute_nearest_distance(points: Floats, taken: Floats) -> Floats:
    """Return the squared distance [N] of each place to the nearest of those taken [T], some of which are looked at at a time."""
    found, length = np.full(len(points), np.inf), (points**2).sum(axis=1)
    for first in range(0, len(taken), DISTANCE_CHUNK_ROWS):
        some = taken[first : first + DISTANCE_CHUNK_ROWS]
        np.minimum(found, ((some**2).sum(axis=1) - 2 * points @ some.T).min(axis=1), out=found)
    return np.asarray((found + length).clip(min=0.0))
