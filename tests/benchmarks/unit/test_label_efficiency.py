"""The bench of learning from few labels, on constructed features."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.evaluation.cases import Cases
from models.training.training_round import TrainingPlan
from pipeline.domain import FINDINGS
from tests.benchmarks import label_efficiency as bench
from tests.benchmarks.decisions import Hospital


def make_cases(count: int, rng: np.random.Generator) -> Cases:
    names = np.array([f"case-{number}" for number in range(count)])
    labels = (rng.random((count, len(FINDINGS))) < 0.3).astype(np.int8)
    return Cases(
        key=names,
        patient=names,
        labels=labels,
        age=np.full(count, 50, dtype=np.float32),
        sex=np.full(count, "F"),
        view=np.full(count, "PA"),
        pixel_sha256=names,
        weight=np.ones(count, dtype=np.float32),
        findings=FINDINGS,
    )


def make_hospital(*, seed: int = 0) -> Hospital:
    """Return features of 96 numbers in which every finding shifts the image along a direction of its own."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((96, 96)))[0][: len(FINDINGS)]

    def encode(labels: bench.Labels) -> torch.Tensor:
        features = rng.standard_normal((len(labels), 96)) + 3.0 * labels @ directions
        return torch.nn.functional.normalize(torch.from_numpy(features).float(), dim=1)

    pool, test, archive = (make_cases(count, rng) for count in (150, 120, 200))
    return Hospital(encode(archive.labels), archive.view, encode(pool.labels), pool, encode(test.labels), test)


def test_measures_of_both_encoders_and_a_control_that_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SHOTS", (16,))
    encoder = bench.list_encoders()["good_text"]
    table = bench.measure_encoder(make_hospital(), encoder, draws=1, seed=0)
    measures = bench.collect_measures({"weak_text": table, "good_text": table}, {"gate_power": 0.5, "gate_false": 0.0}, [])
    json.dumps(measures)
    assert measures["good_text_gain_16"] > 0.1
    assert measures["gate_power"] == 0.5
    assert measures["unfreezing_gain"] is None
    control = table["control"][bench.CLEAN]["16"]
    assert abs(control["served"] - 0.5) < 0.06
    assert table["control"]["probabilities"]["brier_over_base"] > table["probabilities"]["brier_over_base"]


def test_a_reader_misses_and_invents() -> None:
    labels = np.zeros((4000, 2), dtype=np.int8)
    labels[:, 0] = 1
    read = bench.read_with_errors(labels, seed=[1])
    assert read[:, 0].mean() == pytest.approx(1 - bench.MISSED, abs=0.02)
    assert read[:, 1].mean() == pytest.approx(bench.INVENTED, abs=0.01)


def test_shots_are_interpolated_on_their_logarithm() -> None:
    table = {"1": 0.6, "2": 0.65, "4": 0.7, "8": 0.8, "16": 0.85}
    rows = {shots: {"served": value, "head": 0.75} for shots, value in table.items()}
    assert bench.find_shots(rows) == pytest.approx(4 * 2**0.5, abs=0.01)
    assert bench.find_shots({shots: {**row, "head": 0.9} for shots, row in rows.items()}) is None
    assert bench.find_shots({shots: {**row, "head": 0.5} for shots, row in rows.items()}) == 1


def test_the_reported_site_follows_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = bench.report_seed()
    assert bench.report_seed() == seed
    monkeypatch.setattr(bench, "PLAN", replace(TrainingPlan(method="stage-1"), max_folds=4))
    assert bench.report_seed() != seed
