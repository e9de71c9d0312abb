"""Tables, plots and report in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.experiment import fewshot_report, manifest, plot_style, result_tables
from adapters.experiment.html_page import render_html
from adapters.experiment.scoring import UnitScores
from models.evaluation.cases import ABSENT, PRESENT, Split
from models.evaluation.statistics import PatientBootstrap, holm
from models.experiment.summary import NO_LABELS
from pipeline.errors import PermanentError
from tests.builders.benches import cases, random_labels

TESTED = 200


def scored(method: str, shots: int, draw: int, logits: Any) -> UnitScores:
    return UnitScores(method, shots, draw, lambda: np.asarray(logits, dtype=np.float32), seconds=0.5, films=3, studies_read=40.0)


@pytest.fixture(scope="module")
def measured() -> result_tables.FewshotTables:
    """Three findings; `good` detects two of them and is undefined for the third, `zero-shot` detects none."""
    labels = random_labels(2 * TESTED, [0.4, 0.3, 0.01], seed=1)
    labels[TESTED : TESTED + 3, 2] = PRESENT
    known = cases(labels)
    split = Split(pool=np.arange(TESTED), test=np.arange(TESTED, 2 * TESTED))
    rng = np.random.default_rng(0)
    ones = [scored("zero-shot", NO_LABELS, 0, rng.normal(size=(TESTED, 3)))]
    for draw in range(3):
        logits = labels[split.test] * 1.5 + rng.normal(size=(TESTED, 3))
        logits[:, 2] = np.nan
        ones.append(scored("good", 2, draw, logits))
    bootstrap = PatientBootstrap(known.patient[split.test], resamples=100, seed=0)
    return result_tables.build_tables(ones, known, split, bootstrap, seed=0)


def test_scopes_are_all_common_rare_and_single_findings(measured: result_tables.FewshotTables) -> None:
    assert list(dict.fromkeys(row.scope for row in measured.summary)) == ["mean", "common", "rare", "Effusion", "Mass", "Hernia"]
    assert measured.groups == {"common": [0, 1], "rare": [2]}
    means = {(row.method, row.scope): row for row in measured.summary}
    assert means["good", "mean"].auc == pytest.approx(means["good", "common"].auc)
    assert means["good", "common"].auc == pytest.approx((means["good", "Effusion"].auc + means["good", "Mass"].auc) / 2)
    assert np.isnan(means["good", "Hernia"].auc)
    assert (means["good", "mean"].findings, means["zero-shot", "mean"].findings) == (2, 3)
    assert (means["good", "mean"].films, means["good", "mean"].studies_read) == (3, 40)


def test_means_are_compared_over_the_findings_defined_in_both(measured: result_tables.FewshotTables) -> None:
    means = {(row.method, row.scope): row.auc for row in measured.summary}
    (mean,) = (row for row in measured.comparisons if row.scope == "mean")
    assert mean.findings == 2
    assert mean.reference == pytest.approx(means["zero-shot", "common"])
    assert mean.difference == pytest.approx(means["good", "common"] - means["zero-shot", "common"])
    assert mean.lo < mean.difference < mean.hi
    assert not [row for row in measured.comparisons if row.scope in ("rare", "Hernia")]


def test_p_values_of_findings_are_corrected_within_their_method(measured: result_tables.FewshotTables) -> None:
    of_findings = [row for row in measured.comparisons if row.scope in ("Effusion", "Mass")]
    assert [row.p_holm for row in of_findings] == holm(np.array([row.p for row in of_findings])).tolist()
    assert all(row.p == row.p_holm for row in measured.comparisons if row.scope in ("mean", "common"))


def test_cached_resamples_equal_those_of_a_new_bootstrap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, labels = (
        rng.normal(size=(60, 2)).astype(np.float32),
        np.where(rng.random((60, 2)) < 0.5, PRESENT, ABSENT).astype(np.int8),
    )
    patients = np.array([f"p{row // 2}" for row in range(60)])
    fresh = PatientBootstrap(patients, resamples=40, seed=3).auc(scores, labels)
    kept = result_tables.CachedBootstrap(patients, tmp_path / "kept", resamples=40, seed=3)
    assert np.allclose(kept.auc(scores, labels), fresh, atol=1e-6)
    (file,) = (tmp_path / "kept").iterdir()
    np.save(file, np.zeros((40, 2), dtype=np.float32))
    assert (kept.auc(scores, labels) == 0).all()
    other = result_tables.CachedBootstrap(patients, tmp_path / "kept", resamples=40, seed=4)
    assert (other.auc(scores, labels) != 0).any()


def test_a_gain_is_described_in_three_ways() -> None:
    assert (
        fewshot_report.describe_gain(0.70, 0.60)
        == "+10.0 AUC points (+16.7% of zero-shot; +100.0% of what zero-shot has above chance)"
    )
    assert fewshot_report.describe_gain(0.70, 0.51).endswith("zero-shot is at chance)")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_spread_labels_keep_minimum_gap_and_order(heights: list[float]) -> None:
    gap = 0.04
    placed = plot_style.spread_labels(heights, gap)
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    apart = np.diff([placed[place] for place in order])
    assert (apart >= gap - 1e-9).all()
    assert max(placed) <= 1 + 1e-9


def test_many_methods_have_distinct_curve_styles() -> None:
    drawn = plot_style.curve_styles([f"method {number}" for number in range(24)] + list(plot_style.REFERENCE_STYLES))
    assert len({(line.colour, line.dash, line.width) for line in drawn.values()}) == 24 + len(plot_style.REFERENCE_STYLES)


def test_raw_html_in_a_report_is_escaped(tmp_path: Path) -> None:
    made = render_html("<title>", "A <script>alert(1)</script> word\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n", tmp_path)
    assert "<script>" not in made
    assert "&lt;script&gt;" in made
    assert "<title>&lt;title&gt;</title>" in made
    assert '<div class="wide"><table>' in made


def test_differences_name_every_leaf_and_shorten_hashes() -> None:
    kept = {"seed": 0, "base": {"sha256": "a" * 64, "name": "x"}, "gone": 1}
    wanted = {"seed": 0, "base": {"sha256": "b" * 64, "name": "x"}, "come": 2}
    assert list(manifest.find_differences(kept, wanted)) == [
        f"base.sha256 is {'a' * 16}..., not {'b' * 16}...",
        "come is None, not 2",
        "gone is 1, not None",
    ]


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST_FILE).write_text("{")
    with pytest.raises(PermanentError, match="cannot be read"):
        manifest.claim_folder(tmp_path, {})
