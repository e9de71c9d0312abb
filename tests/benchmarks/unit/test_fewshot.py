"""Evaluation of targets by `tests.benchmarks.fewshot`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from adapters.experiment.scoring import UnitScores
from models.experiment.summary import LadderRow, MethodRun
from tests.benchmarks.fewshot import evaluate_runs, table

FINDINGS = ("Effusion", "Mass")


def runs(method: str, means: Sequence[float], *, shots: int) -> list[MethodRun]:
    """Return one run per draw, with its AUC for both findings and, with little noise, for every resample."""
    noise = 0.001 * np.random.default_rng(0).standard_normal(200)  # the same patients for every method
    return [
        MethodRun(
            method=method,
            shots=shots,
            draw=draw,
            rows=tuple(LadderRow(method, shots, draw, finding, mean, 0.5, 0.1, 0.1) for finding in FINDINGS),
            weighted_auc=mean,
            resampled_auc=mean + noise,
        )
        for draw, mean in enumerate(means)
    ]


def scored(shots: int, seconds: float) -> UnitScores:
    return UnitScores("radclipd", shots, 0, lambda: np.zeros((1, 2), dtype=np.float32), seconds, films=4, studies_read=9.0)


def measured(own: Sequence[float], *, zero: float = 0.6, clap: Sequence[float] = (0.7, 0.7), shots: int = 16) -> dict[str, Any]:
    made = [*runs("zero-shot", [zero], shots=0), *runs("radclipd", own, shots=shots), *runs("clap", clap, shots=shots)]
    made += runs("all-labels", [0.99], shots=0)
    return evaluate_runs(made, [scored(shots, 2.0), scored(shots, 4.0)])


def test_all_targets_hold() -> None:
    found = measured([0.72, 0.76])
    assert all(found["holds"].values()) and len(found["holds"]) == 3
    assert found["ratios"]["radclipd at 16 shots / zero-shot"] == {"min": 1.2, "median": 1.2333, "max": 1.2667}
    assert found["gain"]["of_means"] == pytest.approx(0.74 / 0.6, abs=1e-4)
    assert found["seconds_per_fit"] == {"16": 3.0}


def test_a_gain_below_the_target_is_reported() -> None:
    gain, below, worse = measured([0.70, 0.73])["holds"].values()
    assert (gain, below, worse) == (False, True, True)


@pytest.mark.parametrize(("drawn", "holds"), [(0.596, True), (0.594, False)])
def test_a_single_draw_below_zero_shot_decides_the_target(drawn: float, holds: bool) -> None:
    found = measured([drawn, 0.95], clap=(0.55, 0.55))
    assert found["lowest_difference"] == {"value": round(drawn - 0.6, 4), "shots": 16, "draw": 0, "target": -0.005}
    assert list(found["holds"].values()) == [True, holds, True]


def test_a_method_is_a_rival_only_outside_the_interval() -> None:
    clearly, hardly = measured([0.74, 0.74], clap=(0.76, 0.76)), measured([0.72, 0.76], clap=(0.73, 0.76))
    assert clearly["worse_outside_interval"] == ["clap at 16"] and not list(clearly["holds"].values())[2]
    (one,) = (each for each in clearly["differences"] if each["method"] == "clap")
    assert (one["difference"], one["hi"] < 0) == (-0.02, True)
    assert hardly["worse_outside_interval"] == []


def test_the_method_with_all_labels_is_not_a_rival() -> None:
    found = measured([0.74, 0.74])
    assert any(each["method"] == "all-labels" and each["hi"] < 0 for each in found["differences"])
    assert found["worse_outside_interval"] == []


def test_without_sixteen_shots_the_gain_is_not_evaluated() -> None:
    assert list(measured([0.61, 0.61], clap=(0.6, 0.6), shots=2)["holds"].values()) == [None, True, True]


def test_the_table_states_the_same_results_as_text() -> None:
    found = measured([0.70, 0.70], clap=(0.76, 0.76)) | {"impossible": {"full": "no blocks"}, "settings": {"shots": [16]}}
    json.dumps(found, allow_nan=False)
    lines = list(table(found))
    assert "radclipd                    0.7000" in lines
    assert any(line.startswith("clap") and line.endswith("*") for line in lines)
    assert "not possible: full: no blocks" in lines
    assert [line.split("  ")[0] for line in lines[-3:]] == ["does NOT hold", "holds", "does NOT hold"]
