"""Scoring and training with the activation cache: the same results, fewer images decoded, no failure caused by the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch

from adapters.ml.activation_cache import BACKOFF_SECONDS, ActivationCache, ActivationCacheSettings
from adapters.ml.activation_store import PAGE_BYTES
from adapters.ml.scorer import ClipScorer, load_scorer, read_version_weights
from adapters.storage.model_files import base_folder
from models.classifier.classifier import BATCH_TOLERANCE, STORED_TOLERANCE
from models.encoder.activations import SplitActivations
from models.encoder.base import read_base
from models.images.views import AugmentedViews
from models.training.recipe import Augmentation
from pipeline.domain import FINDINGS, ModelVersion, Scores, StoredInstance
from tests.builders import tiny
from tests.builders.lessons import RECIPE, Ward

LIMIT = 1 << 20


@dataclass
class Place:
    """A ward with an activation cache and learnt versions."""

    ward: Ward
    settings: ActivationCacheSettings

    def scorer(self, version: ModelVersion, settings: ActivationCacheSettings | None = None) -> ClipScorer:
        wanted = settings or self.settings
        return load_scorer(version, self.ward.store.root, device="cpu", batch_size=4, threads=1, cache_settings=wanted)

    def films(self) -> list[StoredInstance]:
        with self.ward.catalog.read() as tx:
            return [film for uid in sorted(self.ward.films.shown) for film in tx.studies.instances(uid)]

    def from_pixels(self, scorer: ClipScorer) -> Scores:
        films = self.films()
        return scorer.score([self.ward.films.read(film) for film in films], films)

    def recalled(self, scorer: ClipScorer) -> Scores:
        found = scorer.score_cached(self.films())
        return np.stack([found[film.header.sop_instance_uid] for film in self.films()])

    def learnt(self, k: int) -> ModelVersion:
        """Learn a version whose last k blocks are fine-tuned."""
        self.ward.plan = replace(self.ward.plan, method="partial", recipe=replace(RECIPE, k=k))
        version = self.ward.learn(again=True).version
        assert version is not None
        assert version.card["recipe"] == "partial"
        return version


@pytest.fixture
def place(tmp_path: Path) -> Place:
    ward = Ward(tmp_path)
    ward.labelled(12)
    return Place(ward, ActivationCacheSettings(directory=tmp_path / "activations", max_bytes=LIMIT, k=1))


# scoring


@pytest.mark.parametrize("moved", [None, 0, 1])
def test_scores_from_the_cache_equal_those_from_the_pixels(place: Place, moved: int | None) -> None:
    first = place.scorer(place.ward.zero_shot)
    place.from_pixels(first)
    version = place.ward.zero_shot if moved is None else place.learnt(moved)
    scorer = place.scorer(version)
    place.ward.films.broken = set(place.ward.films.shown)  # nothing can be decoded
    recalled = place.recalled(scorer)
    place.ward.films.broken = set()
    assert recalled == pytest.approx(place.from_pixels(scorer), abs=STORED_TOLERANCE)
    assert recalled.std(axis=0).max() > 10 * STORED_TOLERANCE or moved is None


def test_findings_without_fine_tuned_blocks_are_scored_from_cached_features(place: Place) -> None:
    place.from_pixels(place.scorer(place.ward.zero_shot))
    scorer = place.scorer(place.learnt(1))
    frozen = (
        (read_version_weights(scorer.version, place.ward.store.root).fine_tuned or pytest.fail("no block was fine-tuned"))
        .findings.logical_not()
        .numpy()
    )
    wanted = place.from_pixels(scorer)
    tower: Any = scorer._classifier.encoder.network.get_submodule("visual.transformer")
    with torch.no_grad():
        for parameter in tower.resblocks[-1].parameters():
            parameter.fill_(torch.nan)  # of the frozen tower; fine-tuned blocks are copies
    recalled = place.recalled(scorer)
    assert 0 < frozen.sum() < len(frozen)
    assert recalled == pytest.approx(wanted, abs=STORED_TOLERANCE)
    assert recalled[:, frozen] == pytest.approx(wanted[:, frozen], abs=BATCH_TOLERANCE)


def test_versions_with_more_unfrozen_blocks_than_the_cache_covers_are_scored_from_the_pixels(place: Place) -> None:
    place.from_pixels(place.scorer(place.ward.zero_shot))
    scorer = place.scorer(place.learnt(2))
    assert scorer.score_cached(place.films()) == {}
    plain = load_scorer(scorer.version, place.ward.store.root, device="cpu", batch_size=4, threads=1)
    assert place.from_pixels(scorer) == pytest.approx(place.from_pixels(plain), abs=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_caching_changes_no_score(place: Place, k: int) -> None:
    for version in (place.ward.zero_shot, place.learnt(1)):
        plain = load_scorer(version, place.ward.store.root, device="cpu", batch_size=4, threads=1)
        keeping = place.scorer(version, replace(place.settings, k=k))
        assert place.from_pixels(keeping) == pytest.approx(place.from_pixels(plain), abs=1e-5)


def test_scoring_caches_the_same_activations_as_cache_warming(place: Place) -> None:
    scorer, films = place.scorer(place.ward.zero_shot), place.films()
    assert scorer.uncached(films) == films
    images = [place.ward.films.read(film) for film in films]
    scorer.score(images[:5], films[:5])
    assert scorer.uncached(films) == films[5:]
    scorer.cache_activations(images[5:], films[5:])
    assert scorer.uncached(films) == []
    assert place.recalled(scorer) == pytest.approx(scorer.score(images), abs=STORED_TOLERANCE)
    assert scorer.cache_capacity == LIMIT // PAGE_BYTES  # an image is smaller than a page


def test_only_scored_instances_are_cached(place: Place) -> None:
    scorer, films = place.scorer(place.ward.zero_shot), place.films()
    scorer.score([place.ward.films.read(films[3])], films[3:4])
    assert list(scorer.score_cached(films)) == [films[3].header.sop_instance_uid]
    assert scorer.score_cached([]) == {}


def _lost(folder: Path) -> None:
    shutil.rmtree(folder)


def _torn(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 1000)


def _rotten(folder: Path) -> None:
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[8192:] = bytes(byte ^ 0x55 for byte in content[8192:])
        path.write_bytes(content)


def _somebody_elses(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"notes of the IT department")


@pytest.mark.parametrize("damage", [_lost, _torn, _rotten, _somebody_elses])
@pytest.mark.parametrize("restarted", [False, True])
def test_lost_torn_or_corrupt_entries_are_scored_from_the_pixels(
    place: Place, damage: Callable[[Path], None], restarted: bool
) -> None:
    scorer = place.scorer(place.ward.zero_shot)
    wanted = place.from_pixels(scorer)
    damage(place.settings.directory)
    if restarted:
        scorer.close()
        scorer = place.scorer(place.ward.zero_shot)
    recalled = scorer.score_cached(place.films())
    for film, scores in zip(place.films(), wanted, strict=True):
        if (found := recalled.get(film.header.sop_instance_uid)) is not None:
            assert found == pytest.approx(scores, abs=STORED_TOLERANCE)
    if restarted:
        assert recalled == {}
    assert place.from_pixels(scorer) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("change", ["k", "rendering"])
def test_entries_of_another_k_or_rendering_are_not_used(place: Place, change: str) -> None:
    scorer = place.scorer(place.ward.zero_shot)
    place.from_pixels(scorer)
    settings = replace(place.settings, k=0) if change == "k" else replace(place.settings, rendering=2)
    other = place.scorer(place.ward.zero_shot, settings)
    assert other.score_cached(place.films()) == {}
    place.from_pixels(other)
    assert len(other.score_cached(place.films())) == len(scorer.score_cached(place.films())) == 12


def test_entries_of_other_weights_are_not_used(place: Place, tmp_path: Path) -> None:
    place.from_pixels(place.scorer(place.ward.zero_shot))
    other = tiny.served(tmp_path / "other", seed=1)
    scorer = load_scorer(other, tmp_path / "other", device="cpu", batch_size=4, threads=1, cache_settings=place.settings)
    assert scorer.score_cached(place.films()) == {}


@pytest.mark.parametrize("trouble", ["no folder can be made", "no room", "limit too small"])
def test_a_failure_of_the_cache_is_one_warning_and_scoring_continues(place: Place, trouble: str) -> None:
    settings = place.settings
    match trouble:
        case "no folder can be made":
            settings.directory.write_text("a file")
        case "no room":
            settings = replace(settings, reserve_bytes=1 << 62)
        case _:
            settings = replace(settings, max_bytes=100)
    with structlog.testing.capture_logs() as lines:
        scorer = place.scorer(place.ward.zero_shot, settings)
        for _ in range(3):
            assert scorer.score_cached(place.films()) == {}
            assert place.from_pixels(scorer).shape == (12, len(FINDINGS))
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert len(warnings) == (0 if trouble == "no room" else 1)  # a full cache is no failure
    assert all(line["hint"] for line in warnings)


def test_after_a_failure_the_cache_is_retried_when_the_back_off_ends(place: Place) -> None:
    now = [0.0]
    base = read_base(base_folder(place.ward.store.root, place.ward.zero_shot.base), expected=place.ward.zero_shot.card)
    kept = ActivationCache(base, place.settings, clock=lambda: now[0])
    place.settings.directory.write_text("a file")
    row = SplitActivations(torch.zeros(1, 5, 64), torch.zeros(1, 32))
    kept.write(["a"], row)
    place.settings.directory.unlink()
    kept.write(["a"], row)
    assert kept.missing(["a"]) == ["a"]
    now[0] = BACKOFF_SECONDS + 1
    kept.write(["a"], row)
    assert kept.missing(["a"]) == []


def test_an_encoder_that_cannot_be_split_scores_without_a_cache(place: Place) -> None:
    with structlog.testing.capture_logs() as lines:
        scorer = place.scorer(place.ward.zero_shot, replace(place.settings, k=3))
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["no activations are cached"]
    assert place.from_pixels(scorer).shape == (12, len(FINDINGS))
    assert (scorer.score_cached(place.films()), scorer.uncached(place.films()), scorer.cache_capacity) == ({}, [], 0)


def test_an_older_instance_does_not_replace_a_newer_entry(place: Place) -> None:
    scorer = place.scorer(place.ward.zero_shot, replace(place.settings, max_bytes=1 << 20))
    (film, *_), image = place.films(), np.zeros((64, 64), dtype=np.float32)

    def another(number: int, received: StoredInstance) -> StoredInstance:
        return replace(received, file=replace(received.file, sha256=f"{number:064x}"))

    number = 1000
    while scorer.uncached([another(number, film)]):
        scorer.cache_activations([image], [another(number, film)])
        number += 1
    assert scorer.score_cached([another(1000, film)])  # nothing was deleted
    late = replace(another(number, film), received_at=film.received_at.replace(year=2200))
    assert scorer.uncached([late]) == [late]
    scorer.cache_activations([image], [late])
    assert scorer.score_cached([late])
    assert not scorer.score_cached([another(1000, film)])


# views


def test_a_view_depends_on_image_number_and_seed_alone() -> None:
    model_input = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
    views = AugmentedViews(Augmentation(views=4), seed=3)
    assert torch.equal(views.view(model_input, "a", 0), model_input)
    assert torch.equal(views.view(model_input, "a", 2), AugmentedViews(Augmentation(views=8), seed=3).view(model_input, "a", 2))
    others = [
        views.view(model_input, "b", 2),
        views.view(model_input, "a", 3),
        AugmentedViews(Augmentation(views=4), seed=4).view(model_input, "a", 2),
    ]
    assert not any(torch.equal(views.view(model_input, "a", 2), other) for other in others)
    names = {
        name
        for one in (views, AugmentedViews(Augmentation(views=4, degrees=3), seed=3), AugmentedViews(Augmentation(views=4), 4))
        for name in one.names("a")
    }
    assert len(names) == 1 + 3 * 3
    assert views.names("a")[0] == "a"


# learning


def weights(place: Place, version: ModelVersion) -> dict[str, torch.Tensor]:
    return {
        name: torch.nan_to_num(tensor.float())
        for name, tensor in read_version_weights(version, place.ward.store.root).tensors.items()
    }


@pytest.mark.parametrize("method", ["stage-1", "partial"])
def test_training_from_the_cache_equals_training_from_the_pixels(place: Place, method: str) -> None:
    place.ward.plan = replace(place.ward.plan, method=method)  # type: ignore[arg-type]  # pytest's parameters are words
    place.ward.kept = None
    without = place.ward.learn(again=True).version
    place.from_pixels(place.scorer(place.ward.zero_shot))  # in batches of 4
    place.ward.kept = place.settings
    filling = place.ward.learn(again=True).version
    place.ward.films.broken = set(place.ward.films.shown)
    stored = place.ward.learn(again=True).version
    assert without is not None
    assert filling is not None
    assert stored is not None
    assert stored.card["learning"]["films"] == 12
    assert stored.thresholds == pytest.approx(without.thresholds, abs=1e-4)
    first, third = weights(place, without), weights(place, stored)
    assert first.keys() == third.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, third[name], atol=1e-3), name
    for name, tensor in weights(place, filling).items():  # cached values are read back bit for bit
        assert torch.equal(tensor, third[name]), name


def test_only_uncached_instances_are_decoded(place: Place) -> None:
    place.ward.kept = place.settings
    place.learnt(1)
    place.ward.films.asked.clear()
    place.ward.labelled(2, start=60)
    place.learnt(1)
    assert set(place.ward.films.asked) == {"1.60", "1.61"}


def test_a_cache_lost_between_rounds_costs_only_time(place: Place) -> None:
    place.ward.kept = place.settings
    place.learnt(1)
    shutil.rmtree(place.settings.directory)
    place.settings.directory.write_text("a file")
    assert place.learnt(1).card["learning"]["films"] == 12


def test_a_serving_version_with_more_unfrozen_blocks_is_compared_from_the_pixels(place: Place) -> None:
    place.ward.kept = place.settings
    deep = place.learnt(2)
    with place.ward.catalog.begin() as tx:
        tx.versions.serve(deep.number)
    version = place.learnt(1)
    against = {found["against"]: found for found in version.card["learning"]["comparisons"]}
    assert against[f"version {deep.number}"]["cases"] == 12


def test_an_encoder_that_cannot_be_split_is_trained_by_stage_1(place: Place) -> None:
    place.ward.kept = place.settings
    whole = place.ward.learn(again=True).version
    place.ward.plan = replace(place.ward.plan, recipe=replace(RECIPE, k=3))  # of two blocks
    version = place.ward.learn(again=True).version
    assert whole is not None
    assert version is not None
    assert version.card["recipe"] == "stage-1"
    assert "was not tried" in version.card["learning"]["notes"][0]
    losses = [made.card["learning"]["log_loss"]["stage-1"] for made in (whole, version)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
