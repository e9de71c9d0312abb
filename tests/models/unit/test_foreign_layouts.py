"""Checkpoints of CheXzero and CLEAR: the names and the ratios of the real tensors, narrow and shallow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.encoder.encoder import Encoder
from models.encoder.foreign_layouts import GREY_MEAN, GREY_STD, WeightsLayout, _interpolate_positions, foreign_source
from models.encoder.partition import partition
from models.encoder.sources import local_source
from models.errors import CheckpointIncompatible, CheckpointUnsafe
from tests.builders import tiny
from tests.builders.foreign_checkpoints import dinov2_tower, openai_clip, text_tower


def pixels(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("patch", "grid", "embed"), [(32, 7, 32), (16, 20, 48)], ids=["started from OpenAI's", "from random"])
def test_a_chexzero_checkpoint_gives_its_own_architecture(tmp_path: Path, patch: int, grid: int, embed: int) -> None:
    original = openai_clip(patch=patch, grid=grid, embed=embed)
    torch.save({name: tensor.half() for name, tensor in original.network.state_dict().items()}, tmp_path / "best_64_0.864.pt")
    source = foreign_source(tmp_path / "best_64_0.864.pt", WeightsLayout.CHEXZERO)
    assert (source.preprocess.size, source.preprocess.fit) == (patch * grid, "pad")
    assert source.preprocess.mean == pytest.approx((GREY_MEAN,) * 3)
    assert source.preprocess.std == pytest.approx((GREY_STD,) * 3)
    assert source.architecture.quickgelu
    assert source.provenance()["layout"] == "chexzero"
    loaded = source.encoder()
    wanted = Encoder.with_weights(
        original.architecture, {name: tensor.half().float() for name, tensor in original.network.state_dict().items()}
    )
    images = pixels(patch * grid)
    assert torch.equal(loaded.encode_images(images), wanted.encode_images(images))
    assert torch.equal(loaded.encode_texts(["no pleural effusion"]), wanted.encode_texts(["no pleural effusion"]))


@pytest.mark.parametrize("tower", ["visual.base.", "visual.backbone."])
def test_a_clear_checkpoint_gives_dinov2s_features(tmp_path: Path, tower: str) -> None:
    dino, projection = dinov2_tower(size=448), torch.nn.Linear(64, 64)
    state = text_tower(embed=64) | {f"{tower}{name}": tensor for name, tensor in dino.state_dict().items()}
    state |= {f"{tower}mask_token": torch.zeros(1, 64)}
    state |= {f"visual.projection.{name}": tensor for name, tensor in projection.state_dict().items()}
    torch.save(state, tmp_path / "best_model.pt")
    source = foreign_source(tmp_path / "best_model.pt", WeightsLayout.CLEAR)
    loaded, images = source.encoder(), pixels(448)
    with torch.inference_mode():
        wanted = functional.normalize(projection(dino(images)), dim=-1)
    # the projection is a random square matrix, so its bias passes a poorly conditioned solution
    assert torch.allclose(loaded.encode_images(images), wanted, atol=1e-4)
    assert partition(loaded.network).block_count == 2  # its last blocks can be unfrozen
    assert type(loaded.network.get_submodule("visual.transformer.resblocks.0.mlp.gelu")) is torch.nn.GELU
    assert type(loaded.network.get_submodule("transformer.resblocks.0.mlp.gelu")).__name__ == "QuickGELU"
    assert source.preprocess.size == 448


def test_positions_are_sampled_as_dinov2_does() -> None:
    """A ramp stays about a ramp under torch's bicubic filter: the sampled places are those of the factor (32 + .1) / 37."""
    ramp = torch.arange(37.0).repeat(37, 1).reshape(-1, 1)
    resized = _interpolate_positions(torch.cat([torch.tensor([[-5.0]]), ramp]), 32)
    assert resized.shape == (1 + 32 * 32, 1)
    assert resized[0].item() == -5.0
    row = resized[1:].reshape(32, 32)[10].numpy()
    places = (np.arange(32) + 0.5) * 37 / 32.1 - 0.5
    np.testing.assert_allclose(row[3:-3], places[3:-3], atol=0.06)
    assert abs(np.mean((row - places)[20:-3])) < 0.02  # the factor 32 / 37 would be off by .09 there


@pytest.mark.parametrize("layout", list(WeightsLayout))
def test_another_checkpoint_is_refused_with_the_layouts(tmp_path: Path, layout: WeightsLayout) -> None:
    torch.save({"backbone.conv.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    with pytest.raises(CheckpointIncompatible, match=layout.value) as refused:
        foreign_source(tmp_path / "resnet.pt", layout)
    assert "chexzero, clear" in refused.value.hint


def test_register_tokens_are_refused_with_the_reason(tmp_path: Path) -> None:
    state = {f"visual.base.{name}": tensor for name, tensor in dinov2_tower(size=28).state_dict().items()}
    torch.save(text_tower(embed=64) | state | {"visual.base.register_tokens": torch.zeros(1, 4, 64)}, tmp_path / "reg.pt")
    with pytest.raises(CheckpointIncompatible, match="register tokens"):
        foreign_source(tmp_path / "reg.pt", WeightsLayout.CLEAR)


def test_a_payload_is_refused_in_every_layout(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(1), "x": tmp_path}, tmp_path / "w.pt")
    with pytest.raises(CheckpointUnsafe):
        foreign_source(tmp_path / "w.pt", WeightsLayout.CHEXZERO)


def test_a_hub_folder_of_open_clip_is_imported_with_its_preprocessing(tmp_path: Path) -> None:
    """The files of WhyXrayCLIP: open_clip_config.json and open_clip_pytorch_model.bin."""
    written = tiny.encoder()
    torch.save(written.network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    configuration = tmp_path / "open_clip_config.json"
    configuration.write_text(tiny.hub_configuration(mean=[0.48, 0.46, 0.41], std=[0.27, 0.26, 0.28]))
    source = local_source(tmp_path / "open_clip_pytorch_model.bin", str(configuration))
    assert source.preprocess.mean == (0.48, 0.46, 0.41)
    assert torch.equal(source.encoder().encode_images(pixels(64)), written.encode_images(pixels(64)))
