"""Simulated labelling campaigns: worklists are selected, read and learnt from one by one; the head is tested after each.

Lists are selected by `pipeline.acquisition.select_studies`, like those of `radclipd worklist`: strategies differ only in their
`SelectionPolicy`. All use the same learner on the same frozen features; test films are never read.
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
"""Features and labels of the read studies, the zero-shot head, and the pool's whitening -> a head."""

LEARNERS: dict[str, HeadFitter] = {"stage-1": stage_one_head, "anchored": anchored_head, "discriminative": discriminative_head}
"""Learners by name: the head of the daemon's first stage, and its two candidates."""
RANDOM, WORKLIST = "random", "worklist"


@dataclass(frozen=True, slots=True)
class SelectionStrategy:
    """A selection strategy. `learns_from_random`: learns from its random sample, which the worklist reserves for monitoring."""

    name: str
    policy: SelectionPolicy
    learns_from_random: bool = False


def build_strategies(policy: SelectionPolicy) -> list[SelectionStrategy]:
    """Return the compared strategies: random only, uncertainty only, and the shares of `policy`."""
    nothing = {reason.value: 0.0 for reason in SelectionReason}
    return [
        SelectionStrategy(RANDOM, SelectionPolicy(**nothing | {SelectionReason.MONITORING.value: 1.0}), learns_from_random=True),
        SelectionStrategy("uncertainty", SelectionPolicy(**nothing | {SelectionReason.UNCERTAINTY.value: 1.0})),
        SelectionStrategy(WORKLIST, policy),
    ]


@dataclass(frozen=True, slots=True)
class CampaignPoint:
    """State of a campaign after a list: studies read, mean AUC on the test films, positive training examples of each finding."""

    strategy: str
    seed: int
    studies_read: int
    auc: float
    positives: tuple[int, ...]


@dataclass
class _CampaignState:
    """Mutable state of one campaign."""

    unread_rows: npt.NDArray[np.intp]
    head: LinearHead
    has_learnt: bool = False
    read_rows: list[int] = field(default_factory=list)
    training_rows: list[int] = field(default_factory=list)
    mined: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))
    found: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(FINDINGS)))


class Campaigns:
    """Campaigns on one benchmark. The pool's features, unlike its labels, are known from the start."""

    def __init__(self, bench: FewShotBenchmark, fit: HeadFitter) -> None:
        self._bench, self._fit = bench, fit
        self._whitening = WhiteningTransform.from_features(bench.features[bench.split.pool])
        self._zero_shot = self._score_films(bench.ensemble)

    def zero_shot_auc(self) -> float:
        """Return the mean AUC without labels."""
        return self._measure_auc(self._zero_shot)

    def all_labels_auc(self) -> float:
        """Return the mean AUC of the head trained on all labels of the pool."""
        pool = self._bench.split.pool
        return self._measure_auc(self._score_films(self._fit_head(pool.tolist())))

    def run(self, strategy: SelectionStrategy, *, seed: int, studies: int, step: int) -> Iterator[CampaignPoint]:
        """Yield a point after each list of `step` studies, until `studies` are read or no patient of the pool is left."""
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
        """Return the selected rows of the benchmark with their reasons, as `radclipd worklist` would."""
        cases = self._bench.cases
        positives = (cases.labels[state.training_rows] == PRESENT).sum(axis=0).astype(np.float64)
        zero_shot = (
            self._zero_shot[state.unread_rows] if state.has_learnt else np.full((len(state.unread_rows), len(FINDINGS)), np.nan)
        )
        picks = select_studies(
            CandidateStudies(
                patient=cases.patient[state.unread_rows],
                stratum=cases.view[state.unread_rows],
                scores=scores[state.unread_rows],
                zero_shot_scores=zero_shot,
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
        """Return the scores of all films, float64 [N, 14]."""
        return np.asarray(head.scores(self._bench.features).numpy(), dtype=np.float64)

    def _measure_auc(self, scores: npt.NDArray[np.float64]) -> float:
        test = self._bench.split.test
        return float(macro_average(auc(scores[test], self._bench.cases.labels[test])))
