"""LoRA: no change at the start, rank 2 afterwards, and equal scores after merging into the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

from models.encoder.architecture import Architecture
from models.encoder.delta import apply_delta
from models.encoder.encoder import Encoder
from models.errors import CannotPartition
from models.ladder.low_rank import LowRankEncoder, LowRankSetting
from tests.builders import tiny, towers

PIXELS = torch.randn(3, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
KINDS = pytest.mark.parametrize("kind", ["plain", "custom text", "custom blocks"])


def learnt(encoder: Encoder, *, seed: int = 0, setting: LowRankSetting | None = None) -> LowRankEncoder:
    """Return an encoder with low-rank matrices away from their start."""
    low_rank = LowRankEncoder(encoder, setting or LowRankSetting(), seed=seed)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for added in low_rank.updates:
            added.up.copy_(0.1 * torch.randn(added.up.shape, generator=generator))
    return low_rank


@KINDS
def test_it_starts_as_the_base_and_leaves_the_base_unchanged(kind: str) -> None:
    encoder = towers.encoder(kind)
    was = encoder.encode_images(PIXELS)
    low_rank = LowRankEncoder(encoder, LowRankSetting(), seed=0)
    low_rank.train(False)
    assert low_rank.encoder.encode_images(PIXELS).numpy() == pytest.approx(was.numpy(), abs=1e-6)
    changed = learnt(encoder)
    changed.train(False)
    assert not torch.allclose(changed.encoder.encode_images(PIXELS), was, atol=1e-3)
    assert torch.equal(encoder.encode_images(PIXELS), was)
    assert not any(parametrize.is_parametrized(module) for module in encoder.network.modules())


@KINDS
def test_merged_weights_give_the_same_vectors_under_the_base_parameter_names(kind: str) -> None:
    encoder = towers.encoder(kind)
    low_rank = learnt(encoder)
    merged = low_rank.merged_weights()
    assert list(merged) == [f"visual.transformer.resblocks.{block}.attn.in_proj_weight" for block in range(3)]
    whole = apply_delta(encoder, merged)
    assert whole.encode_images(PIXELS).numpy() == pytest.approx(low_rank.encoder.encode_images(PIXELS).numpy(), abs=1e-6)


def test_the_updates_of_query_key_and_value_have_rank_two_each() -> None:
    encoder = towers.encoder("plain")
    name, merged = next(iter(learnt(encoder).merged_weights().items()))
    change = merged - encoder.network.get_parameter(name)
    for share in change.chunk(3):
        singular = torch.linalg.svdvals(share)
        assert singular[1] > 1e-3 > 100 * singular[2]


def test_the_seed_determines_start_and_dropout() -> None:
    encoder = towers.encoder("plain")

    def drawn(seed: int) -> list[Any]:
        low_rank = learnt(encoder, seed=seed)
        low_rank.train(True)
        return [low_rank.updates[0].down.detach(), *(low_rank.updates[0](torch.zeros(192, 64)).detach() for _ in range(2))]

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], first[2])


def test_dropout_drops_columns_and_keeps_the_expectation() -> None:
    low_rank = learnt(towers.encoder("plain"), setting=replace(LowRankSetting(), dropout=0.5))
    added = low_rank.updates[0]
    added.train(False)
    whole = added(torch.zeros(192, 64)).detach()
    added.train(True)
    draws = torch.stack([added(torch.zeros(192, 64)).detach() for _ in range(600)])
    left_out = (draws[:, :64] == 0).all(dim=1).float().mean()
    assert float(left_out) == pytest.approx(0.5, abs=0.03)
    assert float((draws.mean(dim=0) - whole).norm() / whole.norm()) < 0.1


def test_only_the_low_rank_matrices_are_trainable() -> None:
    encoder = towers.encoder("plain")
    low_rank = LowRankEncoder(encoder, LowRankSetting(), seed=0)
    assert sum(parameter.numel() for parameter in low_rank.parameters) == 3 * 3 * 2 * (64 + 64)
    assert json.loads(json.dumps(LowRankSetting().card))["rank"] == 2


def test_towers_without_such_blocks_are_refused() -> None:
    vision = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    resnet = Encoder.untrained(Architecture("resnet", {**tiny.config(), "vision_cfg": vision}), seed=0)
    with pytest.raises(CannotPartition):
        LowRankEncoder(resnet, LowRankSetting(), seed=0)
