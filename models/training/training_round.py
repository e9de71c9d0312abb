"""A training round: both methods are cross-validated by patient, the better one is fitted to all images and calibrated.

Finding by finding the learnt column serves only where held-out patients say with a stated probability that it ranks better than the
text (`column_choice`); elsewhere the text's column stays, calibrated by the same labels.

Stage 1 is a text-anchored head on the frozen encoder (`stage_one`). Partial unfreezing fine-tunes the last k blocks under the
stage 1 head of the same images (`fine_tuning`; LP-FT, Kumar et al. 2022), in two forms: with the weights after the last step, and
with their average with the base. All start from the base, never from an earlier version. With few positives per finding unfreezing
is not tried: in an unlucky support it costs more than it brings.

Logits of models of different folds differ in spread, so held-out images of different folds cannot be ranked against each other
directly: pooled raw logits look worse than any of the models is (Parker et al. 2007). The logits of each model are standardised on
the same images, all labelled ones, without use of their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
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
from models.training.calibration import Calibration, Floats, Labels, fit_calibration, log_loss
from models.training.column_choice import ColumnChoice, ColumnChoiceSettings, choose_columns
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
from models.training.fold_fits import AVERAGED, LAST, FitContext, FitResult, FitSpec, RunFits, run_fits_sequentially
from models.training.operating_point import OperatingPointSettings, choose_thresholds
from models.training.optimiser_loop import encode_in_chunks
from models.training.prevalence import PrevalenceSettings, estimate_prevalences
from models.training.recipe import Recipe
from models.training.stage_one import StageOneSettings, stage_one_head
from models.training.whitening import WhiteningTransform

TrainingMethod = Literal["auto", "stage-1", "partial"]
OnProgress = Callable[[str, int, int], None]
"""Called with the name of the current work, the amount done, and the total. May block, or raise to stop."""

STAGE_1, PARTIAL, TEXT = "stage-1", "partial", "text"
PARTIAL_LAST = "partial-last"
"""Partial unfreezing with the weights after the last step; PARTIAL in a comparison has the averaged ones."""
_WEIGHTS = {PARTIAL: AVERAGED, PARTIAL_LAST: LAST}
MAX_ACTIVATION_BYTES = 2 << 30
"""Largest size of all activations in bytes: more images have fewer augmented views each."""


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a training round. `max_folds`: largest number of folds; `seed`: seed of all random draws.

    `unfreeze_from`: median of the findings' positives from which on "auto" tries partial unfreezing.
    """

    method: TrainingMethod = "auto"
    recipe: Recipe = field(default_factory=Recipe)
    stage_1: StageOneSettings = field(default_factory=StageOneSettings)
    columns: ColumnChoiceSettings = field(default_factory=ColumnChoiceSettings)
    prevalence: PrevalenceSettings = field(default_factory=PrevalenceSettings)
    operating_point: OperatingPointSettings = field(default_factory=OperatingPointSettings)
    unfreeze_from: int = 4
    max_folds: int = 5
    seed: int = 0

    @property
    def card(self) -> dict[str, Any]:
        """Return every setting as JSON values."""
        return {
            "method": self.method,
            "folds": self.max_folds,
            "seed": self.seed,
            "unfreeze_from": self.unfreeze_from,
            "partial": self.recipe.card,
            "stage-1": asdict(self.stage_1),
            "columns": asdict(self.columns),
            "prevalence": asdict(self.prevalence),
            "operating_point": asdict(self.operating_point),
        }

    def views(self, encoder: Encoder, count: int) -> AugmentedViews:
        """Return the views of each of `count` images: the planned number, limited by memory; one for a frozen encoder."""
        amounts = self.recipe.augmentation
        room = 1
        if self.method != STAGE_1:
            length, width = activation_shape(encoder)
            room = MAX_ACTIVATION_BYTES // (max(1, count) * length * width * ACTIVATION_DTYPE.itemsize)
        return AugmentedViews(replace(amounts, views=max(1, min(amounts.views, room))), self.seed)


@dataclass(frozen=True)
class TrainingData:
    """n labelled images with labels int8 [n, F] and patients [n].

    `features`: float32 [n, D], the base encoder's features. `activations`: float16 [n, V, L, W], activations entering the plan's
    unfrozen blocks for V views of each image, the unchanged image first; None for a tower that cannot be partitioned.
    `unlabelled_features`: float32 [N, D], the base encoder's features of unlabelled archive images. `unlabelled_activations`:
    float16 [M, L, W] of M of these images, unaugmented; None as above. `random_labels`: int8 [R, F], labels of images drawn at
    random from the archive. `published_prevalence` [F]: shares of a published data set. `whitening`: of these features; None: it is
    estimated. `weights` [n]: positive weights of the labelled images in comparisons of rankings, for images that were not selected
    at random; None: equal. `label_weights` [n, F]: of each label in training, above 0 and up to 1; None: 1. `measured_labels`:
    int8 [n, F], the labels that columns are compared on, UNKNOWN where a label is trained on only; None: `labels`. All on the CPU.
    """

    features: torch.Tensor
    activations: torch.Tensor | None
    labels: Labels
    patients: npt.NDArray[np.str_]
    unlabelled_features: torch.Tensor
    unlabelled_activations: torch.Tensor | None
    random_labels: Labels
    published_prevalence: Floats
    whitening: WhiteningTransform | None = None
    weights: Floats | None = None
    label_weights: Floats | None = None
    measured_labels: Labels | None = None


