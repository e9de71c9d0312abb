"""The stage 1 head: as good as the better of its two component heads, for random and for mined images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.training.anchored_head import anchored_head
from models.training.discriminative_head import discriminative_head
from models.training.stage_one import StageOneSettings, stage_one_head
from tests.builders.world import World

HEADS = (stage_one_head, anchored_head, discriminative_head)
Rows = npt.NDArray[np.intp]


def drawn(world: World, count: int) -> Rows:
    """Return `count` random images of each finding, and `count` without any."""
    chance = np.random.default_rng(0)
    kinds = [*(np.flatnonzero(column == 1) for column in world.labels.T), np.flatnonzero(~world.labels.any(axis=1))]
    return np.concatenate([chance.permutation(kind)[:count] for kind in kinds])


def aucs(rows_of: str, count: int) -> tuple[float, ...]:
    """Return the mean AUC of the stage 1, the anchored and the discriminative head over six worlds."""
    found = []
    for seed in range(6):
        world = World(seed)
        rows = world.mined(count) if rows_of == "mined" else drawn(world, count)
        found.append([world.auc(learn(world.features[rows], world.labels[rows], world.text, world.whitening)) for learn in HEADS])
    return tuple(np.mean(found, axis=0))


@pytest.mark.parametrize(("rows_of", "count"), [("random", 1), ("random", 4), ("mined", 40), ("mined", 150)])
def test_it_is_as_good_as_the_better_component_head(rows_of: str, count: int) -> None:
    """For few random images, and for mined ones."""
    ours, *ends = aucs(rows_of, count)
    assert ours > max(ends) - 0.003


def test_with_many_random_images_it_is_little_below_the_anchored_head() -> None:
    """The anchored head's model is the true one in this world, so no head can be better."""
    ours, anchored, discriminative = aucs("random", 16)
    assert anchored - 0.015 < ours
    assert discriminative < ours


def test_its_logits_interpolate_toward_the_discriminative_head_with_more_images() -> None:
    world = World(0)
    shares = []
    for count in (1, 4, 16):
        rows = drawn(world, count)
        given = (world.features[rows], world.labels[rows], world.text, world.whitening)
        ours, anchored, discriminative = (learn(*given).logits(world.features).numpy().astype(np.float64) for learn in HEADS)
        difference = discriminative - anchored
        share = ((ours - anchored) * difference).sum(axis=0) / (difference**2).sum(axis=0)
        np.testing.assert_allclose(ours, anchored + share * difference, atol=1e-3)
        kinds = np.minimum((world.labels[rows] == 1).sum(axis=0), (world.labels[rows] == 0).sum(axis=0))
        np.testing.assert_allclose(share, kinds / (kinds + StageOneSettings().alike), atol=1e-3)
        shares.append(share.mean())
    assert shares == sorted(shares)


def test_a_finding_of_one_kind_keeps_its_text_classifier_bit_for_bit() -> None:
    world = World(2)
    labels = world.labels[:200].copy()
    labels[:, 0] = 0
    head = stage_one_head(world.features[:200], labels, world.text, world.whitening)
    for name, tensor in head.tensors.items():
        assert torch.equal(tensor[0], world.text.tensors[name][0])
        assert not torch.equal(tensor[1], world.text.tensors[name][1])


@pytest.mark.parametrize("kind", [0, 1])
def test_a_label_of_little_weight_changes_the_head_little(kind: int) -> None:
    world = World(3)
    rows = drawn(world, 12)
    features, labels = world.features[rows], world.labels[rows]
    given = (features, labels, world.text, world.whitening)
    changed = np.flatnonzero(labels[:, 0] == kind)[:3]
    wrong = labels.copy()
    wrong[changed, 0] = 1 - kind
    weights = np.ones(labels.shape)
    weights[changed, 0] = 1e-6
    unknown = labels.copy()
    unknown[changed, 0] = -1
    without = stage_one_head(features, unknown, world.text, world.whitening).logits(world.features)
    light = stage_one_head(features, wrong, world.text, world.whitening, weights=weights).logits(world.features)
    full = stage_one_head(features, wrong, world.text, world.whitening).logits(world.features)
    assert float((light - without).abs().max()) < 0.02 < 0.2 < float((full - without)[:, 0].abs().max())
    equal = stage_one_head(*given, weights=np.ones(labels.shape)).logits(world.features)
    assert torch.equal(equal, stage_one_head(*given).logits(world.features))
