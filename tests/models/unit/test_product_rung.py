"""radclipd's own method in the ladder: the result of `models.training.training_round` on a support."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.encoder.delta import apply_delta
from models.images.views import AugmentedViews
from models.ladder.bench_activations import SharedActivations
from models.ladder.closed_form import StageOneMethod
from models.ladder.method import FewShotBenchmark
from models.ladder.product import RadclipdMethod, ViewActivationCache
from models.training import training_round
from models.training.column_choice import ColumnChoiceSettings
from models.training.prevalence import published_prevalence
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import (
    PARTIAL,
    PARTIAL_LAST,
    STAGE_1,
    TEXT,
    TrainingData,
    TrainingMethod,
    TrainingPlan,
    TrainingResult,
    run_training_round,
)
from tests.builders import learnable_films

RECIPE = replace(Recipe(), k=1, steps_per_shot=2, augmentation=Augmentation(views=2))


def plan(method: TrainingMethod) -> TrainingPlan:
    """Return a plan that serves every learnt column, whatever the text's is worth."""
    return TrainingPlan(method=method, recipe=RECIPE, columns=ColumnChoiceSettings(confidence=0.0), max_folds=2)


@pytest.fixture(scope="module")
def bench() -> FewShotBenchmark:
    return learnable_films.bench()


def trained_on(bench: FewShotBenchmark, wanted: TrainingPlan, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> TrainingResult:
    """Return the training round's result, called as in the daemon."""
    views = wanted.views(bench.encoder, len(rows))
    given = TrainingData(
        features=bench.features[rows],
        activations=ViewActivationCache(bench, views, wanted.recipe.k, max_bytes=1 << 30).of_rows(rows),
        labels=bench.cases.labels[rows],
        patients=bench.cases.patient[rows],
        unlabelled_features=bench.features[np.setdiff1d(bench.split.pool, rows)],
        unlabelled_activations=None,
        random_labels=np.zeros((0, len(bench.cases.findings)), dtype=np.int8),
        published_prevalence=published_prevalence(bench.cases.findings),
    )
    return run_training_round(bench.encoder, bench.ensemble, given, wanted, lambda what, done, total: None)


def test_method_stage_1_ranks_as_the_stage_1_method_of_the_ladder(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    ours = RadclipdMethod(SharedActivations(), plan("stage-1")).scores(bench, support, seed=0)
    theirs = StageOneMethod().scores(bench, support, seed=0)
    for own, other in zip(ours.T, theirs.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] == pytest.approx(1.0, abs=1e-5)  # calibration is affine


def test_method_partial_scores_with_the_fine_tuned_blocks(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    logits = RadclipdMethod(SharedActivations(), plan("partial")).scores(bench, support, seed=0)
    made = trained_on(bench, plan("partial"), support.rows)
    assert made.fine_tuned is not None
    expected = (
        SharedActivations()
        .of_bench(bench)
        .logits(apply_delta(bench.encoder, made.fine_tuned.delta), made.fine_tuned.head, made.fine_tuned.k)
    )
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_method_auto_takes_the_method_of_the_smaller_loss(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    made = trained_on(bench, plan("auto"), support.rows)
    learnt = {name: tried.loss for name, tried in made.cross_validation.items() if name != TEXT}
    assert set(learnt) == {STAGE_1, PARTIAL, PARTIAL_LAST}
    assert made.method == min(learnt, key=learnt.__getitem__).removesuffix("-last")
    pinned = RadclipdMethod(SharedActivations(), plan("partial" if made.method == "partial" else "stage-1"))
    found = RadclipdMethod(SharedActivations(), plan("auto")).scores(bench, support, seed=0)
    np.testing.assert_allclose(found, pinned.scores(bench, support, seed=0), atol=1e-4)


def test_view_activations_are_computed_once_and_cached_within_the_limit(bench: FewShotBenchmark) -> None:
    views, rows = AugmentedViews(Augmentation(views=2), seed=0), bench.split.pool[:3]
    ample, none = (ViewActivationCache(bench, views, 1, max_bytes=limit) for limit in (1 << 30, 0))
    first = ample.of_rows(rows)
    assert torch.equal(first, none.of_rows(rows))
    assert torch.equal(ample.of_rows(rows[1:]), first[1:])
    assert len(ample._cached) == 3 and not none._cached


def test_method_auto_leaves_the_encoder_frozen_where_findings_have_few_positives(bench: FewShotBenchmark) -> None:
    made = trained_on(bench, plan("auto"), learnable_films.support(bench, shots=2).rows)
    assert made.method == STAGE_1
    assert set(made.cross_validation) == {TEXT, STAGE_1}
    assert "fewer than 4" in made.notes[0]


@pytest.mark.parametrize("name", [PARTIAL, PARTIAL_LAST])
def test_the_weights_of_the_smaller_loss_are_served(bench: FewShotBenchmark, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rows = learnable_films.support(bench, shots=4).rows
    served = {}
    for wanted in (name, None):
        with monkeypatch.context() as patch:
            if wanted:
                patch.setattr(training_round._TrainingRound, "_choose_method", lambda self, tried, name=wanted: name)
            served[wanted] = trained_on(bench, plan("partial"), rows)
    losses = {kind: served[None].cross_validation[kind].loss for kind in (PARTIAL, PARTIAL_LAST)}
    best = min(losses, key=losses.__getitem__)
    first, second = (made.fine_tuned for made in served.values())
    assert first is not None and second is not None
    same = all(torch.equal(tensor, second.delta[key]) for key, tensor in first.delta.items())
    assert same == (name == best)
    assert served[name].fit_card["weights"] == ("last" if name == PARTIAL_LAST else "averaged")
