"""The shipped encoder as a source: complete, or an error that names the missing part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.ml import importer
from adapters.ml.error_translation import translate_model_errors
from adapters.storage.model_store import ModelStore
from models import demo
from models.encoder.base import read_base
from models.errors import CheckpointCorrupt, CheckpointMissing
from models.fingerprint import file_sha256
from pipeline.errors import NoWeights
from tests.builders.shipped import shipped


def written(folder: Path, card: str | None, weights: bytes | None = b"weights") -> Path:
    if weights is not None:
        (folder / demo.WEIGHTS).write_bytes(weights)
    if card is not None:
        (folder / demo.CARD).write_text(card)
    return folder


def test_weights_and_their_card_are_one_source(tmp_path: Path) -> None:
    written(tmp_path, None)
    card = {"name": "demo-clip", "weights": {"sha256": file_sha256(tmp_path / demo.WEIGHTS)}}
    found = demo.verified_source(written(tmp_path, json.dumps(card)))
    assert found.path == tmp_path / demo.WEIGHTS
    assert found.provenance()["card"] == card
    assert (found.origin["kind"], found.origin["name"]) == ("demo", demo.NAME)


@pytest.mark.parametrize(("card", "weights", "named"), [(None, b"w", demo.CARD), ("{}", None, demo.WEIGHTS)])
def test_the_missing_file_is_named_with_a_hint(tmp_path: Path, card: str | None, weights: bytes | None, named: str) -> None:
    written(tmp_path, card, weights)
    with pytest.raises(NoWeights, match=named) as caught, translate_model_errors():
        demo.verified_source(tmp_path)
    assert "pretrain-demo" in caught.value.hint
    assert isinstance(caught.value.__cause__, CheckpointMissing)


@pytest.mark.parametrize("card", ["{}", '{"weights": {"sha256": "0"}}', "no JSON"])
def test_a_card_of_other_weights_is_refused(tmp_path: Path, card: str) -> None:
    with pytest.raises(CheckpointCorrupt, match="card"):
        demo.verified_source(written(tmp_path, card))


@shipped
def test_the_shipped_encoder_becomes_a_base_with_its_card_and_notice(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    base = read_base(store.base_folder(importer.import_base(store, demo.verified_source(), notice=demo.NOTICE)))
    assert (base.card["notice"], base.card["source"]["card"]) == (demo.NOTICE, demo.read_card())
    assert base.card["source"]["sha256"] == file_sha256(demo.FOLDER / demo.WEIGHTS)
    assert (demo.FOLDER / demo.WEIGHTS).stat().st_size < 20 * 10**6