@dataclass(frozen=True)
class CrossValidationResult:
    """One method: out-of-fold log-odds [n, F] at even odds (NaN: not learnt), calibration, and mean log-loss.

    The log-odds have the calibration of all images, which is that of the served head and ranks as the logits do; the log-loss is
    that of a calibration fitted to the other folds.
    """

    log_odds: Floats
    calibration: Calibration
    loss: float


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training round. `head` scores on the frozen encoder; `fine_tuned` is set if unfreezing won.

    Scores of both are probabilities. `columns`: the learnt column or the text's, by finding. `out_of_fold_scores`: float64 [n, F],
    each image scored by models trained on other patients; `nested_scores` [n, F]: the same with the columns chosen on other
    patients too, which measure the round without optimism. `prevalence` [F] in the archive is the probability that corresponds to
    even odds; `thresholds` [F]: the operating points. `cross_validation`: each method by name. `notes`: methods not tried, with the
    reason.
    """

    method: str
    findings: npt.NDArray[np.bool_]
    columns: ColumnChoice
    head: LinearHead
    fine_tuned: FineTunedBlocks | None
    out_of_fold_scores: Floats
    nested_scores: Floats
    prevalence: Floats
    thresholds: Floats
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
    """Train on every finding with both present and absent images. `encoder`: the base, `text`: its zero-shot head.

    `run_fits` runs the fits of the last blocks. The same arguments give the same weights on the same devices and number of threads.
    Raise NothingToLearn; CannotPartition if the plan requires unfreezing and the tower cannot be partitioned.
    """
    if not learnable_findings(data.labels).any():
        raise NothingToLearn(
            "no finding is labelled both present and absent", hint="label studies with a finding, and studies without it"
        )
    return _TrainingRound(encoder, text, data, plan, on_progress, run_fits).run()


@dataclass(frozen=True)
class _ServedColumns:
    """The columns that a version serves, the prevalence [F] and the thresholds [F]."""

    head: LinearHead
    fine_tuned: FineTunedBlocks | None
    prevalence: Floats
    thresholds: Floats


@dataclass(frozen=True)
class _ChosenFit:
    """The weights of the fit on all images that are served, with the name of their method and the card."""

    name: str
    trained: TrainedWeights
    card: Mapping[str, Any]


class _TrainingRound:
    """The shared state of both methods in one round."""

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
        tried = {TEXT: self._cross_validate(self._score_text), STAGE_1: self._cross_validate(self._score_stage_1)}
        unfrozen, notes = self._try_unfreezing()
        tried |= unfrozen
        chosen = self._choose_method(tried)
        columns = self._choose_columns(tried[chosen], tried[TEXT])
        fitted = self._fit_chosen_weights(chosen) if chosen in _WEIGHTS and columns.first.any() else None
        served = self._build_columns(tried, columns, fitted)
        return TrainingResult(
            method=PARTIAL if chosen in _WEIGHTS else chosen,
            findings=learnable_findings(self._data.labels),
            columns=columns,
            head=served.head,
            fine_tuned=served.fine_tuned,
            out_of_fold_scores=self._score_held_out(tried[chosen], tried[TEXT], columns.first, served.prevalence),
            nested_scores=self._score_held_out(tried[chosen], tried[TEXT], columns.nested, served.prevalence),
            prevalence=served.prevalence,
            thresholds=served.thresholds,
            cross_validation=tried,
            folds=int(self._fold.max()) + 1,
            fit_card=fitted.card if fitted else {},
            notes=notes,
        )

    def _try_unfreezing(self) -> tuple[dict[str, CrossValidationResult], tuple[str, ...]]:
        """Return the cross-validation of partial unfreezing with either weights, and why it was not tried."""
        if self._plan.method == STAGE_1:
            return {}, ()
        positives = self._count_positives(self._all_rows)
        if self._plan.method == "auto" and positives < self._plan.unfreeze_from:
            wanted = self._plan.unfreeze_from
            return {}, (f"partial unfreezing was not tried: findings have {positives} positives (median), fewer than {wanted}",)
        try:
            return self._cross_validate_partial(), ()
        except CannotPartition as error:
            if self._plan.method == PARTIAL:
                raise
            return {}, (f"partial unfreezing was not tried: {error}",)

    def _choose_method(self, tried: Mapping[str, CrossValidationResult]) -> str:
        """Return the method of the least loss, among those that the plan allows."""
        allowed = {"auto": (STAGE_1, *_WEIGHTS), STAGE_1: (STAGE_1,), PARTIAL: tuple(_WEIGHTS)}[self._plan.method]
        return min((name for name in allowed if name in tried), key=lambda name: tried[name].loss)

    def _choose_columns(self, learnt: CrossValidationResult, text: CrossValidationResult) -> ColumnChoice:
        measured, patients, weights = self._data.measured_labels, self._data.patients, self._data.weights
        labels = self._data.labels if measured is None else measured
        odds = (learnt.log_odds, text.log_odds)
        return choose_columns(*odds, labels, patients, self._plan.columns, weights=weights, seed=self._plan.seed)

    def _score_held_out(
        self, learnt: CrossValidationResult, text: CrossValidationResult, first: npt.NDArray[np.bool_], prevalence: Floats
    ) -> Floats:
        return np.asarray(expit(np.where(first, learnt.log_odds, text.log_odds) + logit(prevalence)))

    def _build_columns(
        self, tried: Mapping[str, CrossValidationResult], columns: ColumnChoice, fitted: _ChosenFit | None
    ) -> _ServedColumns:
        """Calibrate the chosen columns at the archive's prevalences."""
        heads = {TEXT: self._text.standardised(self._data.features), STAGE_1: self._fit_stage_1(self._all_rows)}
        odds = {
            name: tried[name].calibration(head.logits(self._archive).numpy().astype(np.float64)) for name, head in heads.items()
        }
        prevalence = estimate_prevalences(
            self._data.published_prevalence,
            np.where(columns.first, odds[STAGE_1], odds[TEXT]),
            self._data.random_labels,
            self._plan.prevalence,
        )
        text, learnt = (tried[name].calibration.calibrated_head(heads[name], prevalence) for name in (TEXT, STAGE_1))
        head = learnt.where(torch.from_numpy(columns.first), text)
        frozen = self._choose_thresholds(head.scores(self._archive), prevalence)
        if fitted is None:
            return _ServedColumns(head, None, prevalence, frozen)
        blocks = self._calibrate_fine_tuned(fitted.trained, tried[fitted.name].calibration, prevalence, columns.first)
        unfrozen = self._choose_thresholds(self._score_archive(blocks), prevalence)
        return _ServedColumns(head, blocks, prevalence, np.where(columns.first, unfrozen, frozen))

    def _choose_thresholds(self, scores: torch.Tensor, prevalence: Floats) -> Floats:
        return choose_thresholds(scores.numpy().astype(np.float64), prevalence, self._plan.operating_point)

    def _cross_validate(self, score: Callable[[Rows, Rows], Floats]) -> CrossValidationResult:
        logits = score_out_of_fold(self._fold, self._data.labels.shape[1], score)
        labels = mask_unscored(logits, self._data.labels)
        weights = self._data.label_weights
        calibration = fit_calibration(logits, labels, weights)
        loss = log_loss(cross_fit_calibration(logits, labels, self._fold, weights), labels)
        return CrossValidationResult(calibration(logits), calibration, loss)

    @property
    def _archive(self) -> torch.Tensor:
        """Features of the archive; without unlabelled images, of the labelled ones."""
        return self._data.unlabelled_features if len(self._data.unlabelled_features) else self._data.features

    # the text

    def _score_text(self, rows: Rows, held_out: Rows) -> Floats:
        logits = self._text.standardised(self._data.features).logits(self._data.features[torch.from_numpy(held_out)])
        return np.where(learnable_findings(self._data.labels[rows]), logits.numpy().astype(np.float64), np.nan)

    # stage 1: a head on the frozen encoder

    @cached_property
    def _whitening(self) -> WhiteningTransform:
        known = self._data.whitening
        return known or WhiteningTransform.from_features(torch.cat([self._data.unlabelled_features, self._data.features]))

    def _fit_stage_1(self, rows: Rows) -> LinearHead:
        labels = self._data.labels[rows]
        features = self._data.features
        weights = None if self._data.label_weights is None else self._data.label_weights[rows]
        head = stage_one_head(
            features[torch.from_numpy(rows)], labels, self._text, self._whitening, self._plan.stage_1, weights=weights
        )
        return head.standardised(features)

    def _score_stage_1(self, rows: Rows, held_out: Rows) -> Floats:
        logits = self._fit_stage_1(rows).logits(self._data.features[torch.from_numpy(held_out)]).numpy().astype(np.float64)
        return np.where(learnable_findings(self._data.labels[rows]), logits, np.nan)

    # stage 2: the last k blocks

    @cached_property
    def _activations(self) -> torch.Tensor:
        """Activations [n, V, L, W] on the CPU. Raise CannotPartition."""
        partition(self._encoder.network).last_parts(self._plan.recipe.k)
        if self._data.activations is None:
            raise ValueError("activations are required for a tower that can be partitioned")
        return self._data.activations

    def _start_fits(self, row_sets: Sequence[Rows]) -> Iterator[FitResult]:
        """Fit to each set of training rows, in order. Raise CannotPartition."""
        labels, weights = self._data.labels, self._data.label_weights
        context = FitContext(self._encoder, self._activations, labels, self._plan.recipe, self._plan.seed, weights)
        specs = [FitSpec(rows, self._fit_stage_1(rows), self._count_steps(rows)) for rows in row_sets]
        before, total = self._steps_done, sum(map(self._count_steps, [*self._training_rows, self._all_rows]))
        self._steps_done += sum(spec.steps for spec in specs)
        return self._run_fits(context, specs, lambda done: self._on_progress("unfreezing", before + done, total))

    def _count_steps(self, rows: Rows) -> int:
        return self._plan.recipe.step_count(self._count_positives(rows))

    def _count_positives(self, rows: Rows) -> int:
        """Return the median of the learnable findings' positives."""
        labels = self._data.labels[rows]
        return int(np.median((labels == 1).sum(axis=0)[learnable_findings(labels)]))

    def _cross_validate_partial(self) -> dict[str, CrossValidationResult]:
        """Cross-validate both weights of the same fits. Raise CannotPartition."""
        results, last = self._start_fits(self._training_rows), list[Floats]()

        def score_averaged(rows: Rows, held_out: Rows) -> Floats:
            averaged, final = self._score_fit(results, rows, held_out)
            last.append(final)
            return averaged

        averaged = self._cross_validate(score_averaged)
        stored = iter(last)
        return {PARTIAL: averaged, PARTIAL_LAST: self._cross_validate(lambda rows, held_out: next(stored))}

    def _score_fit(self, results: Iterator[FitResult], rows: Rows, held_out: Rows) -> tuple[Floats, Floats]:
        """Score held-out rows by both weights of the next result. `results`: one per fold with a learnable finding."""
        findings = learnable_findings(self._data.labels[rows])
        if not findings.any():
            unscored = np.full((len(held_out), len(findings)), np.nan)
            return unscored, unscored
        result = next(results)
        averaged, last = (self._score_trained(result.weights[kind], findings, held_out) for kind in (AVERAGED, LAST))
        return averaged, last

    def _score_trained(self, learnt: TrainedWeights, findings: npt.NDArray[np.bool_], held_out: Rows) -> Floats:
        features = self._encode_fine_tuned(learnt.delta)
        logits = learnt.head.standardised(features).logits(features[torch.from_numpy(held_out)])
        return np.where(findings, logits.numpy().astype(np.float64), np.nan)

    def _fit_chosen_weights(self, name: str) -> _ChosenFit:
        """Fit to all images; keep the weights of this method."""
        result = next(self._start_fits([self._all_rows]))
        kind = _WEIGHTS[name]
        return _ChosenFit(name, result.weights[kind], {**result.card, "weights": kind})

    def _encode_fine_tuned(self, delta: Delta) -> torch.Tensor:
        """Return features [n, D] on the CPU: the training images encoded with these fine-tuned tensors."""
        return self._encode_fine_tuned_activations(delta, self._activations[:, 0])

    def _encode_fine_tuned_activations(self, delta: Delta, activations: torch.Tensor) -> torch.Tensor:
        encoder = apply_delta(self._encoder, delta)
        return encode_in_chunks(
            lambda chunk: encode_activations(encoder, chunk, k=self._plan.recipe.k).features, activations, encoder.device
        ).cpu()

    def _score_archive(self, blocks: FineTunedBlocks) -> torch.Tensor:
        """Return the fine-tuned scores of the archive's images; without unlabelled activations, of the labelled ones."""
        unlabelled = self._data.unlabelled_activations
        activations = unlabelled if unlabelled is not None and len(unlabelled) else self._activations[:, 0]
        return blocks.head.scores(self._encode_fine_tuned_activations(blocks.delta, activations))

    def _calibrate_fine_tuned(
        self, fitted: TrainedWeights, calibrated: Calibration, prevalence: Floats, findings: npt.NDArray[np.bool_]
    ) -> FineTunedBlocks:
        standardised = fitted.head.standardised(self._encode_fine_tuned(fitted.delta))
        head = calibrated.calibrated_head(standardised, prevalence)
        return FineTunedBlocks(self._plan.recipe.k, fitted.delta, head, torch.from_numpy(findings))
