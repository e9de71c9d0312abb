"""acquisition: the choice of studies to label next (active learning). Pure functions of arrays; same seed, same choice.

Labelling at random finds few positives: at a prevalence of 0.2 % one study in 500 shows the finding. So a part of each list
(POSITIVES) searches for the findings with the fewest positives among the highest scores of the serving version. The search fails
for a finding that the version does not recognise, so another large part (COVERAGE) goes to studies unlike all that were read, as
studies with rare findings are. Smaller parts go to studies that two versions rank differently (DISAGREEMENT) and to studies that
the version is undecided on (UNCERTAINTY); one part is a random sample that is never trained on (MONITORING).

Shapes: N candidate studies, R studies read or requested before, F findings. Scores lie in 0..1; only their ranks within a stratum
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

UNREPORTED_CHOICE = 4
"""Unreported patients for each study that is chosen among them, so that the choice still is one."""
DISTANCE_CHUNK_ROWS = 256
"""Rows of a distance matrix [N, rows] that are in memory at once, 8 bytes per element."""


class SelectionReason(StrEnum):
    """Reason for the choice of a study: the `selection_reason` of its request and of its labels."""

    MONITORING = rules.MONITORING  # random, to measure versions; its patients are never trained on
    POSITIVES = "positives"  # ranked high for a finding with few known positives
    DISAGREEMENT = "disagreement"  # ranked differently by the serving version and by zero-shot
    UNCERTAINTY = "uncertainty"  # the serving version is undecided
    COVERAGE = "coverage"  # unlike all studies that were read


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionPolicy:
    """`[worklist]` of the configuration, and the parameters of the selection rules.

    The shares are parts of a list's studies, on average over lists; they need not add up to 1.
    """

    positives: float = 0.35  # share of a list, as the next four
    disagreement: float = 0.05
    uncertainty: float = 0.05
    coverage: float = 0.45
    monitoring: float = 0.1
    pool_factor: float = 2.0  # POSITIVES draws from this multiple of the studies it asks for, so each has a probability below 1
    prior_rate: float = 0.15  # expected rate of positives in a search, before any study was read for the finding
    prior_strength: float = 4.0  # weight of prior_rate, in studies read
    prior_positives: float = 5.0  # value of the text prompts of a finding, in positives
    distance_power: float = 4.0  # exponent of the squared distance in COVERAGE, see `_Selection.draw_coverage`

    @property
    def shares(self) -> dict[SelectionReason, float]:
        """The share of each reason, normalised to a sum of 1. ZeroDivisionError where all are 0."""
        total = self.positives + self.disagreement + self.uncertainty + self.coverage + self.monitoring
        return {reason: float(getattr(self, reason.value)) / total for reason in SelectionReason}


@dataclass(frozen=True)
class CandidateStudies:
    """N studies that may be requested, row for row."""

    patient: Names  # [N] patient keys
    stratum: Names  # [N] view and scanner
    scores: Floats  # [N, F] of the serving version
    zero_shot_scores: Floats  # [N, F] of a zero-shot version; NaN: not scored by one
    reported: npt.NDArray[np.bool_] | None = None  # [N] a report was delivered, so labels count as exposed; None: of none

    def __len__(self) -> int:
        return len(self.patient)


@dataclass(frozen=True)
class LabelHistory:
    """The results of earlier lists and labels."""

    positives: Floats  # [F] positive studies outside the monitoring sample
    searched: Floats  # [F] labelled studies that were requested as POSITIVES of the finding
    search_positives: Floats  # [F] positives among `searched`
    read_scores: Floats  # [R, F] of the serving version, for the studies read or requested


@dataclass(frozen=True, slots=True)
class SelectedStudy:
    """One study of a list."""

    row: int  # of CandidateStudies
    reason: SelectionReason
    finding: str  # finding of POSITIVES and DISAGREEMENT; "": none
    probability: float  # probability of the choice, given the studies before it on the list


def select_studies(
    candidates: CandidateStudies, history: LabelHistory, policy: SelectionPolicy, *, count: int, seed: int
) -> list[SelectedStudy]:
    """Choose `count` studies, one per patient; fewer only where there are fewer patients.

    Studies without a delivered report come first, as many as leave a choice: labels on others count as exposed, and versions are
    not measured on those. In either part the monitoring sample is drawn first, from all its candidates. Studies that another reason
    cannot use, for instance without zero-shot scores, go to coverage.
    """
    if not len(candidates) or count < 1:
        return []
    rng = np.random.default_rng(seed)
    selection = _Selection(candidates, history, policy, rng)
    reported = np.zeros(len(candidates), dtype=bool) if candidates.reported is None else candidates.reported
    if reported.any() and not reported.all():
        selection.free = ~reported
        selection.extend(min(count, len(np.unique(candidates.patient[~reported])) // UNREPORTED_CHOICE))
        selection.free = ~np.isin(candidates.patient, candidates.patient[[study.row for study in selection.selected]])
    selection.extend(count - len(selection.selected))
    return selection.selected


def _allocate_quotas(policy: SelectionPolicy, count: int, rng: np.random.Generator) -> dict[SelectionReason, int]:
    """Return integers with sum `count` and the shares as expectations: systematic sampling with one random offset."""
    bounds = np.cumsum([0.0, *policy.shares.values()]) * count
    bounds[-1] = count
    rounded = np.floor(bounds + rng.random())
    rounded[0], rounded[-1] = 0, count
    return dict(zip(policy.shares, np.diff(rounded).astype(int).tolist(), strict=True))


@dataclass
class _Draw:
    """A drawn study before it is on the list; the fields are those of SelectedStudy."""

    row: int
    probability: float
    finding: str = ""


class _Selection:
    """The list under construction. `free` [N] marks the candidates whose patients are not on it."""

    def __init__(
        self, candidates: CandidateStudies, history: LabelHistory, policy: SelectionPolicy, rng: np.random.Generator
    ) -> None:
        self._candidates, self._history, self._policy, self._rng = candidates, history, policy, rng
        self.selected: list[SelectedStudy] = []
        self.free = np.ones(len(candidates), dtype=bool)
        self._ranks = ranks_within_stratum(candidates.scores, candidates.stratum)

    def extend(self, count: int) -> None:
        """Append up to `count` of the free studies by every reason's share."""
        before, patients = len(self.selected), len(np.unique(self._candidates.patient[self.free]))
        if not patients or count < 1:
            return
        quota = _allocate_quotas(self._policy, min(count, patients), self._rng)
        expected = self._policy.shares[SelectionReason.MONITORING] * count
        self.add_draws(self.draw_random(quota[SelectionReason.MONITORING], expected), SelectionReason.MONITORING)
        for reason, draw in (
            (SelectionReason.POSITIVES, self.draw_positives),
            (SelectionReason.DISAGREEMENT, self.draw_disagreement),
            (SelectionReason.UNCERTAINTY, self.draw_uncertainty),
        ):
            self.add_draws(draw(quota[reason]), reason)
        left = sum(quota.values()) - (len(self.selected) - before)
        self.add_draws(self.draw_coverage(left), SelectionReason.COVERAGE)

    def add_draws(self, draws: Iterator[_Draw], reason: SelectionReason) -> None:
        """Append drawn studies to the list. Each patient is then no longer free, before the next draw."""
        for draw in draws:
            self.selected.append(SelectedStudy(draw.row, reason, draw.finding, draw.probability))
            self.free &= self._candidates.patient != self._candidates.patient[draw.row]

    def draw_random(self, count: int, expected: float) -> Iterator[_Draw]:
        """Draw patients with equal probability, stratified in proportion, and one study of each. `expected`: the mean count."""
        shuffled = self._rng.permutation(np.flatnonzero(self.free))
        _, first, studies_of_patient = np.unique(self._candidates.patient[shuffled], return_index=True, return_counts=True)
        rows = shuffled[first]
        by_stratum = np.lexsort((self._rng.random(len(rows)), self._candidates.stratum[rows]))
        positions = np.floor((np.arange(count) + self._rng.random()) * len(rows) / max(count, 1)).astype(int)
        for patient in by_stratum[positions]:
            yield _Draw(int(rows[patient]), min(1.0, expected / len(rows)) / int(studies_of_patient[patient]))

    def draw_positives(self, count: int) -> Iterator[_Draw]:
        """Search for positives of the findings that need them most, among the studies that the serving version ranks highest."""
        for finding, quota in self._allocate_findings(count):
            rows = np.flatnonzero(self.free)
            order = rows[np.lexsort((self._rng.random(len(rows)), -self._ranks[rows, finding]))]
            one_per_patient = order[_find_first_occurrences(self._candidates.patient[order])]
            pool = one_per_patient[: max(quota, round(self._policy.pool_factor * quota))]
            for row in self._rng.permutation(pool)[:quota]:
                yield _Draw(int(row), min(1.0, quota / len(pool)), FINDINGS[finding])

    def _allocate_findings(self, count: int) -> list[tuple[int, int]]:
        """Return (finding, number of studies to read for it), the finding with the fewest positives first.

        The error after n positives is modelled as 1 / (n + prior_positives), so the value of one more positive is the decrease of
        that error; a study is positive with the rate of the searches so far.
        """
        policy, history = self._policy, self._history
        prior_hits = policy.prior_rate * policy.prior_strength
        rate = (history.search_positives + prior_hits) / (history.searched + policy.prior_strength)
        positives, quotas = history.positives.astype(np.float64).copy(), np.zeros(len(FINDINGS), dtype=int)
        for _ in range(count):
            finding = int(np.argmax(rate / ((positives + policy.prior_positives) * (positives + policy.prior_positives + 1))))
            quotas[finding] += 1
            positives[finding] += rate[finding]
        return [(int(finding), int(quotas[finding])) for finding in np.argsort(history.positives, kind="stable") if quotas[finding]]

    def draw_disagreement(self, count: int) -> Iterator[_Draw]:
        """Draw the studies with the largest rank difference between the two versions in any finding."""
        difference = np.abs(self._ranks - ranks_within_stratum(self._candidates.zero_shot_scores, self._candidates.stratum))
        difference = np.where(np.isfinite(difference), difference, -1.0)
        for row in self._iterate_highest(difference.max(axis=1), count):
            finding = int(difference[row].argmax())
            yield _Draw(row, 1.0, FINDINGS[finding])

    def draw_uncertainty(self, count: int) -> Iterator[_Draw]:
        """Draw the studies with the highest entropy, averaged over the findings."""
        p = self._candidates.scores.clip(1e-6, 1 - 1e-6)
        entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(axis=1)
        for row in self._iterate_highest(entropy, count):
            yield _Draw(row, 1.0)

    def _iterate_highest(self, value: Floats, count: int) -> Iterator[int]:
        """Yield up to `count` free rows of positive value, highest first. The caller updates `free` before the next row."""
        for row in np.argsort(-value, kind="stable"):
            if count < 1 or value[row] <= 0:
                return
            if self.free[row]:
                count -= 1
                yield int(row)

    def draw_coverage(self, count: int) -> Iterator[_Draw]:
        """Draw studies unlike all that were read, by stratum in proportion, with probability ~ (squared distance)^distance_power.

        The distance is that to the nearest study read, requested or selected, in whitened logits; the centre of the archive counts
        as read. The power 1 gives the draws of k-means++ (Arthur and Vassilvitskii, SODA 2007), a high power the farthest-first
        traversal of Gonzalez (Theor Comput Sci 1985;38:293).
        """
        if count < 1:
            return
        points, read = _whiten_logits(self._candidates.scores, self._history.read_scores)
        selected = points[[study.row for study in self.selected]]
        distance = _compute_nearest_distance(points, np.concatenate([read, selected, np.zeros((1, points.shape[1]))]))
        for _ in range(count):
            if not self.free.any():
                return
            stratum = self._candidates.stratum[self._rng.choice(np.flatnonzero(self.free))]
            eligible = self.free & (self._candidates.stratum == stratum)
            weight = np.where(eligible, (distance / max(distance[eligible].max(), 1e-12)) ** self._policy.distance_power, 0.0)
            weight = weight / weight.sum() if weight.sum() > 0 else eligible / eligible.sum()
            row = int(self._rng.choice(len(weight), p=weight))
            distance = np.minimum(distance, _compute_nearest_distance(points, points[row : row + 1]))
            yield _Draw(row, float(weight[row] * eligible.sum() / self.free.sum()))


