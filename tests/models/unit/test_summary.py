from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from models.evaluation import statistics
from models.evaluation.statistics import PatientBootstrap
from models.experiment.summary import (
    PAPER_HEAD,
    ZERO_SHOT,
    Estimate,
    LadderComparison,
    LadderSummary,
    MethodRun,
    average_draws,
    measure_run,
    summarise,
)
from tests.builders import benches

FILMS, FINDINGS = 600, ("Effusion", "Mass", "Hernia")
LABELS = benches.random_labels(FILMS, [0.3, 0.2, 0.1], seed=0)
PATIENTS = np.array([f"p{row // 2}" for row in range(FILMS)])
BOOTSTRAP = PatientBootstrap(PATIENTS, resamples=400, seed=0)


def logits(skill: float, *, seed: int) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=LABELS.shape) + skill * LABELS).astype(np.float32)


def run(method: str, shots: int, draw: int, scores: npt.NDArray[np.float32]) -> MethodRun:
    return measure_run(scores, LABELS, BOOTSTRAP, method=method, shots=shots, draw=draw, findings=FINDINGS)


@pytest.fixture(scope="module")
def runs() -> list[MethodRun]:
    """Zero-shot and chance without labels; the paper's head at chance; ours improving with shots."""
    found = [run("chance", 0, 0, logits(0.0, seed=11)), run(ZERO_SHOT, 0, 0, logits(0.5, seed=2))]
    for draw in range(5):
        for shots in (1, 4):
            found.append(run(PAPER_HEAD, shots, draw, logits(0.0, seed=100 + 10 * draw + shots)))
            found.append(run("ours", shots, draw, logits(0.6 + 0.2 * shots, seed=200 + 10 * draw + shots)))
    return found


@pytest.fixture(scope="module")
def summary(runs: list[MethodRun]) -> LadderSummary:
    return summarise(runs, seed=0)


def compared(summary: LadderSummary, method: str, shots: int, reference: str) -> LadderComparison:
    (found,) = [one for one in summary.comparisons if (one.method, one.shots, one.reference) == (method, shots, reference)]
    return found


def test_a_row_holds_the_measures_of_one_finding() -> None:
    scores = logits(1.0, seed=3)
    rows = run("ours", 4, 2, scores).rows
    assert [(row.method, row.shots, row.draw, row.finding) for row in rows] == [("ours", 4, 2, name) for name in FINDINGS]
    chances = expit(scores.astype(np.float64))
    for row, values in zip(
        rows,
        zip(
            statistics.auc(scores, LABELS),
            statistics.auprc(scores, LABELS),
            statistics.brier(chances, LABELS),
            statistics.ece(chances, LABELS),
            strict=True,
        ),
        strict=True,
    ):
        assert (row.auc, row.auprc, row.brier, row.ece) == pytest.approx(values)


def test_means_and_deviations_are_over_the_draws(runs: list[MethodRun], summary: LadderSummary) -> None:
    per_draw = [np.mean([row.auc for row in one.rows]) for one in runs if (one.method, one.shots) == ("ours", 4)]
    estimate = summary.mean_auc["ours"][4]
    assert (estimate.mean, estimate.sd) == pytest.approx((np.mean(per_draw), np.std(per_draw, ddof=1)))
    assert (estimate.draws, estimate.findings) == (5, 3)
    assert estimate.lo < estimate.mean < estimate.hi
    assert list(summary.mean_auc) == ["chance", ZERO_SHOT, PAPER_HEAD, "ours"]


def test_the_interval_of_a_method_without_labels_is_that_of_the_patients_alone(
    runs: list[MethodRun], summary: LadderSummary
) -> None:
    estimate = summary.mean_auc[ZERO_SHOT][0]
    lower, upper = statistics.percentile_interval(runs[1].resampled_auc)
    assert (estimate.sd, estimate.draws) == (0.0, 1)
    assert (estimate.lo, estimate.hi) == pytest.approx((float(lower), float(upper)))


def test_intervals_of_random_scores_hold_one_half(summary: LadderSummary) -> None:
    for estimate in (summary.mean_auc["chance"][0], *summary.mean_auc[PAPER_HEAD].values()):
        assert estimate.lo <= 0.5 <= estimate.hi


def test_variance_between_draws_widens_the_interval(runs: list[MethodRun]) -> None:
    """The same mean, from equal draws and from different ones."""
    (one,) = [run("ours", 1, 0, logits(0.8, seed=5))]
    equal = [MethodRun("equal", 1, draw, one.rows, one.weighted_auc, one.resampled_auc) for draw in range(6)]
    apart = [
        MethodRun("apart", 1, draw, one.rows, one.weighted_auc, one.resampled_auc + (0.1 if draw % 2 else -0.1))
        for draw in range(6)
    ]
    found = summarise([*equal, *apart], seed=0).mean_auc
    width = {method: found[method][1].hi - found[method][1].lo for method in ("equal", "apart")}
    assert width["apart"] > 1.5 * width["equal"]
    lower, _ = statistics.percentile_interval(one.resampled_auc)
    assert found["equal"][1].lo == pytest.approx(float(lower))


