from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from adapters.storage.model_store import ModelStore
from models.checkpoint_files import CARD, HEAD, WEIGHTS
from pipeline.errors import NoWeights, OutOfResources, PermanentError, WeightsRejected
from tests.builders import tiny


def staged(folder: Path, *, sha256: str = "aa", file: str = WEIGHTS) -> Path:
    (folder / file).write_bytes(b"weights")
    (folder / CARD).write_text(json.dumps({"weights": {"sha256": sha256}, "notice": ""}))
    return folder


def published(store: ModelStore, name: str, *, sha256: str = "aa") -> None:
    with store.stage() as folder:
        store.publish_base(staged(folder, sha256=sha256), name)


def test_a_published_base_appears_whole(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    assert store.bases() == []
    with store.stage() as folder:
        staged(folder)
        assert store.bases() == []
        store.publish_base(folder, "b32")
    assert [(base.name, base.weights_sha256) for base in store.bases()] == [("b32", "aa")]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["bases"]


def test_an_interrupted_import_leaves_no_base(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.stage() as folder:
        staged(folder)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_staging_folders_of_a_killed_process_are_ignored_and_removed_after_a_day(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    published(store, "b32")
    fresh, old = tmp_path / ".fresh.part", tmp_path / ".old.part"
    for folder in (fresh, old, tmp_path / "bases" / "half"):
        folder.mkdir()
        (folder / f"{WEIGHTS}.part").write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert [base.name for base in store.bases()] == ["b32"]
    published(store, "half")  # replaces the folder without a card
    assert [base.name for base in store.bases()] == ["b32", "half"]
    assert fresh.exists()
    assert not old.exists()


def test_publishing_the_same_weights_again_keeps_the_base_and_others_are_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    published(store, "b32")
    before = (tmp_path / "bases" / "b32" / WEIGHTS).stat().st_ino
    published(store, "b32")
    assert (tmp_path / "bases" / "b32" / WEIGHTS).stat().st_ino == before
    with pytest.raises(PermanentError) as refused:
        published(store, "b32", sha256="bb")
    assert "--name" in refused.value.hint


def test_a_version_folder_without_a_row_in_the_catalog_is_replaced(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for sha256 in ("aa", "bb"):
        with store.stage() as folder:
            store.publish_version(staged(folder, sha256=sha256, file=HEAD), 1)
    assert json.loads((tmp_path / "versions" / "1" / CARD).read_text())["weights"]["sha256"] == "bb"


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "A", "x" * 64, "a\n"])
def test_a_name_that_cannot_be_a_folders_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermanentError):
        ModelStore(tmp_path).base_folder(name)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weights": {}}'])
def test_an_unreadable_card_is_rejected(tmp_path: Path, content: str) -> None:
    store = ModelStore(tmp_path)
    published(store, "b32")
    (tmp_path / "bases" / "b32" / CARD).write_text(content)
    with pytest.raises(WeightsRejected):
        store.base("b32")


def test_a_missing_base_is_no_weights(tmp_path: Path) -> None:
    with pytest.raises(NoWeights) as missing:
        ModelStore(tmp_path).base("b32")
    assert "import" in missing.value.hint


def test_publishing_an_empty_folder_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.stage() as folder, pytest.raises(NoWeights):
        store.publish_base(folder, "b32")


def test_an_unwritable_directory_is_out_of_resources(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutOfResources) as refused, ModelStore(tmp_path / "models").stage():
        pass
    assert "[model] directory" in refused.value.hint


def test_a_version_is_present_with_all_its_files(tmp_path: Path) -> None:
    version = tiny.served(tmp_path / "models")
    store = ModelStore(tmp_path / "models")
    assert store.has_version(version.number, base=version.base)
    (store.version_folder(version.number) / HEAD).unlink()
    assert not store.has_version(version.number, base=version.base)


def test_the_card_of_an_earlier_release_is_read_with_the_key_names_of_this_one(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    published(store, "b32")
    card = {"weights": {"sha256": "aa"}, "marking": "UNTRAINED"}
    (tmp_path / "bases" / "b32" / CARD).write_text(json.dumps(card))
    assert store.base("b32").card == {"weights": {"sha256": "aa"}, "notice": "UNTRAINED"}
