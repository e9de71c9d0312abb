from __future__ import annotations

import numpy as np
import pytest
import torch

from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from models.evaluation.statistics import auc
from models.images.preprocess import Preprocess
from models.pretraining.contrastive import ContrastiveRecipe, PretrainingStep, initialise_image_tower, pretrain
from tests.builders import tiny

SIZE = tiny.SIZE
RECIPE = ContrastiveRecipe(batch=16, shift=2, bfloat16=False)
WORDS = ("a bright left half", "a bright right half")


def half_bright(count: int) -> tuple[np.ndarray, list[str]]:
    """Return images with one bright half, and their captions."""
    chance = np.random.default_rng(0)
    inputs = chance.random((count, SIZE, SIZE)).astype(np.float16) * np.float16(0.3)
    right = np.arange(count) % 2
    for image, side in zip(inputs, right, strict=True):
        image[:, side * SIZE // 2 : (side + 1) * SIZE // 2] += np.float16(0.5)
    return inputs, [WORDS[side] for side in right]


def trained(seed: int = 0, **changes: float) -> tuple[Encoder, list[PretrainingStep]]:
    inputs, texts = half_bright(64)
    steps: list[PretrainingStep] = []
    recipe = ContrastiveRecipe(**{**RECIPE.card, **changes})
    encoder = pretrain(
        Architecture("tiny", tiny.config()),
        Preprocess(size=SIZE),
        inputs,
        lambda _epoch: texts,
        recipe=recipe,
        seed=seed,
        device=torch.device("cpu"),
        on_step=steps.append,
    )
    return encoder, steps


def test_images_align_with_their_captions() -> None:
    encoder, steps = trained(epochs=100)
    assert [step.number for step in steps] == list(range(1, 401))
    assert {step.total for step in steps} == {400}
    inputs, texts = half_bright(40)
    images = encoder.encode_images(Preprocess(size=SIZE).normalise(torch.from_numpy(inputs).float()[:, None]))
    left, right = encoder.encode_texts(list(WORDS))
    to_the_right = (images @ (right - left)).numpy()
    shown = np.array([WORDS.index(text) for text in texts])
    assert auc(to_the_right[:, None], shown[:, None].astype(np.int8))[0] > 0.97
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


def test_the_same_seed_gives_the_same_weights_and_another_seed_different_ones() -> None:
    state = torch.random.get_rng_state()
    one, again, other = (trained(seed, epochs=1)[0].network.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_initial_patch_features_are_whitened_and_positions_are_unique() -> None:
    network = tiny.encoder().network
    inputs, _ = half_bright(32)
    pixels = Preprocess(size=SIZE).normalise(torch.from_numpy(inputs).float()[:, None])
    initialise_image_tower(network, pixels)
    tower = network.get_submodule("visual")
    seen = tower.get_submodule("conv1")(pixels).flatten(2).transpose(1, 2).reshape(-1, 64)
    assert 0 < float(seen.std(dim=0).mean()) < 1.5
    positions = tower.get_parameter("positional_embedding")[1:]
    assert len(torch.unique(positions.round(decimals=4), dim=0)) == len(positions)


@pytest.mark.parametrize("batch", [16, 64])
def test_an_incomplete_last_batch_is_dropped(batch: int) -> None:
    assert len(trained(epochs=1, batch=batch)[1]) == 64 // batch