def test_better_methods_are_significant_and_equal_ones_are_not(runs: list[MethodRun], summary: LadderSummary) -> None:
    wins = compared(summary, "ours", 4, ZERO_SHOT)
    assert wins.lo > 0 and wins.p_holm < 0.001
    assert wins.difference == pytest.approx(summary.mean_auc["ours"][4].mean - summary.mean_auc[ZERO_SHOT][0].mean)
    assert wins.relative == pytest.approx(wins.difference / (summary.mean_auc[ZERO_SHOT][0].mean - 0.5))
    loses = compared(summary, "chance", 0, ZERO_SHOT)
    assert loses.hi < 0 and loses.p_holm < 0.001
    twin = [
        MethodRun("twin", one.shots, one.draw, one.rows, one.weighted_auc, one.resampled_auc)
        for one in runs
        if one.method == ZERO_SHOT
    ]
    same = compared(summarise([*runs, *twin], seed=0), "twin", 0, ZERO_SHOT)
    assert (same.difference, same.lo, same.hi, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_paired_difference_has_a_narrower_interval_than_its_parts() -> None:
    """Two nearly equal scores: their difference is more certain than either."""
    scores = logits(1.0, seed=7)
    nearly = scores + 0.2 * np.random.default_rng(8).normal(size=scores.shape).astype(np.float32)
    summary = summarise([run(ZERO_SHOT, 0, 0, scores), run("nearly", 0, 0, nearly)], seed=0)
    part, difference = summary.mean_auc[ZERO_SHOT][0], compared(summary, "nearly", 0, ZERO_SHOT)
    assert difference.hi - difference.lo < (part.hi - part.lo) / 2


def test_methods_are_compared_with_a_reference_at_equal_shots(summary: LadderSummary) -> None:
    keys = {(one.method, one.shots, one.reference) for one in summary.comparisons}
    assert keys == {
        *((method, shots, ZERO_SHOT) for method in ("ours", PAPER_HEAD) for shots in (1, 4)),
        ("chance", 0, ZERO_SHOT),
        *((method, shots, PAPER_HEAD) for method in ("ours", "chance", ZERO_SHOT) for shots in (1, 4)),
    }
    for reference in (ZERO_SHOT, PAPER_HEAD):
        family = [one for one in summary.comparisons if one.reference == reference]
        corrected = statistics.holm(np.array([one.p for one in family]))
        np.testing.assert_allclose([one.p_holm for one in family], corrected)


def test_without_references_there_are_no_comparisons() -> None:
    assert summarise([run("ours", 1, 0, logits(1.0, seed=1))], seed=0).comparisons == ()


def test_undefined_findings_are_left_out_of_means_and_counts() -> None:
    scores = logits(1.0, seed=9)
    scores[:, 1] = np.nan
    one = run("ours", 1, 0, scores)
    summary = summarise([one], seed=0)
    estimate = summary.mean_auc["ours"][1]
    assert math.isnan(one.rows[1].auc)
    assert estimate.findings == 2
    assert estimate.mean == pytest.approx(np.mean([one.rows[0].auc, one.rows[2].auc]))
    assert estimate.lo < estimate.mean < estimate.hi


def test_averages_are_per_finding(runs: list[MethodRun]) -> None:
    rows = [row for one in runs for row in one.rows]
    (mass,) = [one for one in average_draws(rows) if (one.method, one.shots, one.finding) == ("ours", 1, "Mass")]
    values = [row for row in rows if (row.method, row.shots, row.finding) == ("ours", 1, "Mass")]
    assert len(values) == 5
    for measure in ("auc", "auprc", "brier", "ece"):
        column = [getattr(row, measure) for row in values]
        assert mass.mean[measure] == pytest.approx(np.mean(column))
        assert mass.sd[measure] == pytest.approx(np.std(column, ddof=1))


def test_the_json_has_the_documented_shape(summary: LadderSummary) -> None:
    document = json.loads(json.dumps(summary.json, allow_nan=False))
    assert set(document["mean_auc"]) == {"chance", ZERO_SHOT, PAPER_HEAD, "ours"}
    assert set(document["mean_auc"]["ours"]) == {"1", "4"}
    assert set(document["mean_auc"][ZERO_SHOT]) == {"0"}
    assert set(document["mean_auc"]["ours"]["4"]) == {"mean", "sd", "lo", "hi"}
    assert document["mean_auc"]["ours"]["4"]["mean"] == summary.mean_auc["ours"][4].mean
    undefined = LadderSummary({"ours": {1: Estimate(math.nan, 0.0, math.nan, math.nan, math.nan, 1, 0)}}, (), ())
    assert undefined.json["mean_auc"]["ours"]["1"] == {"mean": None, "sd": 0.0, "lo": None, "hi": None}


def test_the_same_runs_and_seed_give_the_same_summary(runs: list[MethodRun], summary: LadderSummary) -> None:
    assert summarise(runs, seed=0) == summary
    assert summarise(runs, seed=1).mean_auc["ours"][4].lo != summary.mean_auc["ours"][4].lo
    assert summarise([], seed=0) == LadderSummary({}, (), ())
