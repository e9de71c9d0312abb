"""The head for labels of mined images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.training.anchored_head import anchored_head
from models.training.discriminative_head import DiscriminativeHeadSettings, discriminative_head
from tests.builders.world import World


def test_on_mined_images_it_gains_on_the_text_and_on_the_generative_head() -> None:
    gained = []
    for seed in range(6):
        world = World(seed)
        rows = world.mined(150)
        ours, other = (
            world.auc(learn(world.features[rows], world.labels[rows], world.text, world.whitening))
            for learn in (discriminative_head, anchored_head)
        )
        gained.append((ours - world.auc(world.text), ours - other))
    from_text, from_other = np.mean(gained, axis=0)
    assert from_text > 0.01
    assert from_other > 0.01


def test_the_mode_is_independent_of_row_order_and_step_limit() -> None:
    """The optimiser has converged: more steps and another order of rows give the same head."""
    world = World(0)
    rows = np.arange(300)
    head = discriminative_head(world.features[rows], world.labels[rows], world.text, world.whitening)
    turned = discriminative_head(world.features[rows[::-1].copy()], world.labels[rows[::-1]], world.text, world.whitening)
    long = discriminative_head(
        world.features[rows], world.labels[rows], world.text, world.whitening, DiscriminativeHeadSettings(steps=2000)
    )
    assert torch.allclose(head.logits(world.features), turned.logits(world.features), atol=2e-2)
    assert torch.allclose(head.logits(world.features), long.logits(world.features), atol=2e-2)


def test_unknown_labels_do_not_affect_the_head() -> None:
    world = World(1)
    rows, labels = np.arange(400), world.labels[:400].copy()
    labels[200:] = -1
    half = discriminative_head(world.features[:200], world.labels[:200], world.text, world.whitening)
    whole = discriminative_head(world.features[rows], labels, world.text, world.whitening)
    assert torch.allclose(half.logits(world.features), whole.logits(world.features), atol=1e-3)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_finding_of_one_kind_keeps_its_text_classifier(kind: int) -> None:
    world = World(2)
    labels = world.labels[:200].copy()
    labels[:, 0] = kind
    head = discriminative_head(world.features[:200], labels, world.text, world.whitening)
    assert torch.equal(head.directions[0], world.text.directions[0])
    assert not torch.equal(head.directions[1], world.text.directions[1])
    labels[:, 1] = kind
    assert discriminative_head(world.features[:200], labels, world.text, world.whitening) is world.text
