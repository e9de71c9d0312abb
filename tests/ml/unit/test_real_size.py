"""ViT-B/32 as it is served, with untrained weights: real sizes, seeds and layouts, meaningless scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.ml import importer
from adapters.ml.scorer import load_scorer
from adapters.storage.model_store import ModelStore
from models.encoder import sources
from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from models.encoder.golden import GoldenEmbedding
from models.errors import GoldenMismatch
from models.images.preprocess import Preprocess
from tests.builders import tiny
from tests.builders.fakes.catalog import FakeCatalog


def test_the_same_seed_gives_the_same_network_and_golden_embeddings_detect_the_wrong_activation() -> None:
    first, again = (Encoder.untrained(Architecture.from_name("ViT-B-32"), seed=0) for _ in range(2))
    weights = first.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.network.state_dict().items())
    golden = GoldenEmbedding.compute(first, Preprocess())
    golden.check(again, Preprocess())
    with pytest.raises(GoldenMismatch):
        golden.check(Encoder.with_weights(Architecture.from_name("ViT-B-32-quickgelu"), weights), Preprocess())


@pytest.mark.slow
def test_openais_tag_is_fetched_registered_and_scores_as_quickgelu(tmp_path: Path) -> None:
    """The hub's cache holds untrained weights under the name of OpenAI's: all of `model fetch` without the network."""
    import safetensors.torch

    root = tmp_path / "downloads" / "models--timm--vit_base_patch32_clip_224.openai"
    (root / "snapshots" / "abc").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    network = Encoder.untrained(Architecture.from_name("ViT-B-32-quickgelu"), seed=1).network
    safetensors.torch.save_file(network.state_dict(), root / "snapshots" / "abc" / "open_clip_model.safetensors")
    store = ModelStore(tmp_path / "models")
    source = sources.fetch("ViT-B-32-quickgelu/openai", tmp_path / "downloads")
    version = importer.register_zero_shot(FakeCatalog(), store, importer.import_base(store, source))
    assert version.base == "vit-b-32-quickgelu-openai"
    assert version.card["architecture"]["quickgelu"]
    scorer = load_scorer(version, store.root, batch_size=4, threads=0)
    films = [tiny.film(2500, 2048), tiny.film(300, 400), tiny.film(512, 512)]
    scores = scorer.score(films)
    assert scores.shape == (3, 14)
    assert np.abs(scores[1] - scorer.score(films[1:2])[0]).max() < 1e-4
