from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models.checkpoint_files import CARD, WEIGHTS
from models.encoder.base import read_base
from models.encoder.checkpoint import read_card, read_tensors, write_checkpoint
from models.encoder.golden import DEVICE_TOLERANCE, TOLERANCE, GoldenEmbedding, golden_image
from models.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    CheckpointMissing,
    CheckpointUnwritable,
    GoldenMismatch,
    ModelsError,
)
from models.images.preprocess import Preprocess
from tests.builders import tiny


def altered(folder: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Return the folder's card with a change, also written to disk."""
    card = read_card(folder)
    change(card)
    (folder / CARD).write_text(json.dumps(card))
    return card


def test_a_base_round_trips(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "b", quickgelu=True, seed=3)
    read = read_base(folder)
    film = Preprocess(size=tiny.SIZE)(golden_image())[None]
    assert torch.equal(read.encoder.encode_images(film), tiny.encoder(seed=3, quickgelu=True).encode_images(film))
    assert read.encoder.architecture.quickgelu
    assert read.preprocess == Preprocess(size=tiny.SIZE)
    assert {"open_clip", "torch"} <= read.card["libraries"].keys()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    torch.manual_seed(99)  # an arbitrary random state
    first = tiny.base(tmp_path / "1", seed=5)
    torch.rand(7)
    second, other = tiny.base(tmp_path / "2", seed=5), tiny.base(tmp_path / "3", seed=6)
    assert (first / WEIGHTS).read_bytes() == (second / WEIGHTS).read_bytes()
    assert (first / CARD).read_bytes() == (second / CARD).read_bytes()
    assert read_card(first)["weights"]["sha256"] != read_card(other)["weights"]["sha256"]


def test_building_does_not_change_the_global_random_state() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny.encoder(seed=8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("trained_with", [True, False])
def test_the_wrong_activation_is_detected_by_the_golden_embedding(tmp_path: Path, trained_with: bool) -> None:
    folder = tiny.base(tmp_path / "b", quickgelu=trained_with)

    def flip(card: dict[str, Any]) -> None:
        card["architecture"]["quickgelu"] = card["architecture"]["config"]["quick_gelu"] = not trained_with

    with pytest.raises(GoldenMismatch, match="image encoder") as refused:
        read_base(folder, expected=altered(folder, flip))
    assert "--quickgelu" in refused.value.hint


def test_a_card_that_contradicts_itself_on_the_activation_is_refused(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "b")
    altered(folder, lambda card: card["architecture"].update(quickgelu=True))
    with pytest.raises(CheckpointIncompatible, match="QuickGELU"):
        read_base(folder)


def test_a_changed_text_tower_is_detected_by_the_golden_text(tmp_path: Path) -> None:
    """The image tower is right and the text tower wrong: prompts would have other directions."""
    encoder, preprocess = tiny.encoder(), Preprocess(size=tiny.SIZE)
    golden = GoldenEmbedding.compute(encoder, preprocess)
    encoder.network.get_parameter("ln_final.bias").add_(0.1)
    with pytest.raises(GoldenMismatch, match="text encoder"):
        golden.check(encoder, preprocess)


def test_changed_preprocessing_is_detected_by_the_golden_image() -> None:
    encoder = tiny.encoder()
    golden = GoldenEmbedding.compute(encoder, Preprocess(size=tiny.SIZE))
    with pytest.raises(GoldenMismatch):
        golden.check(encoder, Preprocess(size=tiny.SIZE, fit="crop"))


def test_the_tolerance_is_wider_than_rounding_and_narrower_than_the_wrong_activation() -> None:
    preprocess = Preprocess(size=tiny.SIZE)
    golden = GoldenEmbedding.compute(tiny.encoder(), preprocess)
    golden.check(tiny.encoder(), preprocess, tolerance=TOLERANCE / 50)
    assert TOLERANCE < DEVICE_TOLERANCE < 1e-2
    with pytest.raises(GoldenMismatch):
        golden.check(tiny.encoder(quickgelu=True), preprocess, tolerance=2 * TOLERANCE)


def test_golden_embeddings_that_are_non_finite_or_of_another_length_fail() -> None:
    encoder, preprocess = tiny.encoder(), Preprocess(size=tiny.SIZE)
    golden = GoldenEmbedding.compute(encoder, preprocess)
    for image in ((float("nan"), *golden.image[1:]), golden.image[:-1], ()):
        with pytest.raises(GoldenMismatch):
            GoldenEmbedding(image=image, text=golden.text).check(encoder, preprocess)


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "b")
    tiny.flip_a_bit_of_the_last_byte(folder / WEIGHTS)
    with pytest.raises(CheckpointCorrupt, match="SHA-256"):
        read_base(folder)


def test_tampered_weights_with_a_matching_card_are_detected_by_the_golden_embedding(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "b")
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["visual.transformer.resblocks.1.mlp.c_fc.weight"] *= 1.5
    card = read_card(folder)
    write_checkpoint(folder, WEIGHTS, tensors, {key: value for key, value in card.items() if key not in ("weights", "format")})
    with pytest.raises(GoldenMismatch):
        read_base(folder)


@pytest.mark.parametrize("left", [0, 5, 0.5])
def test_a_truncated_file_is_refused(tmp_path: Path, left: float) -> None:
    folder = tiny.base(tmp_path / "b")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(len(content) * left) if isinstance(left, float) else left])
    with pytest.raises(CheckpointCorrupt):
        read_base(folder)


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_a_missing_file_raises_checkpoint_missing(tmp_path: Path, file: str) -> None:
    folder = tiny.base(tmp_path / "b")
    (folder / file).unlink()
    with pytest.raises(CheckpointMissing) as missing:
        read_base(folder)
    assert missing.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["architecture"]["config"]["vision_cfg"].update(width=96),
        lambda card: card["architecture"]["config"]["vision_cfg"].update(layers=3),
        lambda card: card["architecture"]["config"]["vision_cfg"].update(unheard_of=1),
        lambda card: card["architecture"]["config"].pop("vision_cfg"),
        lambda card: card.pop("architecture"),
        lambda card: card.update(architecture="ViT-B-32"),
        lambda card: card.pop("golden"),
        lambda card: card["preprocess"].update(fit="crop"),
        lambda card: card["weights"].pop("sha256"),
        lambda card: card.update(format=99),
        lambda card: card.pop("weights"),
    ],
)
def test_a_changed_card_is_refused_with_a_hint(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    folder = tiny.base(tmp_path / "b")
    altered(folder, change)
    with pytest.raises(ModelsError) as refused:
        read_base(folder)
    assert refused.value.hint


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"weights": 1}'])
def test_an_invalid_card_is_refused(tmp_path: Path, content: str) -> None:
    folder = tiny.base(tmp_path / "b")
    (folder / CARD).write_text(content)
    with pytest.raises(CheckpointCorrupt):
        read_base(folder)


def test_the_card_of_an_earlier_release_is_read_with_the_key_names_of_this_one(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "b")
    altered(folder, lambda card: card.update(marking=card.pop("notice") or "UNTRAINED"))
    card = read_card(folder)
    assert "marking" not in card
    assert card["notice"] == "UNTRAINED"


def test_a_checkpoint_leaves_no_part_files_and_its_card_holds_hash_and_size(tmp_path: Path) -> None:
    card = write_checkpoint(tmp_path, "head.safetensors", {"bias": torch.arange(3.0)}, {"note": "x"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "head.safetensors"]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tmp_path.iterdir())  # root imports, the service reads
    assert read_card(tmp_path) == card
    assert card["weights"]["size"] == (tmp_path / "head.safetensors").stat().st_size
    assert torch.equal(read_tensors(tmp_path, "head.safetensors", sha256=card["weights"]["sha256"])["bias"], torch.arange(3.0))


def test_a_missing_folder_raises_checkpoint_unwritable(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnwritable) as refused:
        write_checkpoint(tmp_path / "nowhere", "head.safetensors", {"bias": torch.zeros(1)}, {})
    assert refused.value.hint
