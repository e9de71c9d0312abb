from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from adapters.ml import importer
from adapters.ml.scorer import load_scorer
from adapters.storage.model_store import ModelStore
from models.encoder import sources
from pipeline.domain import ModelVersion, VersionState
from pipeline.errors import NoWeights, PermanentError, WeightsRejected
from tests.builders import tiny
from tests.builders.fakes.catalog import FakeCatalog


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(catalog: FakeCatalog, store: ModelStore, base: str, *, serve: bool = False) -> ModelVersion:
    return importer.register_zero_shot(catalog, store, base, serve=serve)


def test_an_imported_file_becomes_a_serving_version_that_scores(tmp_path: Path, store: ModelStore) -> None:
    catalog = FakeCatalog()
    torch.save(tiny.encoder(quickgelu=True).network.state_dict(), tmp_path / "My CLIP.pt")
    source = sources.local_source(tmp_path / "My CLIP.pt", str(tiny.config_file(tmp_path)), quickgelu=True)
    version = add(catalog, store, importer.import_base(store, source, notice="for tests"))
    assert (version.number, version.state, version.base, version.notice) == (1, VersionState.SERVING, "my-clip", "for tests")
    assert not version.calibrated
    assert (version.thresholds, version.scales) == ({}, {})  # every finding is told as a rank
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{20,38}", version.device_uid)
    assert catalog.tables.versions[1] == version
    assert load_scorer(version, store.root, batch_size=2, threads=0).score([tiny.film(50, 80)]).shape == (1, 14)


def test_the_card_holds_the_lineage(tmp_path: Path, store: ModelStore) -> None:
    torch.save(tiny.encoder().network.state_dict(), tmp_path / "w.pt")
    source = sources.local_source(tmp_path / "w.pt", str(tiny.config_file(tmp_path)))
    version = add(FakeCatalog(), store, importer.import_base(store, source, name="ours"))
    card = version.card
    assert card["recipe"] == "zero-shot"
    assert card["weights"] == {"name": "ours", "sha256": version.weights_sha256}
    assert (card["architecture"]["name"], card["architecture"]["quickgelu"]) == ("tiny", False)
    assert card["preprocess"]["fit"] == "pad"
    assert all(len(part["fingerprint"]) == 64 for part in (card["preprocess"], card["prompts"]))
    assert card["source"]["kind"] == "file"
    assert len(card["source"]["sha256"]) == 64
    assert len(card["golden"]["image"]) == len(card["golden"]["text"]) == 32
    assert card["temperature"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert {"open_clip", "torch"} == card["libraries"].keys()


def test_the_first_version_serves_and_later_ones_only_on_request(store: ModelStore, tmp_path: Path) -> None:
    catalog, config = FakeCatalog(), str(tiny.config_file(tmp_path))
    bases = [importer.import_untrained_base(store, config, seed=seed) for seed in (0, 1, 2)]
    first, second = add(catalog, store, bases[0]), add(catalog, store, bases[1])
    assert (first.state, second.state) == (VersionState.SERVING, VersionState.CANDIDATE)
    third = add(catalog, store, bases[2], serve=True)
    states = [version.state for version in catalog.tables.versions.values()]
    assert third.number == 3
    assert states == [VersionState.RETIRED, VersionState.CANDIDATE, VersionState.SERVING]
    assert len({version.device_uid for version in catalog.tables.versions.values()}) == 3
    assert [event.action for event in catalog.tables.audit] == ["model.import"] * 3
    assert "candidate" in catalog.tables.audit[1].detail


def test_untrained_weights_carry_a_notice_and_the_same_seed_gives_the_same_base(store: ModelStore, tmp_path: Path) -> None:
    catalog, config = FakeCatalog(), str(tiny.config_file(tmp_path))
    name = importer.import_untrained_base(store, config, seed=7)
    assert importer.import_untrained_base(store, config, seed=7) == name == "untrained-tiny-7"
    version = add(catalog, store, name)
    assert version.notice == "UNTRAINED"
    assert "UNTRAINED" in catalog.tables.audit[0].detail
    assert version.card["source"] == {"kind": "untrained", "name": "tiny", "seed": 7}
    with pytest.raises(PermanentError, match="another one"):
        importer.import_untrained_base(store, config, seed=8, name=name)


def test_a_version_whose_row_does_not_commit_does_not_block_the_next(store: ModelStore, tmp_path: Path) -> None:
    catalog = FakeCatalog()
    base = importer.import_untrained_base(store, str(tiny.config_file(tmp_path)), seed=0)
    catalog.fail_next_commit = ConnectionError("gone")
    with pytest.raises(ConnectionError):
        add(catalog, store, base)
    assert catalog.tables.versions == {}
    version = add(catalog, store, base)
    assert version.number == 1
    load_scorer(version, store.root, batch_size=1, threads=0)


@pytest.mark.parametrize("damage", ["payload", "truncated", "other"])
def test_an_unusable_file_leaves_no_base_and_no_version(store: ModelStore, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(
        tiny.encoder().network.state_dict() if damage != "payload" else {"x": test_the_card_holds_the_lineage},
        path,
    )
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    config = tiny.config_file(tmp_path, **({"layers": 3} if damage == "other" else {}))
    with pytest.raises(WeightsRejected) as refused:
        importer.import_base(store, sources.local_source(path, str(config)))
    assert refused.value.hint
    assert store.bases() == []
    assert not any(store.root.glob("**/*.part")) if store.root.exists() else True


def test_a_missing_file_and_an_invalid_name_are_refused_before_any_work(store: ModelStore, tmp_path: Path) -> None:
    source = sources.local_source(tmp_path / "nothing.pt", str(tiny.config_file(tmp_path)))
    with pytest.raises(NoWeights):
        importer.import_base(store, source)
    with pytest.raises(PermanentError, match="cannot name a base"):
        importer.import_base(store, source, name="../x")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("ViT-B-32-quickgelu/openai", "vit-b-32-quickgelu-openai"),
        ("hf-hub:yyupenn/whyxrayclip", "yyupenn-whyxrayclip"),
        ("best_64_5e-05_original_22000_0.864.pt", "best_64_5e-05_original_22000_0.864"),
        ("Größe & Co.safetensors", "gr-e-co"),
    ],
)
def test_base_names_are_derived_from_sources(source: str, name: str) -> None:
    assert importer.base_name(source) == name
