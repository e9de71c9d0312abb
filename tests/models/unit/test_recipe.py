"""The recipe, the weights of the loss, and the batches."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.errors import CheckpointIncompatible, NothingToLearn
from models.evaluation import cases
from models.evaluation.cases import ABSENT, PRESENT, UNKNOWN
from models.training.batches import Targets, draw_batches, learnable_rows
from models.training.recipe import REFERENCE_WIDTH, Augmentation, Recipe

LABELS = hnp.arrays(np.int8, st.tuples(st.integers(2, 12), st.integers(1, 4)), elements=st.sampled_from([PRESENT, ABSENT, UNKNOWN]))


def test_the_card_holds_every_value_and_is_read_back_unchanged() -> None:
    recipe = replace(Recipe(), k=3, pull=0.25, augmentation=Augmentation(views=2))
    card = json.loads(json.dumps(recipe.card, allow_nan=False))
    assert {field.name for field in fields(Recipe)} | {"fingerprint"} == card.keys()
    assert Recipe.from_card(card) == recipe
    assert card["fingerprint"] != Recipe().card["fingerprint"]


@pytest.mark.parametrize("change", [{"augmentation": None}, {"of_a_later_release": 1}])
def test_a_card_of_another_release_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointIncompatible, match="recipe"):
        Recipe.from_card({**Recipe().card, **change})


def test_the_step_count_grows_with_the_shots_up_to_the_maximum() -> None:
    recipe = replace(Recipe(), steps_per_shot=25, max_steps=200)
    assert [recipe.step_count(shots) for shots in (0, 1, 2, 4, 8, 16, 64)] == [1, 25, 50, 100, 200, 200, 200]


@pytest.mark.parametrize("steps", [1, 2, 3, 25, 200])
def test_the_rate_factor_rises_to_1_once_and_falls_without_reaching_0(steps: int) -> None:
    factors = [Recipe().rate_factor(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1.0 and min(factors) > 0.0
    assert factors[: peak + 1] == sorted(factors[: peak + 1]) and factors[peak:] == sorted(factors[peak:], reverse=True)
    assert peak <= max(1, round(Recipe().warmup * steps))


def test_narrow_towers_have_higher_rates() -> None:
    assert Recipe().encoder_rate(1e-5, REFERENCE_WIDTH) == 1e-5
    assert Recipe().encoder_rate(1e-5, 192) == pytest.approx(4e-5)


def test_label_values_equal_those_of_the_cases() -> None:
    assert (PRESENT, ABSENT, UNKNOWN) == (cases.PRESENT, cases.ABSENT, cases.UNKNOWN)


@settings(deadline=None)
@given(labels=LABELS)
def test_each_kind_of_each_finding_weighs_half_and_unknown_labels_nothing(labels: np.ndarray) -> None:
    both = (labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)
    if not both.any():
        with pytest.raises(NothingToLearn):
            Targets.of(labels, smoothing=0.0)
        return
    targets = Targets.of(labels, smoothing=0.0)
    weight, count = targets.weight.numpy(), both.sum()
    assert targets.learnable.numpy().tolist() == both.tolist()
    for finding in np.flatnonzero(both):
        for side in (PRESENT, ABSENT):
            assert weight[labels[:, finding] == side, finding].sum() == pytest.approx(0.5 / count)
    assert (weight[labels == UNKNOWN] == 0).all() and (weight[:, ~both] == 0).all()
    assert set(learnable_rows(labels)) == set(np.flatnonzero((weight > 0).any(axis=1)))


@settings(deadline=None)
@given(labels=LABELS, seed=st.integers(0, 1000))
def test_logits_of_unknown_labels_get_no_gradient_and_give_no_loss(labels: np.ndarray, seed: int) -> None:
    if not ((labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)).any():
        return
    targets, rows = Targets.of(labels, smoothing=0.05), torch.arange(len(labels))
    logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    loss = targets.loss(logits, rows)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool((gradient[torch.from_numpy(labels == UNKNOWN)] == 0).all())
    other = torch.where(torch.from_numpy(labels == UNKNOWN), 40.0, logits)
    assert torch.equal(targets.loss(other, rows), loss)


def test_the_loss_equals_the_explicit_computation() -> None:
    labels = np.array([[1, -1], [0, 1], [0, 1], [-1, 1]], dtype=np.int8)  # the second finding has no absent image
    logits = torch.tensor([[2.0, 9.0], [-1.0, 9.0], [0.5, 9.0], [7.0, 9.0]])
    cost = np.log1p(np.exp([-2.0, -1.0, 0.5]))
    assert float(Targets.of(labels, smoothing=0.0).loss(logits, torch.arange(4))) == pytest.approx(
        0.5 * cost[0] + 0.25 * (cost[1] + cost[2])
    )
    assert Targets.of(labels, smoothing=0.0).midpoint(logits).tolist() == pytest.approx([(2.0 - 0.25) / 2, 0.0])


def test_the_mean_loss_of_batches_is_the_loss_of_all_rows() -> None:
    labels = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [0, 0], [1, 1]], dtype=np.int8)
    targets, logits = Targets.of(labels, smoothing=0.05), torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    whole = float(targets.loss(logits, torch.arange(6)))
    halves = [float(targets.loss(logits[rows], rows)) for rows, _ in draw_batches(6, 1, size=2, steps=3, seed=4)]
    assert sum(halves) / 3 == pytest.approx(whole, rel=1e-5)


@given(count=st.integers(1, 20), size=st.integers(1, 25), seed=st.integers(0, 99))
def test_batches_hold_no_image_twice_and_all_images_in_turn(count: int, size: int, seed: int) -> None:
    drawn = list(draw_batches(count, 3, size=size, steps=12, seed=seed))
    rows = [row for batch, _ in drawn for row in batch.tolist()]
    assert all(len(set(batch.tolist())) == len(batch) == min(count, size) == len(views) for batch, views in drawn)
    for start in range(0, len(rows) - count + 1, count):
        assert sorted(rows[start : start + count]) == list(range(count))
    assert {view for _, views in drawn for view in views.tolist()} <= {0, 1, 2}


def test_the_seed_determines_the_batches() -> None:
    first, again, other = (
        [(rows.tolist(), views.tolist()) for rows, views in draw_batches(9, 4, size=4, steps=6, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_weights_shift_a_kind_among_its_own_images() -> None:
    labels = np.array([[1], [1], [0], [0], [-1]], dtype=np.int8)
    weights = np.array([[1.0], [1.0], [1.0], [0.25], [1.0]])
    found = Targets.of(labels, smoothing=0.0, weights=weights).weight[:, 0].tolist()
    assert found == pytest.approx([0.25, 0.25, 0.4, 0.1, 0.0])
    alike = Targets.of(labels, smoothing=0.0, weights=0.5 * np.ones(labels.shape)).weight
    assert alike.tolist() == Targets.of(labels, smoothing=0.0).weight.tolist()
