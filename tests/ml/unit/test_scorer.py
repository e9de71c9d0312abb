from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.ml.scorer import ClipScorers, choose_device, load_scorer
from adapters.storage.model_files import base_folder, version_folder
from models.checkpoint_files import CARD, HEAD, WEIGHTS
from pipeline.domain import ModelVersion
from pipeline.errors import ConfigurationError, NoWeights, PixelsUnreadable, RadclipdError, WeightsRejected
from pipeline.ports.services import Scorer, Scorers
from tests.builders import tiny


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelVersion]:
    root = tmp_path_factory.mktemp("stored") / "models"
    return root, tiny.served(root)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, ModelVersion]:
    root = tmp_path / "models"
    return root, tiny.served(root)


def load(root: Path, version: ModelVersion) -> Scorer:
    return load_scorer(version, root, device="cpu", batch_size=4, threads=1)


def test_images_of_any_size_are_scored(stored: tuple[Path, ModelVersion]) -> None:
    scorer = load(*stored)
    scores = scorer.score([tiny.film(*shape) for shape in [(1, 1), (3, 1000), (777, 333), (64, 64), (2048, 2500)]])
    assert scores.shape == (5, 14)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scorer.version == stored[1]
    assert scorer.score([]).shape == (0, 14)


def test_loading_twice_gives_the_same_scores(stored: tuple[Path, ModelVersion]) -> None:
    films = [tiny.film(100, 80, seed=seed) for seed in range(6)]
    assert np.array_equal(load(*stored).score(films), load(*stored).score(films))


def test_a_non_finite_image_raises_the_pipelines_error(stored: tuple[Path, ModelVersion]) -> None:
    with pytest.raises(PixelsUnreadable):
        load(*stored).score([np.full((4, 4), np.nan, dtype=np.float32)])


@pytest.mark.parametrize("missing", [WEIGHTS, HEAD, CARD])
def test_missing_files_raise_no_weights_with_a_hint(damaged: tuple[Path, ModelVersion], missing: str) -> None:
    root, version = damaged
    folder = version_folder(root, 1) if missing == HEAD else base_folder(root, version.base)
    (folder / missing).unlink()
    with pytest.raises(NoWeights) as refused:
        load(root, version)
    assert "import" in refused.value.hint


def test_an_empty_directory_raises_no_weights(stored: tuple[Path, ModelVersion], tmp_path: Path) -> None:
    with pytest.raises(NoWeights):
        load(tmp_path, stored[1])


@pytest.mark.parametrize("file", [WEIGHTS, HEAD])
@pytest.mark.parametrize("damage", ["tampered", "truncated"])
def test_damaged_files_are_rejected_with_a_hint(damaged: tuple[Path, ModelVersion], file: str, damage: str) -> None:
    root, version = damaged
    path = (version_folder(root, 1) if file == HEAD else base_folder(root, version.base)) / file
    if damage == "tampered":
        tiny.flip_a_bit_of_the_last_byte(path)
    else:
        path.write_bytes(path.read_bytes()[: tiny.header_length(path) + 10])
    with pytest.raises(WeightsRejected, match="SHA-256") as refused:
        load(root, version)
    assert refused.value.hint


def _other_activation(card: dict[str, Any]) -> None:
    card["architecture"]["quickgelu"] = card["architecture"]["config"]["quick_gelu"] = True


@pytest.mark.parametrize(
    "change",
    [
        _other_activation,
        lambda card: card["architecture"]["config"]["vision_cfg"].update(layers=3),
        lambda card: card["architecture"]["config"].update(embed_dim=64),
        lambda card: card["preprocess"].update(fit="crop"),
        lambda card: card["golden"]["image"].reverse(),
        lambda card: card["weights"].update(sha256="0" * 64),
        lambda card: card.pop("golden"),
        lambda card: card.clear(),
    ],
)
def test_a_card_that_differs_from_the_files_is_rejected_with_a_hint(
    stored: tuple[Path, ModelVersion], change: Callable[[dict[str, Any]], None]
) -> None:
    card = copy.deepcopy(stored[1].card)
    change(card)
    with pytest.raises(WeightsRejected) as refused:
        load(stored[0], replace(stored[1], card=card))
    assert refused.value.hint


def test_a_version_with_contradicting_hashes_is_rejected(stored: tuple[Path, ModelVersion]) -> None:
    with pytest.raises(WeightsRejected, match="contradicts"):
        load(stored[0], replace(stored[1], weights_sha256="0" * 64))


def test_an_unknown_device_is_a_configuration_error(stored: tuple[Path, ModelVersion]) -> None:
    with pytest.raises(RadclipdError) as stopped:
        load_scorer(stored[1], stored[0], device="abacus", batch_size=1, threads=0)
    assert isinstance(stopped.value, ConfigurationError)
    assert "[model] device" in stopped.value.hint


def test_auto_chooses_cuda_where_available() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigurationError):
        choose_device("cuda:99")


def test_a_loaded_version_is_reused_until_another_serves(tmp_path: Path) -> None:
    root = tmp_path / "models"
    first = tiny.served(root)
    scorers = ClipScorers(root, device="cpu", batch_size=2, threads=1)
    port: Scorers = scorers
    assert port.load(first) is scorers.load(replace(first, reason="the row has changed, the version has not"))
    second = replace(first, device_uid="2.25.2")
    assert scorers.load(second).version is second


@pytest.mark.gpu
def test_the_gpu_gives_the_scores_of_the_cpu(stored: tuple[Path, ModelVersion]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    films = [tiny.film(100, 80, seed=seed) for seed in range(6)]
    on_gpu = load_scorer(stored[1], stored[0], device="cuda", batch_size=4, threads=0).score(films)
    assert on_gpu == pytest.approx(load(*stored).score(films), abs=1e-3)
