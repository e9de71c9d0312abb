"""The partition covers every tower exactly; the split encoder equals the whole; a delta shares the untrained parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.encoder.activations import TOLERANCE, compute_activations, encode_activations, encode_images_fast, encode_split
from models.encoder.architecture import Architecture
from models.encoder.delta import apply_delta, average_weights, copy_parameters, copy_with_own_parameters
from models.encoder.encoder import Encoder
from models.encoder.partition import LN_POST, PROJ, STEM, parameter_names, partition
from models.errors import CannotPartition, CheckpointIncompatible
from tests.builders import tiny, towers

KINDS = pytest.mark.parametrize("kind", towers.TOWERS)


def pixels(count: int = 3, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(seed))


@KINDS
def test_every_parameter_is_in_one_part_and_parts_are_in_the_order_of_the_forward_pass(kind: str) -> None:
    network = towers.encoder(kind).network
    parts = partition(network).parts
    tower = {name: value for name, value in network.state_dict().items() if name.startswith("visual.")}
    names = parameter_names(parts)
    assert sorted(names) == sorted(tower)  # all, none twice, none of the text tower
    assert [part.name for part in parts] == [
        STEM,
        *(f"block {i}" for i in range(towers.TOWERS[kind]["vision_cfg"]["layers"])),
        LN_POST,
        PROJ,
    ]
    assert [part.parameter_count for part in parts] == [sum(tower[name].numel() for name in part.parameters) for part in parts]
    assert partition(network).parameter_count == sum(value.numel() for value in tower.values())


@KINDS
def test_a_changed_block_changes_later_activations_only(kind: str) -> None:
    encoder = towers.encoder(kind)
    divided = partition(encoder.network)
    before = {k: compute_activations(encoder, pixels(), k=k) for k in range(divided.block_count + 1)}
    for block in range(divided.block_count):
        part = divided.parts[1 + block]
        changed = apply_delta(encoder, {name: value + 0.1 for name, value in copy_parameters(encoder, part.parameters).items()})
        for k, activations in before.items():
            entering_or_earlier = divided.block_count - k <= block
            assert torch.equal(compute_activations(changed, pixels(), k=k), activations) == entering_or_earlier


@KINDS
def test_the_split_encoder_equals_the_whole_at_every_k(kind: str) -> None:
    encoder = towers.encoder(kind)
    whole = encoder.encode_images(pixels())
    for k in range(partition(encoder.network).block_count + 1):
        made = encode_activations(encoder, compute_activations(encoder, pixels(), k=k), k=k)
        assert made.features.detach().numpy() == pytest.approx(whole.numpy(), abs=TOLERANCE)
        assert made.pooled.shape == (3, towers.TOWERS[kind]["vision_cfg"]["width"])


@KINDS
def test_fast_encoding_equals_encode_images(kind: str) -> None:
    encoder = towers.encoder(kind)
    whole = encoder.encode_images(pixels()).numpy()
    assert encode_images_fast(encoder, pixels()).numpy() == pytest.approx(whole, abs=TOLERANCE)
    both = encode_split(encoder, pixels(), k=1)
    assert both.features.numpy() == pytest.approx(whole, abs=TOLERANCE)
    assert torch.equal(both.activations, compute_activations(encoder, pixels(), k=1))


def test_an_encoder_that_cannot_be_split_is_encoded_whole() -> None:
    vision = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
    encoder = Encoder.untrained(Architecture("other", {**tiny.config(), "vision_cfg": vision}), seed=0)
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(encode_images_fast(encoder, pixels), encoder.encode_images(pixels))


def test_sequence_first_blocks_give_the_same_features() -> None:
    encoder = towers.encoder("plain")
    transformer: Any = encoder.network.get_submodule("visual.transformer")
    whole = encoder.encode_images(pixels())
    transformer.batch_first = False
    for block in transformer.resblocks:
        block.attn.batch_first = False
    halves = encode_activations(encoder, compute_activations(encoder, pixels(), k=1), k=1).features
    assert encoder.encode_images(pixels()).numpy() == pytest.approx(whole.numpy(), abs=TOLERANCE)
    assert halves.numpy() == pytest.approx(whole.numpy(), abs=TOLERANCE)


def test_last_parts_are_blocks_then_ln_post_then_proj() -> None:
    divided = partition(towers.encoder("plain").network)
    assert [part.name for part in divided.last_parts(2)] == ["block 1", "block 2", LN_POST, PROJ]
    assert [part.name for part in divided.last_parts(0)] == [LN_POST, PROJ]
    assert [part.name for part in divided.last_parts(3)] == [part.name for part in divided.parts[1:]]


@pytest.mark.parametrize("k", [-1, 4])
def test_an_impossible_k_is_refused_with_the_range(k: int) -> None:
    encoder = towers.encoder("plain")
    with pytest.raises(CannotPartition, match="has 3 blocks") as caught:
        compute_activations(encoder, pixels(), k=k)
    assert "0 to 3" in caught.value.hint


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, "ModifiedResNet"),
        ({"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}, "TimmModel"),
        (towers.config(attentional_pool=True)["vision_cfg"], "pools by attention"),
        (towers.config(pool_type="none")["vision_cfg"], "tokens in place of one vector"),
        (towers.config(output_tokens=True)["vision_cfg"], "tokens in place of one vector"),
    ],
)
def test_towers_without_blocks_ln_post_and_proj_are_refused(vision: dict[str, Any], reason: str) -> None:
    network = Architecture("other", {**tiny.config(), "vision_cfg": vision}).build()
    with pytest.raises(CannotPartition, match=reason) as caught:
        partition(network)
    assert "leave the encoder frozen" in caught.value.hint


def test_a_network_that_is_no_clip_and_a_pruned_tower_are_refused() -> None:
    with pytest.raises(CannotPartition, match="Linear"):
        partition(torch.nn.Linear(2, 2))
    encoder = towers.encoder("plain")
    tower: Any = encoder.network.get_submodule("visual")
    tower.prune_intermediate_layers([0])
    with pytest.raises(CannotPartition, match="pruned"):
        partition(encoder.network)


def test_a_delta_shares_untrained_parameters_and_does_not_change_the_base() -> None:
    encoder = towers.encoder("custom text")
    was = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    trained = parameter_names(partition(encoder.network).last_parts(1))
    twin = apply_delta(encoder, {name: value + 1 for name, value in copy_parameters(encoder, trained).items()})
    for name, parameter in twin.network.named_parameters():
        assert (parameter is encoder.network.get_parameter(name)) == (name not in trained)
    assert all(torch.equal(value, was[name]) for name, value in encoder.network.state_dict().items())
    assert torch.equal(twin.encode_texts(["film"]), encoder.encode_texts(["film"]))
    assert not torch.allclose(twin.encode_images(pixels()), encoder.encode_images(pixels()))


@given(alpha=st.floats(0, 1))
def test_averaging_is_linear_and_exact_at_its_ends(alpha: float) -> None:
    base, trained = {"a": torch.zeros(3)}, {"a": torch.tensor([1.0, -2.0, 4.0])}
    assert torch.equal(average_weights(base, trained, alpha=0.0)["a"], base["a"])
    assert torch.equal(average_weights(base, trained, alpha=1.0)["a"], trained["a"])
    assert average_weights(base, trained, alpha=alpha)["a"].tolist() == pytest.approx([alpha, -2 * alpha, 4 * alpha])


@pytest.mark.parametrize(
    "delta",
    [{"visual.nothing": torch.zeros(1)}, {"visual.proj": torch.zeros(3, 3)}, {"visual.proj": torch.full((64, 32), torch.nan)}],
)
def test_a_delta_of_another_network_is_refused(delta: dict[str, torch.Tensor]) -> None:
    encoder: Encoder = towers.encoder("plain")
    with pytest.raises(CheckpointIncompatible):
        apply_delta(encoder, delta)


def test_copied_parameters_are_equal_and_separate() -> None:
    encoder = towers.encoder("plain")
    twin = copy_with_own_parameters(encoder, ["visual.proj"])
    ours, theirs = twin.network.get_parameter("visual.proj"), encoder.network.get_parameter("visual.proj")
    assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()
