"""The experiment from end to end on synthetic films and a tiny encoder."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from adapters.experiment import scoring as running
from adapters.experiment.bases import ChosenBase, choose_base
from adapters.experiment.case_source import CaseSource
from adapters.experiment.fewshot import FewshotOptions, FewshotOutcome, run_fewshot, summary_json
from adapters.experiment.nih_source import MINED_LABELS_NOTE, UNOFFICIAL_SPLIT_NOTE, nih_source
from models.ladder.method import Method
from pipeline.domain import FINDINGS
from pipeline.errors import PermanentError
from tests.builders import methods, nih_folder, peers, tiny

PATIENTS = 96


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, an encoder and their features, computed once."""
    folder = tmp_path_factory.mktemp("experiment")
    nih_folder.collection(folder / "nih", PATIENTS)
    tiny.base(folder / "base")
    return folder


@pytest.fixture(scope="module")
def source(place: Path) -> CaseSource:
    return nih_source(place / "nih")


@pytest.fixture(scope="module")
def base(place: Path) -> ChosenBase:
    return choose_base(str(place / "base"), store=None)


def options(place: Path, out: Path, **changes: Any) -> FewshotOptions:
    wanted: dict[str, Any] = {
        "out": out,
        "cache": place / "cache",
        "methods": [methods.ZeroShot(), methods.Means()],
        "shots": (1, 2),
        "draws": 3,
        "seed": 0,
        "resamples": 50,
        "device": torch.device("cpu"),
        "workers": 2,
        "command": "radclipd experiment fewshot",
    }
    return FewshotOptions(**wanted | changes)


Run = Callable[..., FewshotOutcome]


@pytest.fixture
def run(place: Path, source: CaseSource, base: ChosenBase, tmp_path: Path) -> Run:
    """Run the experiment in a folder of the test, with a shared cache."""

    def go(
        out: str = "out", use: Sequence[Method] = (), *, on: CaseSource = source, under: ChosenBase = base, **changes: Any
    ) -> FewshotOutcome:
        return run_fewshot(on, under, options(place, tmp_path / out, **({"methods": use} if use else {}) | changes))

    return go


@pytest.fixture(scope="module")
def plain(place: Path, source: CaseSource, base: ChosenBase) -> FewshotOutcome:
    """A run with the default options, in `place`/plain."""
    return run_fewshot(source, base, options(place, place / "plain"))


@pytest.fixture(scope="module")
def rich(place: Path, source: CaseSource, base: ChosenBase) -> FewshotOutcome:
    """A run with every kind of method, in `place`/rich."""
    use = [methods.ZeroShot(), methods.Chance(), methods.Means(), methods.Oracle(), methods.Impossible()]
    return run_fewshot(source, base, options(place, place / "rich", methods=use, shots=(1, 2, 4), resamples=200))


@pytest.fixture
def copied(place: Path, plain: FewshotOutcome, tmp_path: Path) -> Path:
    """A modifiable copy of the plain run, as the folder `out` of the test."""
    return shutil.copytree(place / "plain", tmp_path / "out")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as lines:
        return list(csv.DictReader(lines))


TABLES = ("results.csv", "summary.csv", "comparisons.csv")


def test_a_seed_determines_the_bytes_and_another_seed_changes_them(
    run: Run, place: Path, plain: FewshotOutcome, tmp_path: Path
) -> None:
    run("again")
    run("other", seed=1)
    for table in TABLES:
        assert (tmp_path / "again" / table).read_bytes() == (place / "plain" / table).read_bytes()
        assert (tmp_path / "other" / table).read_bytes() != (place / "plain" / table).read_bytes()


