"""A round of learning: both ways tried on patients that they have not seen, the better one made of all films, and calibrated.

Way 1 is a text-anchored head on the frozen encoder (`stage_one`), way 2 the last k blocks unfrozen under the head that way 1 gives
of the same films (`fit`; LP-FT, Kumar et al. 2022). Both start from the base, never from what was learnt before.

Models of different folds differ in how far their logits spread, so a film held out of one cannot be ranked against a film held out
of another as they are: pooled like that, they look worse than any of them is (Parker et al. 2007). Each is levelled on the same
films, those that are labelled, whose labels have no say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit

from models.classifier.head import LinearHead
from models.classifier.version_weights import FineTunedBlocks
from models.encoder.activations import activation_shape, encode_activations
from models.encoder.delta import Delta, apply_delta
from models.encoder.encoder import Encoder
from models.encoder.partition import partition
from models.errors import CannotPartition, NothingToLearn
from models.images.views import AugmentedViews
from models.training.calibration import Calibration, Floats, Labels, estimate_prevalences, fit_calibration, log_loss
from models.training.cross_validation import (
    Rows,
    assign_folds,
    cross_fit_calibration,
    learnable_findings,
    mask_unscored,
    score_out_of_fold,
    split_by_fold,
)
from models.training.fine_tuning import ACTIVATION_DTYPE, TrainedWeights
from models.training.fold_fits import FitContext, FitResult, FitSpec, RunFits, run_fits_sequentially
from models.training.optimiser_loop import encode_in_chunks
from models.training.recipe import Recipe
from models.training.stage_one import StageOneSettings, stage_one_head
from models.training.whitening import WhiteningTransform

TrainingMethod = Literal["auto", "stage-1", "partial"]
OnProgress = Callable[[str, int, int], None]
"""Hears what is under way, how much of it is done, and how much there is. May wait, or raise to stop."""

STAGE_1, PARTIAL = "stage-1", "partial"
MAX_ACTIVATION_BYTES = 2 << 30
"""Bytes of activations that are held: with more films, fewer augmented copies of each."""


@dataclass(frozen=True)
class TrainingPlan:
    """How to learn. `folds`: at most so many; `seed`: of everything that is drawn."""

    method: TrainingMethod = "auto"
    recipe: Recipe = field(default_factory=Recipe)
    stage_1: StageOneSettings = field(default_factory=StageOneSettings)
    max_folds: int = 5
    seed: int = 0

    @property
    def card(self) -> dict[str, Any]:
        """Return every number, JSON-able."""
        return {
            "method": self.method,
            "folds": self.max_folds,
            "seed": self.seed,
            "partial": self.recipe.card,
            "stage-1": asdict(self.stage_1),
        }

    def views(self, encoder: Encoder, count: int) -> AugmentedViews:
        """Return the copies of each of so many films: as many as planned and can be held, and of a frozen encoder one."""
        amounts = self.recipe.augmentation
        room = 1
        if self.method != STAGE_1:
            length, width = activation_shape(encoder)
            room = MAX_ACTIVATION_BYTES // (max(1, count) * length * width * ACTIVATION_DTYPE.itemsize)
        return AugmentedViews(replace(amounts, views=max(1, min(amounts.views, room))), self.seed)


@dataclass(frozen=True)
class TrainingData:
    """n labelled films, with labels int8 [n, F] and whose they are [n].

    `features`: float32 [n, D], what the base makes of each. `activations`: float16 [n, V, L, W], what enters the last blocks that
    the plan unfreezes for V copies of each, the film itself first; None where the tower cannot be partitioned. `background`:
    float32 [N, D], what the base makes of films of the archive. All on the CPU.
    """

    features: torch.Tensor
    activations: torch.Tensor | None
    labels: Labels
    patients: npt.NDArray[np.str_]
    unlabelled_features: torch.Tensor


@dataclass(frozen=True)
class CrossValidationResult:
    """One way: log-odds [n, F] at even odds of films that it had not seen (NaN: not learnt), and their mean log-loss."""

    log_odds: Floats
    calibration: Calibration
    loss: float


@dataclass(frozen=True)
class TrainingResult:
    """What was learnt. `head` scores on the frozen encoder, `moved` is there where unfreezing won; both give probabilities.

    `scores`: float64 [n, F], of each film by models that had not seen its patient. `prevalence` [F] of the archive is the
    probability at which the even odds lie. `tried`: each way by name. `notes` say what was not tried and why.
    """

    method: str
    findings: npt.NDArray[np.bool_]
    head: LinearHead
    fine_tuned: FineTunedBlocks | None
    out_of_fold_scores: Floats
    prevalence: Floats
    cross_validation: Mapping[str, CrossValidationResult]
    folds: int
    fit_card: Mapping[str, Any]
    notes: tuple[str, ...]


def run_training_round(
    encoder: Encoder,
    text: LinearHead,
    data: TrainingData,
    plan: TrainingPlan,
    on_progress: OnProgress,
    run_fits: RunFits = run_fits_sequentially,
) -> TrainingResult:
    """Learn every finding with both kinds of films. `encoder`: the base, `text`: its zero-shot head.

    `fits` makes the fits of the last blocks. The same arguments give the same weights on the same devices and number of threads.
    NothingToLearn; CannotPartition where the plan insists on unfreezing a tower that cannot be.
    """
    if not learnable_findings(data.labels).any():
        raise NothingToLearn("no finding is labelled both present and absent", hint="label films with a finding, and films without")
    return _TrainingRound(encoder, text, data, plan, on_progress, run_fits).run()


class _TrainingRound:
    """What the two ways share."""

    def __init__(
        self, encoder: Encoder, text: LinearHead, data: TrainingData, plan: TrainingPlan, on_progress: OnProgress, run_fits: RunFits
    ) -> None:
        self._encoder, self._text, self._data, self._plan, self._on_progress = (
            encoder,
            text.to(torch.device("cpu")),
            data,
            plan,
            on_progress,
        )
        self._fold = assign_folds(data.patients, data.labels, max_folds=plan.max_folds, seed=plan.seed)
        self._training_rows = [others for others, _ in split_by_fold(self._fold) if learnable_findings(data.labels[others]).any()]
        self._all_rows = np.arange(len(self._fold))
        self._run_fits, self._steps_done = run_fits, 0

    def run(self) -> TrainingResult:
        tried = {STAGE_1: self._cross_validate(self._score_stage_1)}
        notes: tuple[str, ...] = ()
        if self._plan.method != STAGE_1:
            try:
                tried[PARTIAL] = self._cross_validate(partial(self._score_partial, self._start_fits(self._training_rows)))
            except CannotPartition as error:
                if self._plan.method == PARTIAL:
                    raise
                notes = (f"partial unfreezing was not tried: {error}",)
        chosen = self._plan.method if self._plan.method != "auto" else min(tried, key=lambda name: tried[name].loss)
        frozen = self._fit_stage_1(self._all_rows)
        prevalence = self._estimate_prevalence(frozen, tried[STAGE_1].calibration)
        fitted = next(self._start_fits([self._all_rows])) if chosen == PARTIAL else None
        findings = learnable_findings(self._data.labels)
        return TrainingResult(
            method=chosen,
            findings=findings,
            head=tried[STAGE_1].calibration.calibrated_head(frozen, prevalence),
            fine_tuned=self._calibrate_fine_tuned(fitted.trained, tried[PARTIAL].calibration, prevalence, findings)
            if fitted
            else None,
            out_of_fold_scores=np.asarray(expit(tried[chosen].log_odds + logit(prevalence))),
            prevalence=prevalence,
            cross_validation=tried,
            folds=int(self._fold.max()) + 1,
            fit_card=fitted.card if fitted else {},
            notes=notes,
        )

    def _cross_validate(self, score: Callable[[Rows, Rows], Floats]) -> CrossValidationResult:
        logits = score_out_of_fold(self._fold, self._data.labels.shape[1], score)
        labels = mask_unscored(logits, self._data.labels)
        odds = cross_fit_calibration(logits, labels, self._fold)
        return CrossValidationResult(odds, fit_calibration(logits, labels), log_loss(odds, labels))

    # stage 1: a head on the frozen encoder

    @cached_property
    def _whitening(self) -> WhiteningTransform:
        return WhiteningTransform.from_features(torch.cat([self._data.unlabelled_features, self._data.features]))

    def _fit_stage_1(self, rows: Rows) -> LinearHead:
        labels = self._data.labels[rows]
        features = self._data.features
        head = stage_one_head(features[torch.from_numpy(rows)], labels, self._text, self._whitening, self._plan.stage_1)
        return head.standardised(features)

    def _score_stage_1(self, rows: Rows, held_out: Rows) -> Floats:
        logits = self._fit_stage_1(rows).logits(self._data.features[torch.from_numpy(held_out)]).numpy().astype(np.float64)
        return np.where(learnable_findings(self._data.labels[rows]), logits, np.nan)

    def _estimate_prevalence(self, head: LinearHead, calibrated: Calibration) -> Floats:
        """Of the archive; without an archive to look at, of the labelled films as if they were one."""
        archive = self._data.unlabelled_features if len(self._data.unlabelled_features) else self._data.features
        return estimate_prevalences(calibrated(head.logits(archive).numpy().astype(np.float64)))

    # stage 2: the last k blocks

    @cached_property
    def _activations(self) -> torch.Tensor:
        """[n, V, L, W] on the CPU. CannotPartition."""
        partition(self._encoder.network).last_parts(self._plan.recipe.k)
        if self._data.activations is None:
            raise ValueError("the films of a tower that can be partitioned come with their activations")
        return self._data.activations

    def _start_fits(self, wanted: Sequence[Rows]) -> Iterator[FitResult]:
        """Fit to each of these rows of the films, in order. CannotPartition."""
        common = FitContext(self._encoder, self._activations, self._data.labels, self._plan.recipe, self._plan.seed)
        orders = [FitSpec(rows, self._fit_stage_1(rows), self._count_steps(rows)) for rows in wanted]
        before, total = self._steps_done, sum(map(self._count_steps, [*self._training_rows, self._all_rows]))
        self._steps_done += sum(order.steps for order in orders)
        return self._run_fits(common, orders, lambda done: self._on_progress("unfreezing", before + done, total))

    def _count_steps(self, rows: Rows) -> int:
        labels = self._data.labels[rows]
        return self._plan.recipe.step_count(int(np.median((labels == 1).sum(axis=0)[learnable_findings(labels)])))

    def _score_partial(self, results: Iterator[FitResult], rows: Rows, held_out: Rows) -> Floats:
        """`made`: of each fold in which anything can be learnt."""
        findings = learnable_findings(self._data.labels[rows])
        if not findings.any():
            return np.full((len(held_out), len(findings)), np.nan)
        learnt = next(results).trained
        features = self._encode_fine_tuned(learnt.delta)
        logits = learnt.head.standardised(features).logits(features[torch.from_numpy(held_out)])
        return np.where(findings, logits.numpy().astype(np.float64), np.nan)

    def _encode_fine_tuned(self, delta: Delta) -> torch.Tensor:
        """[n, D] on the CPU: what the encoder makes of the films with these tensors in it."""
        encoder, films = apply_delta(self._encoder, delta), self._activations[:, 0]
        return encode_in_chunks(
            lambda some: encode_activations(encoder, some, k=self._plan.recipe.k).features, films, encoder.device
        ).cpu()

    def _calibrate_fine_tuned(
        self, fitted: TrainedWeights, calibrated: Calibration, prevalence: Floats, findings: npt.NDArray[np.bool_]
    ) -> FineTunedBlocks:
        levelled = fitted.head.standardised(self._encode_fine_tuned(fitted.delta))
        head = calibrated.calibrated_head(levelled, prevalence)
        return FineTunedBlocks(self._plan.recipe.k, fitted.delta, head, torch.from_numpy(findings))
