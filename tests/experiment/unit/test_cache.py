"""The feature cache: keyed by film and weights, and independent of interruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.experiment import feature_cache as caching
from adapters.experiment import feature_files as stored
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

    def stream(rows: Sequence[int]) -> Iterator[Image]:
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
    assert (folder_of(tmp_path) / stored.INDEX).stat().st_size == 64 * stored.INDEX_RECORD.itemsize
    heard: list[int] = []
    fill(tmp_path, source, base, heard=heard)
    assert heard == [64, 128, 150]
    for name in (stored.FILMS, stored.FEATURES, stored.POOLED, stored.INDEX):
        assert (folder_of(tmp_path) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_other_weights_have_a_separate_cache(whole: Path, base: ChosenBase, tmp_path: Path) -> None:
    other = choose_base(str(tiny.base(tmp_path / "other", seed=1)), store=None)
    assert caching.cache_key(other) != caching.cache_key(base) == folder_of(whole).name


def encoded(root: Path, source: CaseSource, base: ChosenBase) -> tuple[FeatureCache, list[int]]:
    """Fill a cache; return it with the rows of the source whose films were encoded."""
    read: list[int] = []

    def stream(rows: Sequence[int]) -> Iterator[Image]:
        read.extend(rows)
        return map(source.read_film, rows)

    return fill(root, replace(source, read_films=stream), base), read


def test_a_changed_list_of_films_encodes_only_the_new_ones(base: ChosenBase, tmp_path: Path) -> None:
    folder = nih_folder.collection(tmp_path / "nih", 20)
    before, read = encoded(tmp_path / "cache", nih_source(folder), base)
    assert read == [*range(20)]
    gone = next(folder.rglob(str(nih_source(folder).cases.key[4])))
    aside = gone.rename(tmp_path / gone.name)
    held, read = encoded(tmp_path / "cache", nih_source(folder), base)
    assert read == []
    kept = [row for row in range(20) if row != 4]
    assert torch.equal(held.features, before.features[kept])
    aside.rename(gone)
    again, read = encoded(tmp_path / "cache", nih_source(folder), base)
    assert read == []
    assert torch.equal(again.features, before.features)
    more = nih_source(nih_folder.collection(tmp_path / "more", 24))  # the same pictures in a new folder, and four more
    more = replace(more, film_keys=[*nih_source(folder).film_keys, *more.film_keys[20:]])
    _, read = encoded(tmp_path / "cache", more, base)
    assert read == [20, 21, 22, 23]


def test_a_replaced_film_is_another_film(base: ChosenBase, tmp_path: Path) -> None:
    folder = nih_folder.collection(tmp_path / "nih", 20)
    before, _ = encoded(tmp_path / "cache", nih_source(folder), base)
    name = str(nih_source(folder).cases.key[7])
    nih_folder.save(next(folder.rglob(name)), nih_folder.picture(["Mass"], seed=99))
    held, read = encoded(tmp_path / "cache", nih_source(folder), base)
    assert read == [7]
    same = (held.features == before.features).all(dim=1)
    assert np.flatnonzero(~same.numpy()).tolist() == [7]
    assert (held.films[held.rows[7]] != before.films[before.rows[7]]).any()
    assert fill(tmp_path / "cache", nih_source(folder), base).pixel_sha256[7] != before.pixel_sha256[7]


def test_a_moved_folder_has_the_same_films(base: ChosenBase, tmp_path: Path) -> None:
    folder = nih_folder.collection(tmp_path / "nih", 20)
    fill(tmp_path / "cache", nih_source(folder), base)
    _, read = encoded(tmp_path / "cache", nih_source(folder.rename(tmp_path / "moved")), base)
    assert read == []


def test_cases_of_one_film_share_a_row(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    twice = replace(source, film_keys=[source.film_keys[0], *source.film_keys[:-1]])  # case 1 is the film of case 0
    read: list[int] = []

    def stream(rows: Sequence[int]) -> Iterator[Image]:
        read.extend(rows)
        return (source.read_film(max(0, row - 1)) for row in rows)

    shown = replace(twice, read_films=stream, read_film=lambda row: source.read_film(max(0, row - 1)))
    heard: list[int] = []
    held = fill(tmp_path, shown, base, heard=heard)
    assert read == [0, *range(2, FILMS)]
    assert heard == [0, 65, 129, 150]
    assert held.rows[:3].tolist() == [0, 0, 1]


def test_films_of_two_sources_in_one_cache_are_found_by_film(base: ChosenBase, tmp_path: Path) -> None:
    one = nih_source(nih_folder.collection(tmp_path / "one", 12))
    two = nih_source(nih_folder.collection(tmp_path / "two", 16, show=lambda number: ["Mass"]))
    first = fill(tmp_path / "cache", one, base)
    second, again = fill(tmp_path / "cache", two, base), fill(tmp_path / "cache", one, base)
    apart = fill(tmp_path / "apart", two, base)
    assert torch.equal(again.features, first.features)
    assert torch.allclose(second.features, apart.features, atol=1e-6)
    assert (second.films[second.rows] == apart.films[apart.rows]).all()
    assert second.pixel_sha256.tolist() == apart.pixel_sha256.tolist()
    assert len(second.films) == 28


@pytest.mark.parametrize("cut", [1, stored.INDEX_RECORD.itemsize // 2, stored.INDEX_RECORD.itemsize * 10 + 5])
def test_what_a_crash_leaves_behind_is_written_again(cut: int, source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    before = {path.name: path.read_bytes() for path in folder_of(tmp_path).iterdir() if path.name != stored.APPEND_LOCK}
    index = folder_of(tmp_path) / stored.INDEX
    index.write_bytes(before[stored.INDEX][:-cut])
    heard: list[int] = []
    fill(tmp_path, source, base, heard=heard)
    assert heard[0] == FILMS - 1 - cut // stored.INDEX_RECORD.itemsize
    for name in (stored.FILMS, stored.INDEX):
        assert (folder_of(tmp_path) / name).read_bytes() == before[name] or name == stored.INDEX
    assert index.stat().st_size == len(before[stored.INDEX])


def test_records_of_zeros_at_the_end_are_no_records(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    """The length of a file may survive a loss of power without its content."""
    fill(tmp_path, source, base)
    index = folder_of(tmp_path) / stored.INDEX
    with index.open("ab") as file:
        file.write(bytes(3 * stored.INDEX_RECORD.itemsize))
    heard: list[int] = []
    fill(tmp_path, source, base, heard=heard)
    assert heard == []
    more = replace(source, film_keys=["new", *source.film_keys[1:]])
    assert fill(tmp_path, more, base).rows[0] == FILMS


@pytest.mark.parametrize("name", [stored.FEATURES, stored.POOLED])
def test_damaged_files_are_detected(name: str, source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    tiny.flip_a_bit_of_the_last_byte(folder_of(tmp_path) / name)
    with pytest.raises(PermanentError, match=rf"{name}.* is not what was written at row 149") as refused:
        fill(tmp_path, source, base)
    assert "made again" in refused.value.hint


@pytest.mark.parametrize("name", [stored.FILMS, stored.FEATURES, stored.POOLED])
def test_shortened_files_are_detected(name: str, source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    path = folder_of(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PermanentError, match=f"{name} is not what was written, but shorter"):
        fill(tmp_path, source, base)


def test_a_damaged_index_is_detected(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    index = folder_of(tmp_path) / stored.INDEX
    content = bytearray(index.read_bytes())
    content[stored.INDEX_RECORD.itemsize * 7 + 100] ^= 1
    index.write_bytes(content)
    with pytest.raises(PermanentError, match="index is not what was written at row 7"):
        fill(tmp_path, source, base)


def test_damaged_model_inputs_are_detected(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    fill(tmp_path, source, base)
    tiny.flip_a_bit_of_the_last_byte(folder_of(tmp_path) / stored.FILMS)
    with pytest.raises(PermanentError, match=f"{stored.FILMS} is not what was written at row 149"):
        fill(tmp_path, source, base)


def test_a_changed_film_of_the_source_is_detected(whole: Path, source: CaseSource, base: ChosenBase) -> None:
    def film(row: int) -> Image:
        return np.asarray(1 - source.read_film(row), dtype=np.float32)

    with pytest.raises(PermanentError, match="gives another film at row 0"):
        fill(whole, replace(source, read_film=film), base)


def test_two_processes_do_not_encode_the_same_films(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    def stream(rows: Sequence[int]) -> Iterator[Image]:
        with pytest.raises(TransientError, match="another process fills"):
            fill(tmp_path, source, base)
        return map(source.read_film, rows)

    fill(tmp_path, replace(source, read_films=stream), base)


def test_two_sources_fill_one_cache_at_a_time(source: CaseSource, base: ChosenBase, tmp_path: Path) -> None:
    """The second source has ten films of the first, which both encode, and two of its own."""
    own = nih_source(nih_folder.collection(tmp_path / "nih", 12, show=lambda number: ["Mass"]))
    few = replace(
        own,
        film_keys=[*source.film_keys[:10], *own.film_keys[10:]],
        read_film=lambda row: source.read_film(row) if row < 10 else own.read_film(row),
    )

    def stream(rows: Sequence[int]) -> Iterator[Image]:
        for row in rows:
            if row == 100:
                fill(tmp_path / "cache", few, base)
            yield source.read_film(row)

    held = fill(tmp_path / "cache", replace(source, read_films=stream), base)
    alone = fill(tmp_path / "alone", source, base)
    assert torch.allclose(held.features, alone.features, atol=1e-6)
    assert len(held.films) == FILMS + 2
    assert held.pixel_sha256.tolist() == alone.pixel_sha256.tolist()


def test_a_tower_that_cannot_be_partitioned_has_no_pooled_activations(base: ChosenBase, tmp_path: Path) -> None:
    few = nih_source(nih_folder.collection(tmp_path / "nih", 6))
    pooling = Architecture("attention pool", towers.config(attentional_pool=True, attn_pooler_heads=2))
    other = replace(base, encoder=Encoder.untrained(pooling, seed=0), sha256="0" * 64)
    held = fill(tmp_path / "cache", few, other)
    assert held.pooled.shape == (6, 0)
    assert held.features.shape[0] == 6
    assert torch.equal(fill(tmp_path / "cache", few, other).features, held.features)
