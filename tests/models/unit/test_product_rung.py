"""radclipd's own row of the ladder: what `models.training.training_round` makes of a support, and nothing besides."""

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
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import TrainingData, TrainingMethod, TrainingPlan, TrainingResult, run_training_round
from tests.builders import learnable_films

RECIPE = replace(Recipe(), k=1, steps_per_shot=2, augmentation=Augmentation(views=2))


def plan(method: TrainingMethod) -> TrainingPlan:
    return TrainingPlan(method=method, recipe=RECIPE, max_folds=2)


@pytest.fixture(scope="module")
def bench() -> FewShotBenchmark:
    return learnable_films.bench()


def taught(bench: FewShotBenchmark, wanted: TrainingPlan, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> TrainingResult:
    """As the daemon's trainer calls it."""
    views = wanted.views(bench.encoder, len(rows))
    given = TrainingData(
        features=bench.features[rows],
        activations=ViewActivationCache(bench, views, wanted.recipe.k, max_bytes=1 << 30).of_rows(rows),
        labels=bench.cases.labels[rows],
        patients=bench.cases.patient[rows],
        unlabelled_features=bench.features[np.setdiff1d(bench.split.pool, rows)],
    )
    return run_training_round(bench.encoder, bench.ensemble, given, wanted, lambda what, done, total: None)


def test_pinned_to_stage_1_it_ranks_as_the_rung_of_that_name(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    ours = RadclipdMethod(SharedActivations(), plan("stage-1")).scores(bench, support, seed=0)
    theirs = StageOneMethod().scores(bench, support, seed=0)
    for own, other in zip(ours.T, theirs.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] == pytest.approx(1.0, abs=1e-5)  # calibration moves and stretches, no more


def test_pinned_to_unfreezing_it_scores_with_what_was_moved(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    logits = RadclipdMethod(SharedActivations(), plan("partial")).scores(bench, support, seed=0)
    made = taught(bench, plan("partial"), support.rows)
    assert made.fine_tuned is not None
    expected = (
        SharedActivations()
        .of_bench(bench)
        .logits(apply_delta(bench.encoder, made.fine_tuned.delta), made.fine_tuned.head, made.fine_tuned.k)
    )
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_left_alone_it_takes_the_way_with_the_smaller_loss(bench: FewShotBenchmark) -> None:
    support = learnable_films.support(bench, shots=4)
    made = taught(bench, plan("auto"), support.rows)
    assert made.method == min(made.cross_validation, key=lambda name: made.cross_validation[name].loss)
    pinned = RadclipdMethod(SharedActivations(), plan("partial" if made.method == "partial" else "stage-1"))
    found = RadclipdMethod(SharedActivations(), plan("auto")).scores(bench, support, seed=0)
    np.testing.assert_allclose(found, pinned.scores(bench, support, seed=0), atol=1e-4)


def test_copies_are_made_once_and_never_more_than_fit(bench: FewShotBenchmark) -> None:
    views, rows = AugmentedViews(Augmentation(views=2), seed=0), bench.split.pool[:3]
    ample, none = (ViewActivationCache(bench, views, 1, max_bytes=limit) for limit in (1 << 30, 0))
    first = ample.of_rows(rows)
    assert torch.equal(first, none.of_rows(rows))
    assert torch.equal(ample.of_rows(rows[1:]), first[1:])
    assert len(ample._cached) == 3 and not none._cached
