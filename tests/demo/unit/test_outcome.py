"""Evaluation of the demonstration on hand-made truths."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from adapters.demo import evaluation
from adapters.simulator.truth import GroundTruth
from pipeline.domain import FINDINGS

EFFUSION, MASS, HERNIA = (FINDINGS.index(name) for name in ("Effusion", "Mass", "Hernia"))


def truths(*shown: set[str]) -> dict[str, GroundTruth]:
    """Return the truth of studies s0, s1, ...; two studies per patient."""
    return {f"s{number}": GroundTruth(f"p{number // 2}", frozenset(findings)) for number, findings in enumerate(shown)}


def scores(**findings: list[float]) -> dict[str, evaluation.Floats]:
    """Return the probabilities by finding for s0, s1, ...; .5 for other findings."""
    count = len(next(iter(findings.values())))
    made = {f"s{number}": np.full(len(FINDINGS), 0.5) for number in range(count)}
    for finding, values in findings.items():
        for number, value in enumerate(values):
            made[f"s{number}"][FINDINGS.index(finding)] = value
    return made


FOUR = truths({"Effusion", "Mass"}, {"Effusion"}, {"Mass"}, set())


def measured(**columns: dict[str, evaluation.Floats]) -> evaluation.DemoEvaluation:
    found = evaluation.evaluate_scores(FOUR, {name.replace("_", "-"): column for name, column in columns.items()}, notice="PAPER")
    assert found is not None
    return found


def test_auc_is_one_for_ordered_scores_a_half_for_equal_ones_and_undefined_without_positives() -> None:
    found = measured(zero_shot=scores(Effusion=[0.9, 0.8, 0.3, 0.1], Mass=[0.5, 0.5, 0.5, 0.5]))
    [column] = found.performances
    assert (column.name, found.studies, found.patients, found.defined_findings) == ("zero-shot", 4, 2, 2)
    assert column.findings[EFFUSION].value == 1
    assert column.findings[MASS].value == 0.5
    assert np.isnan(column.findings[HERNIA].value)
    assert column.mean.value == 0.75  # of the two that are defined
    assert [found.positives[place] for place in (EFFUSION, MASS, HERNIA)] == [2, 2, 0]


def test_auc_is_undefined_without_negatives() -> None:
    everywhere = truths({"Effusion"}, {"Effusion"})
    found = evaluation.evaluate_scores(everywhere, {"zero-shot": scores(Effusion=[0.2, 0.9])}, notice="")
    assert found is not None
    assert str(found.performances[0].findings[EFFUSION]) == str(found.performances[0].mean) == "-"
    assert "mean of 0" in shown(found)


def test_the_interval_contains_the_mean_and_resamples_patients_instead_of_studies() -> None:
    chance = np.random.default_rng(3)
    apart = {f"s{n}": GroundTruth(f"p{n}", frozenset({"Mass"} if n % 3 == 0 else ())) for n in range(60)}
    together = {study: GroundTruth(f"p{int(study[1:]) // 6}", truth.findings) for study, truth in apart.items()}
    column = scores(Mass=[float(chance.normal(n % 3 == 0)) for n in range(60)])
    for study, values in column.items():
        values[MASS] += 0.8 * (int(study[1:]) // 6)  # what the films of a patient have in common
    alone, grouped = (evaluation.evaluate_scores(truth, {"it": column}, notice="") for truth in (apart, together))
    assert alone is not None
    assert grouped is not None
    for found in (alone, grouped):
        mean = found.performances[0].mean
        assert mean.low < mean.value < mean.high
    assert alone.performances[0].mean.value == grouped.performances[0].mean.value
    assert (alone.performances[0].mean.low, alone.performances[0].mean.high) != (
        grouped.performances[0].mean.low,
        grouped.performances[0].mean.high,
    )


def test_columns_are_compared_on_the_studies_scored_by_all_of_them() -> None:
    before, after = scores(Effusion=[0.9, 0.1, 0.3, 0.2]), scores(Effusion=[0.9, 0.8, 0.1, 0.7])
    del after["s3"]
    found = evaluation.evaluate_scores(FOUR, {"zero-shot": before, "after": after}, notice="")
    assert found is not None
    assert (found.studies, found.patients) == (3, 2)
    assert [column.findings[EFFUSION].value for column in found.performances] == [0.5, 1.0]
    words = next(line for line in shown(found).splitlines() if "Effusion" in line).split()
    assert words[:5] == ["Effusion", "2", "0.500", "1.000", "+0.500"]


def test_the_gain_is_paired_and_shown_beside_the_columns() -> None:
    chance = np.random.default_rng(5)
    shown_in = truths(*[{"Mass"} if n % 3 == 0 else {"Edema"} if n % 3 == 1 else set() for n in range(90)])
    noise = [float(chance.normal()) for _ in range(90)]
    before = scores(Mass=[noise[n] + 0.4 * (n % 3 == 0) for n in range(90)], Edema=noise)
    after = scores(Mass=[noise[n] + 0.6 * (n % 3 == 0) for n in range(90)], Edema=noise)
    found = evaluation.evaluate_scores(shown_in, {"zero-shot": before, "after": after}, notice="", studies_description="of nobody")
    assert found is not None
    assert found.gain is not None
    first, last = found.performances
    assert found.gain.findings[MASS].value == pytest.approx(last.findings[MASS].value - first.findings[MASS].value)
    assert found.gain.mean.value == pytest.approx(last.mean.value - first.mean.value)
    mean = found.gain.mean
    assert 0 < mean.low < mean.value < mean.high  # sure, though the intervals of the two overlap
    assert first.mean.high > last.mean.low
    edema = found.gain.findings[FINDINGS.index("Edema")]
    assert (edema.value, edema.low, edema.high) == (0, 0, 0)
    text = shown(found)
    assert "90 studies of 45 patients, of nobody" in text
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert lines["Edema"].endswith("+0.000   +0.000 to +0.000 ")
    assert f"{mean.signed_value}   {mean.signed_interval}" in lines["mean of 2"]


def test_a_single_model_has_no_gain() -> None:
    assert measured(zero_shot=scores(Effusion=[0.9, 0.8, 0.3, 0.1])).gain is None


def test_studies_without_truth_or_score_are_excluded_and_no_study_gives_no_evaluation() -> None:
    column = scores(Effusion=[0.9, 0.8])
    assert evaluation.evaluate_scores({}, {"zero-shot": column}, notice="") is None
    assert evaluation.evaluate_scores(FOUR, {}, notice="") is None
    assert evaluation.evaluate_scores(truths({"Mass"}), {"zero-shot": {"other": column["s0"]}}, notice="") is None
    found = evaluation.evaluate_scores(FOUR, {"zero-shot": column}, notice="")
    assert found is not None
    assert found.studies == 2


def test_scores_are_grouped_from_v_predictions_and_missing_findings_are_not_ranked() -> None:
    rows = [(f"s{n}", finding, 0.1 * n) for n in range(4) for finding in FINDINGS if (n, finding) != (2, "Mass")]
    column = evaluation.group_scores(rows)
    assert column["s3"][HERNIA] == pytest.approx(0.3)
    assert np.isnan(column["s2"][MASS])
    found = measured(zero_shot=column)
    assert (str(found.performances[0].findings[MASS]), str(found.performances[0].findings[EFFUSION])) == ("-", "0.000")


def shown(found: evaluation.DemoEvaluation) -> str:
    text = io.StringIO()
    Console(file=text, width=132).print(evaluation.build_table(found))
    return text.getvalue()


def test_the_table_names_measure_and_model_and_marks_undefined_values() -> None:
    text = shown(measured(zero_shot=scores(Effusion=[0.9, 0.8, 0.3, 0.1])))
    assert [line.rstrip() for line in text.splitlines()[:2]] == ["AUC against the hidden truth (PAPER)", "4 studies of 2 patients"]
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line.strip()}
    assert lines["Effusion"][-2:] == ["2", "1.000"]
    assert lines["Pleural Thickening"][-2:] == ["0", "-"]
    assert lines["mean of 2"][-1] == "0.750"
    assert lines["95 % interval"][-2] == "to"


def test_the_plot_is_drawn_for_one_and_two_columns_with_the_notice(tmp_path: Path) -> None:
    column = scores(Effusion=[0.9, 0.8, 0.3, 0.1])
    one, two = measured(zero_shot=column), measured(zero_shot=column, after=scores(Mass=[0.9, 0.8, 0.3, 0.1]))
    unmarked = evaluation.evaluate_scores(FOUR, {"zero-shot": column}, notice="")
    assert unmarked is not None
    pictures = []
    for number, found in enumerate((one, two, unmarked)):
        path = evaluation.draw_plot(found, tmp_path / f"{number}.png", films="films of paper")
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")))
    foot = int(0.95 * len(pictures[0]))
    assert not np.array_equal(pictures[0], pictures[1])
    assert (pictures[0][foot:, :300] < 255).any()
    assert (pictures[2][foot:, :100] == 255).all()