def test_a_resumed_run_equals_an_uninterrupted_one(run: Run, place: Path, plain: FewshotOutcome, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("parts", [methods.ZeroShot(), methods.Interrupted(after=4)])
    assert len(list((tmp_path / "parts" / running.SCORES_FOLDER).glob("*.npz"))) == 1 + 4
    rest = methods.Means()
    run("parts", [methods.ZeroShot(), rest])
    assert len(rest.asked) == 2
    for table in TABLES:
        assert (tmp_path / "parts" / table).read_bytes() == (place / "plain" / table).read_bytes()


def test_a_second_run_computes_nothing(run: Run, copied: Path) -> None:
    again = methods.Means()
    run(use=[methods.ZeroShot(), again])
    assert again.asked == []


def test_an_extended_run_computes_only_new_units(run: Run, copied: Path, tmp_path: Path) -> None:
    wider = methods.Means()
    run(use=[methods.ZeroShot(), wider, methods.Oracle()], shots=(1, 2, 4), draws=4)
    assert sorted(wider.asked) == [(1, 3), (2, 3), (4, 0), (4, 1), (4, 2), (4, 3)]
    run("fresh", [methods.ZeroShot(), methods.Means(), methods.Oracle()], shots=(1, 2, 4), draws=4)
    assert (copied / "results.csv").read_bytes() == (tmp_path / "fresh" / "results.csv").read_bytes()


def test_a_folder_of_another_experiment_is_refused_with_the_differences(run: Run, copied: Path, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="seed is 0, not 5") as refused:
        run(seed=5)
    assert "--out" in refused.value.hint
    other = choose_base(str(tiny.base(tmp_path / "other", seed=1)), store=None)
    with pytest.raises(PermanentError, match=r"base.name is base, not other; base.sha256 is [0-9a-f]{16}\.\.\., not "):
        run(under=other)
    fewer = nih_source(nih_folder.collection(tmp_path / "fewer", PATIENTS - 20))
    with pytest.raises(PermanentError, match=r"labels.sha256 is .*split.sha256 is .*split.test.films is 48, not 38"):
        run(on=fewer)


def test_a_folder_with_other_files_is_refused_and_unchanged(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(PermanentError, match="is not empty and holds no experiment"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_scores_of_another_support_are_refused(run: Run, copied: Path) -> None:
    first, second = sorted((copied / running.SCORES_FOLDER).glob("means--*.npz"))[:2]
    shutil.copy(first, second)
    with pytest.raises(PermanentError, match="is of another experiment"):
        run()
    second.write_bytes(first.read_bytes()[:100])
    with pytest.raises(PermanentError, match="cannot be read") as refused:
        run()
    assert "computed again" in refused.value.hint


def test_the_json_summary_is_complete(rich: FewshotOutcome) -> None:
    summary = json.loads(json.dumps(summary_json(rich), allow_nan=False))
    assert set(summary["mean_auc"]) == {"zero-shot", "chance", "means", "oracle"}
    assert set(summary["mean_auc"]["means"]) == {"1", "2", "4"}
    assert set(summary["mean_auc"]["zero-shot"]) == {"0", "1", "2", "4"}
    cell = summary["mean_auc"]["means"]["2"]
    assert set(cell) == {"mean", "sd", "lo", "hi"}
    assert cell["lo"] < cell["mean"] < cell["hi"]
    assert summary["mean_auc"]["oracle"]["1"] == {"mean": 1, "sd": 0, "lo": 1, "hi": 1}
    assert summary["mean_auc"]["zero-shot"]["0"]["sd"] == 0
    assert "partially unfrozen" in summary["impossible"]["impossible"]
    assert any(MINED_LABELS_NOTE in words for words in summary["cautions"])


def test_an_oracle_method_wins_and_a_random_one_is_at_chance(rich: FewshotOutcome, place: Path) -> None:
    means = summary_json(rich)["mean_auc"]
    assert means["chance"]["0"]["lo"] < 0.5 < means["chance"]["0"]["hi"]
    assert means["means"]["4"]["lo"] > 0.6
    compared = {(row["method"], row["scope"]): row for row in rows(place / "rich" / "comparisons.csv")}
    assert float(compared["means", "mean"]["lo"]) > 0
    assert float(compared["means", "mean"]["p_holm"]) < 0.01
    assert float(compared["chance", "mean"]["p_holm"]) >= float(compared["chance", "mean"]["p"])


def test_undefined_values_are_empty_and_counted(plain: FewshotOutcome, place: Path) -> None:
    out = place / "plain"
    results, table = rows(out / "results.csv"), pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    missing = [row for row in results if row["auc"] == ""]
    assert missing
    assert {row["method"] for row in missing} == {"means"}
    assert len(missing) == sum(row["auc"] is None for row in table)
    assert [row["finding"] for row in results] == [row["finding"] for row in table]
    report = (out / "report.md").read_text()
    assert f"never counted as .5: {len(missing)} of {len(results)} values" in report
    compared = next(row for row in rows(out / "comparisons.csv") if row["scope"] == "mean")
    assert int(compared["findings"]) < len(FINDINGS)
    assert re.search(rf"\| means \|.*\({compared['findings']} of 14\) \|", report)


def test_every_row_has_the_counts_of_the_test_set(plain: FewshotOutcome, source: CaseSource, place: Path) -> None:
    test = source.split(source.cases).test
    for row in rows(place / "plain" / "results.csv"):
        labels = source.cases.labels[test, FINDINGS.index(row["finding"])]
        assert (int(row["positives"]), int(row["negatives"])) == ((labels == 1).sum(), (labels == 0).sum())


def test_the_manifest_lists_the_inputs_of_the_figures(plain: FewshotOutcome, base: ChosenBase, place: Path) -> None:
    content = json.loads((place / "plain" / "manifest.json").read_text())
    identity = content["identity"]
    assert identity["base"]["sha256"] == base.sha256
    assert identity["split"]["made"] == "official lists of ChestX-ray14"
    assert (identity["split"]["pool"]["films"], identity["split"]["test"]["patients"]) == (48, 48)
    assert set(identity["libraries"]) >= {"torch", "numpy", "scikit-learn", "open_clip_torch"}
    assert content["card"]["architecture"]["name"] == "tiny"
    assert (content["shots"], content["draws"], content["methods"]) == ([1, 2], 3, ["zero-shot", "means"])
    assert content["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", content["commit"])


def test_the_report_is_one_self_contained_file(rich: FewshotOutcome, place: Path) -> None:
    page = (place / "rich" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(list((place / "rich" / "plots").glob("*.png"))) == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "arXiv 2507.07254" in page
    for words in ("what zero-shot has above chance", "A check of the plumbing", "Only 3 draws", "studies read at random"):
        assert words in page


def test_the_notice_of_the_encoder_is_in_page_plots_and_manifest(run: Run, tmp_path: Path) -> None:
    marked = choose_base(f"untrained:{tiny.config_file(tmp_path)}", store=None)
    outcome = run(under=marked)
    assert "> Encoder marked: UNTRAINED." in (tmp_path / "out" / "report.md").read_text()
    assert outcome.cautions[0] == "Encoder marked: UNTRAINED."
    assert outcome.manifest["identity"]["base"]["notice"] == "UNTRAINED"


def test_a_patient_on_both_lists_is_refused_before_any_film_is_read(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "nih", tmp_path / "nih")
    table = folder / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace(",0,2,", ",0,1,"))
    with pytest.raises(PermanentError, match="share 1 patients") as refused:
        nih_source(folder)
    assert refused.value.hint


@pytest.mark.parametrize("lists", [True, False])
def test_one_film_filed_under_two_patients_is_left_out_with_a_count(lists: bool, tmp_path: Path, run: Run) -> None:
    folder = nih_folder.collection(tmp_path / "nih", PATIENTS, lists=lists)
    before = nih_source(folder)
    split = before.split(before.cases)
    pool, test = (str(before.cases.key[side[0]]) for side in (split.pool, split.test))
    shutil.copy(next(folder.rglob(test)), next(folder.rglob(pool)))
    outcome = run(on=nih_source(folder), cache=tmp_path / "cache")
    sides = outcome.manifest["identity"]["split"]
    if lists:
        assert outcome.manifest["left_out"] == {"films of the pool with the pixels of a test film": 1}
        assert (sides["pool"]["films"], sides["test"]["films"]) == (47, 48)
        assert "Left out: 1 films of the pool with the pixels of a test film." in (tmp_path / "out" / "report.md").read_text()
        assert summary_json(outcome)["left_out"] == outcome.manifest["left_out"]
    else:  # both patients are on one side
        assert outcome.manifest["left_out"] == {}
        assert sides["pool"]["films"] + sides["test"]["films"] == PATIENTS


def show_all(number: int) -> list[str]:
    """Every second patient of either side has every finding, the others none."""
    return [*FINDINGS] if number % 4 in (1, 2) else []


def test_shots_that_the_pool_cannot_fill_are_named_everywhere(tmp_path: Path, run: Run) -> None:
    """The pool has Mass on three patients and Hernia on one; of all else enough."""

    def show(number: int) -> list[str]:
        rare = {2: ["Mass"], 6: ["Mass"], 10: ["Mass"], 14: ["Hernia"]}
        return rare.get(number) or [name for name in show_all(number) if number % 2 or name not in ("Mass", "Hernia")]

    source = nih_source(nih_folder.collection(tmp_path / "nih", PATIENTS, show=show))
    outcome = run(on=source, cache=tmp_path / "cache", shots=(1, 2, 4))
    held = {row.kind: (row.least, row.most) for row in outcome.tables.shortages}
    assert held == {"Mass": (3, 3), "Hernia": (1, 1)}
    (caution,) = (words for words in outcome.cautions if "cannot fill" in words)
    assert "cannot fill every shot count from 2 on. With 4 shots the supports hold no more than Mass 3, Hernia 1: " in caution
    by_draw = {
        (row["shots"], row["finding"]): row["support_positives"]
        for row in rows(tmp_path / "out" / "results.csv")
        if row["method"] == "means"
    }
    assert (by_draw["1", "Hernia"], by_draw["4", "Hernia"], by_draw["2", "Mass"], by_draw["4", "Mass"]) == ("1", "1", "2", "3")
    assert {row["support_positives"] for row in rows(tmp_path / "out" / "results.csv") if row["method"] == "zero-shot"} == {""}
    summary = {
        (row["method"], row["shots"], row["scope"]): row["support_positives"] for row in rows(tmp_path / "out" / "summary.csv")
    }
    assert float(summary["means", "4", "Mass"]) == 3
    assert float(summary["means", "4", "mean"]) == 1
    assert summary["zero-shot", "0", "mean"] == ""
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| 1 shot | 2 shots * | 4 shots * |" in report
    assert "Hollow points" in report
    assert report.count(caution) == 2  # at the head, and below the table
    hernia = next(line for line in report.splitlines() if line.startswith("| Hernia |"))
    assert hernia.split("|")[3].strip() == "1"
    assert summary_json(outcome)["support_positives"]["4"]["Hernia"] == 1


def test_a_pool_that_fills_the_shots_has_no_such_caution(tmp_path: Path, run: Run) -> None:
    source = nih_source(nih_folder.collection(tmp_path / "nih", PATIENTS, show=show_all))
    outcome = run(on=source, cache=tmp_path / "cache")
    assert outcome.tables.shortages == []
    assert not any("cannot fill" in words for words in outcome.cautions)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "shots * |" not in report
    assert "Hollow" not in report


def test_without_lists_patients_are_split_by_hash_with_a_note(tmp_path: Path, run: Run) -> None:
    source = nih_source(nih_folder.collection(tmp_path / "nih", PATIENTS, lists=False))
    outcome = run(on=source, cache=tmp_path / "cache")
    assert "by patient hash" in outcome.manifest["identity"]["split"]["made"]
    assert UNOFFICIAL_SPLIT_NOTE in outcome.cautions
    split = source.split(source.cases)
    assert not set(source.cases.patient[split.pool]) & set(source.cases.patient[split.test])
    assert 0.2 < len(split.test) / PATIENTS < 0.6


def test_every_mode_and_a_packed_table_give_the_same_films(tmp_path: Path) -> None:
    plain = nih_source(nih_folder.collection(tmp_path / "plain", 8))
    mixed = nih_source(nih_folder.collection(tmp_path / "mixed", 8, modes=nih_folder.MODES, packed=True))
    for row in range(8):
        assert np.abs(plain.read_film(row) - mixed.read_film(row)).max() < 0.01
    assert (plain.cases.labels == mixed.cases.labels).all()
    assert plain.cases.age.tolist() == mixed.cases.age.tolist()


def test_an_experiment_on_real_films_states_its_limits(base: ChosenBase, run: Run, tmp_path: Path) -> None:
    real = peers.shared("nih-sample")
    few = tmp_path / "nih"
    (few / "images").mkdir(parents=True)
    for path in sorted((real / "images").iterdir())[:60]:
        (few / "images" / path.name).symlink_to(path)
    shutil.copy(real / "labels.csv", few)
    source = nih_source(few)
    outcome = run(on=source, cache=tmp_path / "cache", shots=(1,))
    assert outcome.manifest["left_out"] == {"rows without a file": 246}
    assert any("A check of the plumbing, and no claim of quality" in words for words in outcome.cautions)
    assert len(rows(tmp_path / "out" / "results.csv")) == 14 * (1 + 3)
