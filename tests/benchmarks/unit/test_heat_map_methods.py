"""Heat maps: their arithmetic is that of the encoder, and they move with what the encoder looks at."""

from __future__ import annotations

import pytest
import torch

from models.classifier.head import LinearHead
from models.encoder.activations import compute_activations, encode_activations, run_blocks
from models.errors import CannotPartition
from tests.benchmarks.heat_map_methods import METHODS, _open_attention, _require_last_block
from tests.builders import tiny, towers


def a_head(findings: int = 3) -> LinearHead:
    drawn = torch.randn(findings, tiny.encoder().architecture.config["embed_dim"], generator=torch.Generator().manual_seed(1))
    return LinearHead.from_weights(drawn, torch.zeros(findings))


def activations(count: int = 2, k: int = 1) -> torch.Tensor:
    encoder = tiny.encoder()
    size = encoder.architecture.config["vision_cfg"]["image_size"]
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))
    return compute_activations(encoder, pixels, k=k)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_has_a_value_for_each_patch(method: str) -> None:
    given = activations()
    maps = METHODS[method](tiny.encoder(), a_head(), given, k=1)
    edge = round((given.shape[1] - 1) ** 0.5)
    assert maps.shape == (2, 3, edge, edge)
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()
    assert not maps.requires_grad
    if method == "attention":
        assert (maps >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_the_same_from_earlier_activations(method: str) -> None:
    encoder = tiny.encoder()
    late, early = activations(k=1), activations(k=2)
    torch.testing.assert_close(METHODS[method](encoder, a_head(), early, k=2), METHODS[method](encoder, a_head(), late, k=1))


def test_the_attention_that_is_weighted_is_the_attention_of_the_encoder() -> None:
    encoder, given = tiny.encoder(), activations()
    tower, block = _require_last_block(encoder)
    attention, compute_features = _open_attention(tower, block, run_blocks(encoder, given, k=1, last=1).detach())
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(attention.shape[:-1]))
    torch.testing.assert_close(compute_features(attention).detach(), encode_activations(encoder, given, k=1).features.detach())


@pytest.mark.parametrize("method", METHODS)
def test_a_map_follows_a_patch_that_moves(method: str) -> None:
    """Two patch tokens change places: with them change the values of the map, for no position is known after the stem."""
    encoder, given = tiny.encoder(), activations()
    swapped = given.clone()
    swapped[:, [1, 3]] = given[:, [3, 1]]
    before, after = (METHODS[method](encoder, a_head(), tokens, k=1).flatten(2) for tokens in (given, swapped))
    torch.testing.assert_close(after[..., [0, 2]], before[..., [2, 0]])
    torch.testing.assert_close(after[..., 1], before[..., 1])


@pytest.mark.parametrize("method", METHODS)
def test_an_image_has_the_same_map_in_any_batch(method: str) -> None:
    given = activations(3)
    alone = METHODS[method](tiny.encoder(), a_head(), given[1:2], k=1)
    torch.testing.assert_close(METHODS[method](tiny.encoder(), a_head(), given, k=1)[1:2], alone, atol=1e-5, rtol=1e-4)


def test_a_tower_without_a_pooled_class_token_has_no_maps() -> None:
    encoder = towers.encoder("average")
    with pytest.raises(CannotPartition):
        _require_last_block(encoder)
