from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapters.experiment.pretraining import PretrainingPlan, make_encoder
from models import demo
from models.fingerprint import file_sha256
from pipeline.domain import FINDINGS


def test_an_encoder_is_trained_with_its_card_and_evaluated_at_every_site(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    plan = PretrainingPlan(films_per_site=20, min_finding_share=0.05, evaluation_films=20, film_edge_pixels=96).with_epochs(1)
    card = make_encoder(
        plan,
        tmp_path,
        device=torch.device("cpu"),
        workers=1,
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert card == json.loads((tmp_path / demo.CARD).read_text())
    assert card["weights"]["sha256"] == file_sha256(tmp_path / demo.WEIGHTS)
    assert set(card["measures"]["zero-shot"]) == {"north", "east", "south", "lake", "west"}
    assert all(set(found["auc"]) == set(FINDINGS) for found in card["measures"]["zero-shot"].values())
    assert ("films", 80, 80) in calls
    encoder = demo.source(tmp_path).encoder()
    assert encoder.encode_texts(["clear lungs"]).shape == (1, 96)


def test_the_shipped_card_matches_the_shipped_weights_and_meets_its_auc() -> None:
    card = demo.read_card()
    weights = demo.FOLDER / demo.WEIGHTS
    assert card["weights"]["sha256"] == file_sha256(weights)
    assert weights.stat().st_size < 20e6
    assert 0.60 < card["measures"]["zero-shot"][card["measures"]["unseen_site"]]["mean_auc"] < 0.80
    assert card["measures"]["unseen_site"] not in card["training_data"]["sites"]


@pytest.mark.slow
def test_the_shipped_encoder_reaches_the_auc_of_its_card_at_the_unseen_site() -> None:
    from adapters.experiment.pretraining import measure_zero_shot

    source = demo.source()
    found = measure_zero_shot(
        source.encoder(), source.preprocess, PretrainingPlan(), workers=2, progress=lambda what, done, total: None
    )
    for site, said in demo.read_card()["measures"]["zero-shot"].items():
        assert np.isclose(found[site]["mean_auc"], said["mean_auc"], atol=2e-3)
