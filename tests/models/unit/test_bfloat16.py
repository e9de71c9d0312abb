"""Scoring in bfloat16: equivalent to float32, or not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from adapters.experiment.bases import demo_base
from adapters.ml.activation_store import ActivationIdentity
from adapters.ml.scorer import apply_precision
from adapters.simulator import population
from models.classifier import bfloat16
from models.classifier.bfloat16 import compare_precisions, with_bfloat16_blocks
from models.classifier.classifier import Classifier
from models.classifier.head import zero_shot_head
from models.classifier.prompts import read_prompts
from models.encoder.activations import compute_activations, encode_activations
from models.encoder.base import read_base
from models.evaluation.statistics import auc
from models.images.preprocess import Preprocess
from pipeline.domain import FINDINGS
from tests.builders import tiny
from tests.builders.shipped import shipped


@pytest.fixture(scope="module")
def exact() -> Classifier:
    encoder = tiny.encoder()
    return Classifier(encoder, Preprocess(size=tiny.SIZE), zero_shot_head(encoder, read_prompts()))


def test_only_the_image_blocks_are_cast_to_bfloat16_and_the_given_encoder_is_unchanged(exact: Classifier) -> None:
    before = {name: tensor.clone() for name, tensor in exact.encoder.network.state_dict().items()}
    fast = with_bfloat16_blocks(exact.encoder)
    kinds = {name: parameter.dtype for name, parameter in fast.network.named_parameters()}
    assert {name for name, kind in kinds.items() if kind is torch.bfloat16} == {
        name for name in kinds if name.startswith("visual.transformer.resblocks.") and ".ln_" not in name
    }
    assert (fast.precision, exact.encoder.precision) == (torch.bfloat16, torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in exact.encoder.network.state_dict().items())
    assert torch.equal(fast.encode_texts(["a film"]), exact.encoder.encode_texts(["a film"]))


def test_residual_stream_and_activations_stay_float32_and_splitting_changes_no_feature(exact: Classifier) -> None:
    fast, pixels = with_bfloat16_blocks(exact.encoder), torch.randn(3, 3, tiny.SIZE, tiny.SIZE)
    entering = compute_activations(fast, pixels, k=1)
    assert entering.dtype is torch.float32
    features = encode_activations(fast, entering, k=1).features
    assert features.dtype is torch.float32
    assert (features - fast.encode_images(pixels)).abs().max() < 2e-3


def test_a_version_with_equivalent_scores_serves_in_bfloat16(exact: Classifier) -> None:
    with capture_logs() as logs:
        served = apply_precision(exact, "bfloat16")
    assert served.encoder.precision is torch.bfloat16
    assert logs[0]["log_level"] == "info"
    assert logs[0]["largest_difference"] <= bfloat16.MAX_SCORE_DIFFERENCE


def test_a_version_with_different_scores_serves_in_float32_with_a_warning(
    exact: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "MAX_SCORE_DIFFERENCE", 1e-9)  # no network of any size rounds as finely
    with capture_logs() as logs:
        served = apply_precision(exact, "bfloat16")
    assert served is exact
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["largest_difference"] > 0


def test_agreement_is_the_share_of_pairs_in_the_same_order() -> None:
    scores = np.array([[0.1], [0.5], [0.9]], dtype=np.float32)
    assert bfloat16._compute_agreement(scores, scores) == 1.0
    assert bfloat16._compute_agreement(scores, scores[::-1]) == 0.0
    assert bfloat16._compute_agreement(scores, np.full_like(scores, 0.5)) == 0.5


def test_precision_float32_changes_nothing(exact: Classifier) -> None:
    assert apply_precision(exact, "float32") is exact


def test_activations_of_another_precision_have_another_identity(tmp_path: Path) -> None:
    base = read_base(tiny.base(tmp_path / "base"))
    identity = ActivationIdentity.of_base(base, k=1)
    other = ActivationIdentity.of_base(replace(base, encoder=with_bfloat16_blocks(base.encoder)), k=1)
    assert identity.fingerprint != other.fingerprint
    assert ActivationIdentity.of_base(base, k=1).precision == "float32"


@shipped
def test_the_shipped_encoder_is_equivalent_in_bfloat16_and_float32() -> None:
    base = demo_base()
    exact = Classifier(base.encoder, base.preprocess, zero_shot_head(base.encoder, read_prompts()))
    fast = exact.map_encoders(with_bfloat16_blocks)
    cases = population.enriched_cases("west", 56, seed=5, per_finding=4)
    pixels = torch.stack([base.preprocess(film.pixels) for film in population.take_films(cases, size=(128, 128), workers=1)])
    scores, others = exact.score_pixels(pixels), fast.score_pixels(pixels)
    labels = np.array([[finding in case.findings for finding in FINDINGS] for case in cases], dtype=np.int8)
    assert np.abs(scores - others).max() < bfloat16.MAX_SCORE_DIFFERENCE
    assert np.nanmax(np.abs(auc(scores, labels) - auc(others, labels))) < 0.02
    assert compare_precisions(exact, fast).is_equivalent
