"""The benchmark of partial unfreezing: fits of a small hospital, resumed from the store; its measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.images.preprocess import Preprocess
from models.training.fold_fits import AVERAGED, LAST
from models.training.recipe import Augmentation, Recipe
from models.training.training_round import TrainingPlan
from tests.benchmarks import label_efficiency, unfreezing
from tests.benchmarks.decisions import Hospital
from tests.benchmarks.unfreezing_rows import ROUND, RowStore, TrainedRow, collect_measures, describe_curve
from tests.benchmarks.unit.test_label_efficiency import make_cases

PLAN = TrainingPlan(recipe=Recipe(max_steps=2, augmentation=Augmentation(views=2)), max_folds=2)


def make_trials() -> unfreezing.Trials:
    """Return noise films of the good-text encoder: fits run, and learn nothing of worth."""
    rng = np.random.default_rng(0)
    base = label_efficiency.list_encoders()["good_text"]
    pool, test = make_cases(24, rng), make_cases(20, rng)
    edge = base.preprocess.size

    def draw(count: int) -> torch.Tensor:
        return torch.from_numpy(rng.random((count, 1, edge, edge)).astype(np.float16))

    def encode(inputs: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return base.encoder.encode_images(normalise(base.preprocess, inputs))

    films, tested, archive = draw(24), draw(20), draw(40)
    hospital = Hospital(encode(archive), np.full(40, "PA"), encode(films), pool, encode(tested), test)
    return unfreezing.Trials("good_text", base, hospital, films, tested, seed=0)


def normalise(preprocess: Preprocess, inputs: torch.Tensor) -> torch.Tensor:
    return preprocess.normalise(inputs.float())


def test_rows_are_stored_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfreezing, "PLAN", PLAN)
    trials = make_trials()
    store = RowStore.of_settings(tmp_path, PLAN, site="x", seed=0, quick=True)
    for row in unfreezing.measure_rows(trials, store, [1, 2], [1], 1, whole=True):
        store.append(row)
    rows = store.read()
    assert [(row.k, row.weights) for row in rows] == [(1, AVERAGED), (1, LAST), (2, AVERAGED), (2, LAST), (2, ROUND)]
    assert len({row.gain for row in rows[:4]}) > 1, "the fits change the scores"
    assert not list(unfreezing.measure_rows(trials, store, [1, 2], [1], 1, whole=True))
    other = RowStore.of_settings(tmp_path, replace(PLAN, seed=1), site="x", seed=0, quick=True)
    assert other.read() == []


def test_measures_are_means_over_encoders_and_the_worst_draw() -> None:
    rows = [
        TrainedRow(encoder, shots, draw, 2, ROUND, gain)
        for encoder, shots, draw, gain in [("a", 1, 0, -0.01), ("b", 1, 0, 0.03), ("a", 16, 0, 0.02), ("a", 16, 1, -0.04)]
    ]
    assert collect_measures(rows) == {"unfreezing_gain": {"1": 0.01, "16": -0.01}, "unfreezing_worst_draw_1_2": -0.01}
    assert describe_curve(rows)["a, 16 shots, k=2, round"] == {"mean": -0.01, "worst": -0.04, "draws": 2}
    assert collect_measures([]) == {"unfreezing_gain": None, "unfreezing_worst_draw_1_2": None}
