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

from adapters.ml.error_translation import translate_model_errors
from models.classifier.head import LinearHead
from models.evaluation.cases import PRESENT
from models.evaluation.statistics import auc, macro_average
from models.ladder.method import FewShotBenchmark
from models.training.anchored_head import anchored_head
from models.training.discriminative_head import discriminative_head
from models.training.stage_one import stage_one_head
from models.training.whitening import WhiteningTransform
from pipeline.acquisition import CandidateStudies, LabelHistory, SelectedStudy, SelectionPolicy, SelectionReason, select_studies
from pipeline.domain import FINDINGS

HeadFitter = Callable[[torch.Tensor, npt.NDArray[np.int8], LinearHead, WhiteningTransform], LinearHead]
"""Features and labels of what was read, the text's head, and the pool's whitening -> a head."""

LEARNERS: dict[str, HeadFitter] = {"stage-1": stage_one_head, "anchored": anchored_head, "discriminative": discriminative_head}
"""By name: the head that the daemon learns first, and the two that it weighs."""
RANDOM, WORKLIST = "random", "worklist"


@dataclass(frozen=True, slots=True)
class SelectionStrategy:
    """One way to choose. `learns_from_random`: from its random sample, too, which the worklist keeps aside to measure with."""

    name: str
    policy: SelectionPolicy
    learns_from_random: bool = False


def build_strategies(policy: SelectionPolicy) -> list[SelectionStrategy]:
    """Return what is compared: one kind of reason alone, twice, and the shares of `policy`."""
    nothing = {reason.value: 0.0 for reason in SelectionReason}
    return [
        SelectionStrategy(RANDOM, SelectionPolicy(**nothing | {SelectionReason.MONITORING.value: 1.0}), learns_from_random=True),
        SelectionStrategy("uncertainty", SelectionPolicy(**nothing | {SelectionReason.UNCERTAINTY.value: 1.0})),
        SelectionStrategy(WORKLIST, policy),
    ]


@dataclass(frozen=True, slots=True)
class CampaignPoint:
    """Where a campaign stands after a list: studies read, mean AUC on the test films, positives learnt from of each finding."""

    strategy: str
    seed: int
    studies_read: int
    auc: float
    positives: tuple[int, ...]


@dataclass
class _CampaignState:
    """What one campaign knows."""

    unread_rows: npt.NDArray[np.intp]
    head: LinearHead
    has_learnt: bool = False
    read_rows: list[int] = field(default_factory=list)
    training_rows: list[int] = field(default_factory=list)
    mined: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))
    found: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))


class Campaigns:
    """Campaigns on one bench. The pool's features, unlike its labels, are known from the start."""

    def __init__(self, bench: FewShotBenchmark, fit: HeadFitter) -> None:
        self._bench, self._fit = bench, fit
        self._whitening = WhiteningTransform.from_features(bench.features[bench.split.pool])
        self._zero_shot = self._score_films(bench.ensemble)

    def zero_shot_auc(self) -> float:
        """Return the mean AUC before any label."""
        return self._measure_auc(self._zero_shot)

    def all_labels_auc(self) -> float:
        """Return the mean AUC of the head that the whole pool's labels give."""
        pool = self._bench.split.pool
        return self._measure_auc(self._score_films(self._fit_head(pool.tolist())))

    def run(self, strategy: SelectionStrategy, *, seed: int, studies: int, step: int) -> Iterator[CampaignPoint]:
        """Yield a point after each list of `step`, until so many `studies` are read or every patient of the pool is."""
        state = _CampaignState(unread_rows=self._bench.split.pool, head=self._bench.ensemble)
        scores, lists = self._zero_shot, 0
        while len(state.read_rows) < studies:
            count = min(step, studies - len(state.read_rows))
            chosen = self._choose_studies(state, scores, strategy, count, seed=1000 * seed + lists)
            if not chosen:
                return
            self._read_studies(state, chosen, strategy)
            if state.training_rows:
                state.head, state.has_learnt = self._fit_head(state.training_rows), True
            scores, lists = self._score_films(state.head), lists + 1
            positives = (self._bench.cases.labels[state.training_rows] == PRESENT).sum(axis=0)
            yield CampaignPoint(
                strategy.name, seed, len(state.read_rows), self._measure_auc(scores), tuple(int(count) for count in positives)
            )

    def _choose_studies(
        self, state: _CampaignState, scores: npt.NDArray[np.float64], strategy: SelectionStrategy, count: int, *, seed: int
    ) -> list[tuple[int, SelectedStudy]]:
        """Rows of the bench, and why each: what the verb would ask for."""
        cases = self._bench.cases
        positives = (cases.labels[state.training_rows] == PRESENT).sum(axis=0).astype(np.float64)
        other = self._zero_shot[state.unread_rows] if state.has_learnt else np.full((len(state.unread_rows), len(FINDINGS)), np.nan)
        picks = select_studies(
            CandidateStudies(
                patient=cases.patient[state.unread_rows],
                stratum=cases.view[state.unread_rows],
                scores=scores[state.unread_rows],
                zero_shot_scores=other,
            ),
            LabelHistory(
                positives=positives, searched=state.mined, search_positives=state.found, read_scores=scores[state.read_rows]
            ),
            strategy.policy,
            count=count,
            seed=seed,
        )
        return [(int(state.unread_rows[pick.row]), pick) for pick in picks]

    def _read_studies(
        self, state: _CampaignState, chosen: Sequence[tuple[int, SelectedStudy]], strategy: SelectionStrategy
    ) -> None:
        cases = self._bench.cases
        for row, pick in chosen:
            state.read_rows.append(row)
            if strategy.learns_from_random or pick.reason is not SelectionReason.MONITORING:
                state.training_rows.append(row)
            if pick.reason is SelectionReason.POSITIVES:
                column = FINDINGS.index(pick.finding)
                state.mined[column] += 1
                state.found[column] += cases.labels[row, column] == PRESENT
        patients = cases.patient[[row for row, _ in chosen]]
        state.unread_rows = state.unread_rows[~np.isin(cases.patient[state.unread_rows], patients)]

    def _fit_head(self, rows: Sequence[int]) -> LinearHead:
        with translate_model_errors():
            features = self._bench.features[list(rows)]
            return self._fit(features, self._bench.cases.labels[list(rows)], self._bench.ensemble, self._whitening)

    def _score_films(self, head: LinearHead) -> npt.NDArray[np.float64]:
        """float64 [N, 14] of all films."""
        return np.asarray(head.scores(self._bench.features).numpy(), dtype=np.float64)

    def _measure_auc(self, scores: npt.NDArray[np.float64]) -> float:
        test = self._bench.split.test
        return float(macro_average(auc(scores[test], self._bench.cases.labels[test])))
