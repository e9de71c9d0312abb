"""The feature cache: independent of interruptions, and specific to films and weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.experiment import feature_cache as caching
from adapters.experiment.bases import ChosenBase, choose_base
from adapters.experiment.case_source import CaseSource
from adapters.experiment.feature_cache import FeatureCache, load_or_fill_cache
from adapters.experiment.nih_source import nih_source
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from pipeline.domain import Image
from pipeline.errors import PermanentError, TransientError
from tests.builders import nih_folder, tiny, towers

FILMS = 150  # more than two batches


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CaseSource:
    return nih_source(nih_folder.collection(tmp_path_factory.mktemp("nih"), FILMS))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ChosenBase:
    return choose_base(str(tiny.base(tmp_path_factory.mktemp("models") / "base")), store=None)


def fill(root: Path, source: CaseSource, base: ChosenBase, **heard: list[int]) -> FeatureCache:
    return load_or_fill_cache(root, source, base, device=torch.device("cpu"), workers=2, advance=heard.get("heard", []).append)


def folder_of(root: Path) -> Path:
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def whole(source: CaseSource, base: ChosenBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache filled without interruption."""
    root = tmp_path_factory.mktemp("cache")
    fill(root, source, base)
    return root


def test_the_cache_holds_the_encoder_s_features(whole: Path, source: CaseSource, base: ChosenBase) -> None:
    held = fill(whole, source, base)
    pixels = torch.stack([base.preprocess(source.read_film(row)) for row in range(12)])
    assert torch.allclose(held.features[:12], base.encoder.encode_images(pixels), atol=2e-3)  # the squares are float16
    projected = torch.nn.functional.normalize(held.pooled @ base.encoder.network.get_parameter("visual.proj"), dim=1)
    assert torch.allclose(projected, held.features, atol=1e-5)
    assert held.films.dtype == np.float16
    assert held.films.shape == (FILMS, tiny.SIZE, tiny.SIZE)
    assert len(set(held.pixel_sha256.tolist())) == FILMS
    assert zero_shot_head(base.encoder, read_prompts()).logits(held.features).shape == (FILMS, 14)


def test_a_complete_cache_encodes_nothing(whole: Path, source: CaseSource, base: ChosenBase) -> None:
    heard: list[int] = []
    fill(whole, source, base, heard=heard)
    assert heard == []


def interrupted(source: CaseSource, after: int) -> CaseSource:
    """The same films, interrupted by Ctrl-C."""

    def stream(rows: range) -> Iterator[Image]:
        for count, row in enumerate(rows):
            if count == after:
                raise KeyboardInterrupt
            yield source.read_film(row)

    return replace(source, read_films=stream)


def test_an_interrupted_cache_resumes_after_the_last_complete_batch(
    whole: Path, source: CaseSource, base: ChosenBase, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, interrupted(source, 100), base)
    assert not list(tmp_path.glob(f"*/{caching.CARD}"))
    heard: list[int] = []
    fill(tmp_path, source, base, heard=heard)
    assert heard == [64, 128, 150]
    for name in (caching.FILMS, caching.FEATURES, caching.POOLED, caching.PIXELS):
        assert (folder_of(tmp_path) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_other_weights_or_films_have_a_separate_cache(whole: Path, source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    other = choose_base(str(tiny.base(tmp_path / "other", seed=1)), store=None)
    fewer = nih_source(nih_folder.collection(tmp_path / "nih", 4))
    keys = {caching.cache_key(*pair) for pair in ((source, base), (source, other), (fewer, base))}
    assert len(keys) == 3
    assert folder_of(whole).name in keys


@pytest.mark.parametrize("name", [caching.FEATURES, caching.POOLED, caching.PIXELS])
def test_damaged_files_are_detected(name: str, source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    tiny.flip_a_bit_of_the_last_byte(folder_of(tmp_path) / name)
    with pytest.raises(PermanentError, match=f"{name} is not what was written") as refused:
        fill(tmp_path, source, base)
    assert "made again" in refused.value.hint


def test_damaged_model_inputs_are_detected(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    tiny.flip_a_bit_of_the_last_byte(folder_of(tmp_path) / caching.FILMS)
    with pytest.raises(PermanentError, match="is damaged at row 149"):
        fill(tmp_path, source, base)


def test_a_changed_film_of_the_source_is_detected(whole: Path, source: CaseSource, base: ChosenBase) -> None:
    def film(row: int) -> Image:
        return np.asarray(1 - source.read_film(row), dtype=np.float32)

    with pytest.raises(PermanentError, match="gives another film at row 0"):
        fill(whole, replace(source, read_film=film), base)


def test_two_processes_do_not_fill_one_cache(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    def stream(rows: range) -> Iterator[Image]:
        with pytest.raises(TransientError, match="another process fills"):
            fill(tmp_path, source, base)
        return map(source.read_film, rows)

    fill(tmp_path, replace(source, read_films=stream), base)


def test_a_tower_that_cannot_be_partitioned_has_no_pooled_activations(base: ChosenBase, tmp_path: Path) -> None:
    few = nih_source(nih_folder.collection(tmp_path / "nih", 6))
    pooling = Architecture("attention pool", towers.config(attentional_pool=True, attn_pooler_heads=2))
    other = replace(base, encoder=Encoder.untrained(pooling, seed=0), sha256="0" * 64)
    held = fill(tmp_path / "cache", few, other)
    assert held.pooled.shape == (6, 0)
    assert held.features.shape[0] == 6
    assert torch.equal(fill(tmp_path / "cache", few, other).features, held.features)
