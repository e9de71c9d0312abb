"""Choice of the encoder by name, folder or tag, without substitutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.experiment.bases import choose_base, needs_store, serving_base
from adapters.ml import importer
from adapters.storage.model_store import ModelStore
from pipeline.errors import NoWeights, PermanentError, WeightsRejected
from tests.builders import tiny


def kept(root: Path, name: str) -> Path:
    store = ModelStore(root)
    root.mkdir(exist_ok=True)
    importer.import_untrained_base(store, str(tiny.config_file(root)), seed=0, name=name)
    return store.base_folder(name)


def test_a_folder_with_a_card_is_used_directly(tmp_path: Path) -> None:
    folder = tiny.base(tmp_path / "mine")
    chosen = choose_base(str(folder), store=None)
    assert (chosen.name, chosen.notice, chosen.preprocess.size) == ("mine", "", tiny.SIZE)
    assert not needs_store(str(folder))


def test_a_name_and_an_open_clip_tag_are_looked_up_in_the_store(tmp_path: Path) -> None:
    kept(tmp_path, "vit-b-32-quickgelu-openai")
    by_name = choose_base("vit-b-32-quickgelu-openai", store=tmp_path)
    by_tag = choose_base("ViT-B-32-quickgelu/openai", store=tmp_path)
    assert by_name.sha256 == by_tag.sha256
    assert by_tag.notice == "UNTRAINED"


def test_untrained_weights_need_the_explicit_name_and_carry_a_notice(tmp_path: Path) -> None:
    config = tiny.config_file(tmp_path)
    one, two = (choose_base(f"untrained:{config}", store=None) for _ in range(2))
    assert one.notice == "UNTRAINED"
    assert one.sha256 == two.sha256
    assert not needs_store(f"untrained:{config}")
    with pytest.raises(PermanentError, match="ViT-none"):
        choose_base("untrained:ViT-none", store=None)


def test_a_missing_base_has_no_substitute(tmp_path: Path) -> None:
    for store in (None, tmp_path):
        with pytest.raises(NoWeights, match="no base 'ViT-B-32/laion2b'") as missing:
            choose_base("ViT-B-32/laion2b", store=store)
        assert "radclipd model" in missing.value.hint


def test_the_base_of_a_version_is_verified_against_the_catalog_s_card(tmp_path: Path) -> None:
    version = tiny.served(tmp_path)
    assert serving_base(tmp_path, version.base, version.card).sha256 == version.weights_sha256
    other = {**version.card, "weights": {"sha256": "0" * 64}}
    with pytest.raises(WeightsRejected):
        serving_base(tmp_path, version.base, other)