def ranks_within_stratum(scores: Floats, stratum: Names) -> Floats:
    """Return the rank of each study in its stratum, [N, F] in 0..1, from scores [N, F].

    Ranks remove the score offsets of views and scanners. The rank in a stratum of one study is 0.5. NaN stays NaN.
    """
    relative = np.full(scores.shape, np.nan)
    for name in np.unique(stratum):
        rows = np.flatnonzero(stratum == name)
        rows = rows[np.isfinite(scores[rows]).all(axis=1)]
        ranks = scores[rows].argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        relative[rows] = (ranks + 0.5) / max(len(rows), 1)
    return relative


def _find_first_occurrences(names: Names) -> Rows:
    """Return the index of the first occurrence of each name, ascending."""
    return np.sort(np.unique(names, return_index=True)[1])


def _whiten_logits(scores: Floats, read: Floats) -> tuple[Floats, Floats]:
    """Return the logits of `scores` [N, F] and of `read` [R, F], both whitened by mean and covariance of the former."""
    logit, read_logit = (np.log(p / (1 - p)) for p in (scores.clip(1e-6, 1 - 1e-6), read.clip(1e-6, 1 - 1e-6)))
    centre = logit.mean(axis=0)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov(logit, rowvar=False)) if len(logit) > 1 else np.eye(logit.shape[1]))
    root = axes / np.sqrt(np.maximum(variance, 1e-3 * variance[-1] + 1e-12))
    return np.asarray((logit - centre) @ root), np.asarray((read_logit - centre) @ root)


def _compute_nearest_distance(points: Floats, references: Floats) -> Floats:
    """Return the squared distance [N] of each point to the nearest of the references [T], in chunks of DISTANCE_CHUNK_ROWS."""
    nearest, length = np.full(len(points), np.inf), (points**2).sum(axis=1)
    for first in range(0, len(references), DISTANCE_CHUNK_ROWS):
        chunk = references[first : first + DISTANCE_CHUNK_ROWS]
        np.minimum(nearest, ((chunk**2).sum(axis=1) - 2 * points @ chunk.T).min(axis=1), out=nearest)
    return np.asarray((nearest + length).clip(min=0.0))
