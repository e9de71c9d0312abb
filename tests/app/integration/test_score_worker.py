"""The score worker on real files: the activation cache, filled while scoring or in idle time, serves the next version."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from adapters.app.compose import Parts
from adapters.app.workers import build_worker_specs
from adapters.catalog.catalog import SqlCatalog
from adapters.config.sections import Config
from adapters.ml import importer
from adapters.storage.image_store import FileImageStore
from adapters.storage.model_store import ModelStore
from models.classifier.classifier import STORED_TOLERANCE
from pipeline import rescore
from pipeline.domain import Scores
from pipeline.work import WorkerSpec, WorkPolicy, work_once
from tests.builders import tiny
from tests.builders.labelled_archive import reported_film

FILMS = 6


class Place:
    """Six reported studies without scores, and a tiny CLIP of two blocks that serves."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.config = Config.model_validate(
            {
                "catalog": {"url": url},
                "storage": {"directory": folder / "images", "min_free": 0},
                "model": {"directory": folder / "models", "device": "cpu"},
                "score": {"threads": 1, "batch_size": 4},
                "activation_cache": {"directory": folder / "activations", "max_size": 1 << 20},
                "learn": {"unfrozen_blocks": 1},
            }
        )
        self.catalog = SqlCatalog(url)
        (folder / "models").mkdir()
        self.store = ModelStore(folder / "models")
        self.base = importer.import_untrained_base(self.store, str(tiny.config_file(folder)), seed=0)
        self.register()
        images = FileImageStore(folder / "images")
        for number in range(FILMS):
            reported_film(self.catalog, images, number, effusion=number % 2 == 0)

    def register(self) -> int:
        """Let another version of the same base serve."""
        return importer.register_zero_shot(self.catalog, self.store, self.base, serve=True).number

    @contextmanager
    def post(self, config: Config | None = None) -> Iterator[WorkerSpec]:
        with Parts(config or self.config) as parts:
            (post,) = build_worker_specs(parts, "score", stop_requested=lambda: False)
            yield post

    def work(self, config: Config | None = None) -> None:
        with self.post(config) as post:
            while work_once(post, catalog=self.catalog, worker="w", policy=WorkPolicy()):
                pass

    def scores(self, version: int) -> Scores:
        with self.catalog.read() as tx:
            found = [tx.scores.image_scores(f"1.2.{number}", version)[f"1.2.{number}.1"] for number in range(FILMS)]
        return np.stack(found)


@pytest.fixture
def place(tmp_path: Path, fresh_url: Callable[[str], str]) -> Iterator[Place]:
    made = Place(tmp_path, fresh_url("sqlite"))
    yield made
    made.catalog.dispose()


@pytest.mark.parametrize("way", ["in passing", "in spare time"])
def test_a_later_version_scores_from_the_activation_cache_without_the_files(place: Place, way: str) -> None:
    if way == "in passing":
        assert rescore.rescore(catalog=place.catalog) == FILMS
    place.work()
    if way == "in passing":
        first = place.scores(1)
    else:
        plain = place.config.model_copy(
            update={"activation_cache": place.config.activation_cache.model_copy(update={"enabled": False})}
        )
        assert rescore.rescore(catalog=place.catalog) == FILMS
        place.work(plain)
        first = place.scores(1)
    shutil.rmtree(place.folder / "images")
    second = place.register()
    assert rescore.rescore(catalog=place.catalog) == FILMS
    place.work()
    assert place.scores(second) == pytest.approx(first, abs=STORED_TOLERANCE)


def test_a_disabled_activation_cache_stores_nothing(place: Place) -> None:
    place.config = place.config.model_copy(
        update={"activation_cache": place.config.activation_cache.model_copy(update={"enabled": False})}
    )
    rescore.rescore(catalog=place.catalog)
    place.work()
    assert place.scores(1).shape == (FILMS, 14)
    assert not (place.folder / "activations").exists()
