"""Whole labelling campaigns: list after list is asked for, read and learnt, and what has been learnt is tested after each.

The lists are chosen by `pipeline.acquisition.select`, which chooses those of `radclipd worklist`, too: strategies differ in their
`SelectionPolicy` alone. All have the same learner on the same frozen features; test films are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from adapters.ml.error_translation import in_the_pipelines_words
from models.classifier.head import LinearHead
from models.evaluation.cases import PRESENT
from models.evaluation.statistics import auc, macro
from models.ladder.method import Bench
from models.training.anchored_head import anchored_head
from models.training.discriminative_head import discriminative_head
from models.training.stage_one import stage_one_head
from models.training.whitening import Whitening
from pipeline.acquisition import Candidates, Experience, Pick, Reason, SelectionPolicy, select
from pipeline.domain import FINDINGS

Fit = Callable[[torch.Tensor, npt.NDArray[np.int8], LinearHead, Whitening], LinearHead]
"""Features and labels of what was read, the text's head, and the pool's whitening -> a head."""

LEARNERS: dict[str, Fit] = {"stage-1": stage_one_head, "anchored": anchored_head, "discriminative": discriminative_head}
"""By name: the head that the daemon learns first, and the two that it weighs."""
RANDOM, WORKLIST = "random", "worklist"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to choose. `learns_all`: from its random sample, too, which the worklist keeps aside to measure with."""

    name: str
    policy: SelectionPolicy
    learns_all: bool = False


def strategies(policy: SelectionPolicy) -> list[Strategy]:
    """Return what is compared: one kind of reason alone, three times, and the shares of `policy`."""
    nothing = {reason.value: 0.0 for reason in Reason}
    return [
        Strategy(RANDOM, SelectionPolicy(**nothing | {Reason.MONITORING.value: 1.0}), learns_all=True),
        Strategy("uncertainty", SelectionPolicy(**nothing | {Reason.UNCERTAINTY.value: 1.0})),
        Strategy("typicality", SelectionPolicy(**nothing | {Reason.TYPICALITY.value: 1.0})),
        Strategy(WORKLIST, policy),
    ]


@dataclass(frozen=True, slots=True)
class Point:
    """Where a campaign stands after a list: studies read, mean AUC on the test films, positives learnt from of each finding."""

    strategy: str
    seed: int
    read: int
    auc: float
    positives: tuple[int, ...]


@dataclass
class _State:
    """What one campaign knows."""

    left: npt.NDArray[np.intp]
    head: LinearHead
    learnt: bool = False
    read: list[int] = field(default_factory=list)
    taught: list[int] = field(default_factory=list)
    mined: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))
    found: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))


class Campaigns:
    """Campaigns on one bench. The pool's features, unlike its labels, are known from the start."""

    def __init__(self, bench: Bench, fit: Fit) -> None:
        self._bench, self._fit = bench, fit
        self._whitening = Whitening.of(bench.features[bench.split.pool])
        self._zero_shot = self._scores(bench.ensemble)

    def zero_shot(self) -> float:
        """Return the mean AUC before any label."""
        return self._measured(self._zero_shot)

    def all_labels(self) -> float:
        """Return the mean AUC of the head that the whole pool's labels give."""
        pool = self._bench.split.pool
        return self._measured(self._scores(self._learnt(pool.tolist())))

    def run(self, strategy: Strategy, *, seed: int, studies: int, step: int) -> Iterator[Point]:
        """Yield a point after each list of `step`, until so many `studies` are read or every patient of the pool is."""
        state = _State(left=self._bench.split.pool, head=self._bench.ensemble)
        scores, lists = self._zero_shot, 0
        while len(state.read) < studies:
            count = min(step, studies - len(state.read))
            chosen = self._chosen(state, scores, strategy, count, seed=1000 * seed + lists)
            if not chosen:
                return
            self._take(state, chosen, strategy)
            if state.taught:
                state.head, state.learnt = self._learnt(state.taught), True
            scores, lists = self._scores(state.head), lists + 1
            positives = (self._bench.cases.labels[state.taught] == PRESENT).sum(axis=0)
            yield Point(strategy.name, seed, len(state.read), self._measured(scores), tuple(int(count) for count in positives))

    def _chosen(
        self, state: _State, scores: npt.NDArray[np.float64], strategy: Strategy, count: int, *, seed: int
    ) -> list[tuple[int, Pick]]:
        """Rows of the bench, and why each: what the verb would ask for."""
        cases = self._bench.cases
        positives = (cases.labels[state.taught] == PRESENT).sum(axis=0).astype(np.float64)
        other = self._zero_shot[state.left] if state.learnt else np.full((len(state.left), len(FINDINGS)), np.nan)
        picks = select(
            Candidates(patient=cases.patient[state.left], stratum=cases.view[state.left], scores=scores[state.left], other=other),
            Experience(positives=positives, mined=state.mined, found=state.found, read=scores[state.read]),
            strategy.policy,
            count=count,
            seed=seed,
        )
        return [(int(state.left[pick.row]), pick) for pick in picks]

    def _take(self, state: _State, chosen: Sequence[tuple[int, Pick]], strategy: Strategy) -> None:
        cases = self._bench.cases
        for row, pick in chosen:
            state.read.append(row)
            if strategy.learns_all or pick.reason is not Reason.MONITORING:
                state.taught.append(row)
            if pick.reason is Reason.POSITIVES:
                column = FINDINGS.index(pick.finding)
                state.mined[column] += 1
                state.found[column] += cases.labels[row, column] == PRESENT
        patients = cases.patient[[row for row, _ in chosen]]
        state.left = state.left[~np.isin(cases.patient[state.left], patients)]

    def _learnt(self, rows: Sequence[int]) -> LinearHead:
        with in_the_pipelines_words():
            features = self._bench.features[list(rows)]
            return self._fit(features, self._bench.cases.labels[list(rows)], self._bench.ensemble, self._whitening)

    def _scores(self, head: LinearHead) -> npt.NDArray[np.float64]:
        """float64 [N, 14] of all films."""
        return np.asarray(head.scores(self._bench.features).numpy(), dtype=np.float64)

    def _measured(self, scores: npt.NDArray[np.float64]) -> float:
        test = self._bench.split.test
        return float(macro(auc(scores[test], self._bench.cases.labels[test])))
