"""radclipd's own row of the ladder: what `models.training.training_round` makes of a support, and nothing besides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.encoder.delta import adapted
from models.images.views import Views
from models.ladder.closed_form import StageOne
from models.ladder.method import Bench
from models.ladder.prefixes import SharedPrefixes
from models.ladder.product import Copies, Radclipd
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import Films, Method, Plan, Taught, teach
from tests.builders import learnable_films

RECIPE = replace(Recipe(), k=1, steps_per_shot=2, augmentation=Augmentation(views=2))


def plan(method: Method) -> Plan:
    return Plan(method=method, recipe=RECIPE, folds=2)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return learnable_films.bench()


def taught(bench: Bench, wanted: Plan, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Taught:
    """As the daemon's trainer calls it."""
    views = wanted.views(bench.encoder, len(rows))
    given = Films(
        features=bench.features[rows],
        activations=Copies(bench, views, wanted.recipe.k, limit=1 << 30).of(rows),
        labels=bench.cases.labels[rows],
        patients=bench.cases.patient[rows],
        background=bench.features[np.setdiff1d(bench.split.pool, rows)],
    )
    return teach(bench.encoder, bench.ensemble, given, wanted, lambda what, done, total: None)


def test_pinned_to_stage_1_it_ranks_as_the_rung_of_that_name(bench: Bench) -> None:
    support = learnable_films.support(bench, shots=4)
    ours = Radclipd(SharedPrefixes(), plan("stage-1")).scores(bench, support, seed=0)
    theirs = StageOne().scores(bench, support, seed=0)
    for own, other in zip(ours.T, theirs.T, strict=True):
        assert np.corrcoef(own, other)[0, 1] == pytest.approx(1.0, abs=1e-5)  # calibration moves and stretches, no more


def test_pinned_to_unfreezing_it_scores_with_what_was_moved(bench: Bench) -> None:
    support = learnable_films.support(bench, shots=4)
    logits = Radclipd(SharedPrefixes(), plan("partial")).scores(bench, support, seed=0)
    made = taught(bench, plan("partial"), support.rows)
    assert made.moved is not None
    expected = SharedPrefixes().of(bench).logits(adapted(bench.encoder, made.moved.delta), made.moved.head, made.moved.k)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_left_alone_it_takes_the_way_with_the_smaller_loss(bench: Bench) -> None:
    support = learnable_films.support(bench, shots=4)
    made = taught(bench, plan("auto"), support.rows)
    assert made.method == min(made.tried, key=lambda name: made.tried[name].loss)
    pinned = Radclipd(SharedPrefixes(), plan("partial" if made.method == "partial" else "stage-1"))
    found = Radclipd(SharedPrefixes(), plan("auto")).scores(bench, support, seed=0)
    np.testing.assert_allclose(found, pinned.scores(bench, support, seed=0), atol=1e-4)


def test_copies_are_made_once_and_never_more_than_fit(bench: Bench) -> None:
    views, rows = Views(Augmentation(views=2), seed=0), bench.split.pool[:3]
    ample, none = (Copies(bench, views, 1, limit=limit) for limit in (1 << 30, 0))
    first = ample.of(rows)
    assert torch.equal(first, none.of(rows))
    assert torch.equal(ample.of(rows[1:]), first[1:])
    assert len(ample._kept) == 3 and not none._kept
