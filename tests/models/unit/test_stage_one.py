"""The head of the first stage: as good as the better of the two that it weighs, however films were chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.training.anchored_head import anchored_head
from models.training.discriminative_head import discriminative_head
from models.training.stage_one import StageOneSettings, stage_one_head
from tests.models.unit.test_discriminative_head import World

HEADS = (stage_one_head, anchored_head, discriminative_head)
Rows = npt.NDArray[np.intp]


def drawn(world: World, count: int) -> Rows:
    """So many films of each finding, and as many without any, by lot."""
    chance = np.random.default_rng(0)
    kinds = [*(np.flatnonzero(column == 1) for column in world.labels.T), np.flatnonzero(~world.labels.any(axis=1))]
    return np.concatenate([chance.permutation(kind)[:count] for kind in kinds])


def aucs(rows_of: str, count: int) -> tuple[float, ...]:
    """Mean AUC of ours, of the anchored and of the discriminative head over some worlds."""
    found = []
    for seed in range(6):
        world = World(seed)
        rows = world.mined(count) if rows_of == "mined" else drawn(world, count)
        found.append([world.auc(learn(world.features[rows], world.labels[rows], world.text, world.whitening)) for learn in HEADS])
    return tuple(np.mean(found, axis=0))


@pytest.mark.parametrize(("rows_of", "count"), [("lot", 1), ("lot", 4), ("mined", 40), ("mined", 150)])
def test_it_is_as_good_as_the_better_of_both(rows_of: str, count: int) -> None:
    """From few films drawn by lot, and from mined ones."""
    ours, *ends = aucs(rows_of, count)
    assert ours > max(ends) - 0.003


def test_from_many_films_drawn_by_lot_it_gives_up_little() -> None:
    """What this world is made of is what the anchored head takes it for: nothing can do better there."""
    ours, anchored, discriminative = aucs("lot", 16)
    assert anchored - 0.015 < ours
    assert discriminative < ours


def test_its_logits_lie_between_those_of_both_and_nearer_to_the_discriminative_ones_as_films_come() -> None:
    world = World(0)
    shares = []
    for count in (1, 4, 16):
        rows = drawn(world, count)
        given = (world.features[rows], world.labels[rows], world.text, world.whitening)
        ours, few, many = (learn(*given).logits(world.features).numpy().astype(np.float64) for learn in HEADS)
        share = ((ours - few) * (many - few)).sum(axis=0) / ((many - few) ** 2).sum(axis=0)
        np.testing.assert_allclose(ours, few + share * (many - few), atol=1e-3)
        kinds = np.minimum((world.labels[rows] == 1).sum(axis=0), (world.labels[rows] == 0).sum(axis=0))
        np.testing.assert_allclose(share, kinds / (kinds + StageOneSettings().alike), atol=1e-3)
        shares.append(share.mean())
    assert shares == sorted(shares)


def test_a_finding_of_one_kind_keeps_its_text_to_the_last_digit() -> None:
    world = World(2)
    labels = world.labels[:200].copy()
    labels[:, 0] = 0
    head = stage_one_head(world.features[:200], labels, world.text, world.whitening)
    for name, tensor in head.tensors.items():
        assert torch.equal(tensor[0], world.text.tensors[name][0])
        assert not torch.equal(tensor[1], world.text.tensors[name][1])
