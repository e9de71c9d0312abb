"""The verbs of `radclipd experiment`, with the real ladder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from adapters.cli import app
from models.ladder.registry import FROZEN_ENCODER_METHODS
from pipeline.errors import NoWeights, PermanentError
from tests.builders import nih_folder, tiny

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    nih_folder.collection(folder / "nih", 96)
    tiny.base(folder / "base")
    return folder


def words(place: Path, out: Path, *more: str) -> list[str]:
    where = ["--folder", str(place / "nih"), "--base", str(place / "base"), "--cache", str(place / "cache"), "--out", str(out)]
    return ["experiment", "fewshot", "--data", "nih", *where, "--device", "cpu", "--bootstrap", "50", *more]


def said(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_standard_output_holds_one_json_object_and_nothing_else(place: Path, tmp_path: Path) -> None:
    done = said(*words(place, tmp_path / "out", "--shots", "2,1", "--draws", "2", "--json"))
    report = json.loads(done.stdout)
    assert set(report["mean_auc"]) == {method.name for method in FROZEN_ENCODER_METHODS}
    assert set(report["mean_auc"]["stage-1"]) == {"1", "2"}
    assert set(report["mean_auc"]["zero-shot"]["2"]) == {"mean", "sd", "lo", "hi"}
    assert report["shots"] == [1, 2]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["command"].startswith("radclipd experiment fewshot --out ")
    assert "--shots 2,1 --draws 2" in manifest["command"]
    assert "--json" not in manifest["command"]


def test_the_table_always_has_the_reference_method(place: Path, tmp_path: Path) -> None:
    done = said(*words(place, tmp_path / "out", "--methods", "gda", "--shots", "1", "--draws", "1"))
    assert [line.split()[0] for line in done.stdout.splitlines() if " 0." in line] == ["zero-shot", "gda"]
    assert "caution: " in done.stdout
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [(["--shots", "1,x"], "whole numbers"), (["--shots", "0,1"], "none below 1"), (["--data", "lung"], "'lung'")],
)
def test_usage_errors(more: list[str], says: str, place: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, words(place, tmp_path / "out", *more))
    assert done.exit_code == 2
    assert says in done.output


def test_nih_needs_its_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["experiment", "fewshot", "--data", "nih", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "--folder" in done.output


def test_an_unknown_method_is_refused_with_the_nearest_name(place: Path, tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="'stage1'") as refused:
        said(*words(place, tmp_path / "out", "--methods", "stage1"))
    assert "'stage-1'" in refused.value.hint


def test_a_missing_base_is_an_error_and_never_replaced(place: Path, tmp_path: Path) -> None:
    (tmp_path / "radclipd.toml").write_text(f'[model]\ndirectory = "{tmp_path}"\n[log]\nformat = "console"\n')
    with pytest.raises(NoWeights, match="ViT-B-32/openai"):
        said("--config", str(tmp_path / "radclipd.toml"), *words(place, tmp_path / "out", "--base", "ViT-B-32/openai"))


def test_film_seed_and_site_file_are_recorded(place: Path, tmp_path: Path) -> None:
    site = tmp_path / "harbour.toml"
    site.write_text('name = "harbour"\nbased_on = "west"\nscatter = [0.1, 0.2]\n')
    films = ["--site", str(site), "--film-seed", "3", "--pool", "40", "--test", "30", "--film-size", "32", "--workers", "1"]
    where = ["--base", str(place / "base"), "--cache", str(place / "cache"), "--device", "cpu", "--json"]
    fewshot = said(
        "experiment", "fewshot", "--out", str(tmp_path / "out"), "--methods", "zero-shot", "--bootstrap", "20", *films, *where
    )
    campaigns = said("experiment", "worklist", "--studies", "4", "--step", "2", "--seeds", "1", *films, *where)
    for done in (fewshot, campaigns):
        options = json.loads(done.stdout)["films"]["options"]
        assert (options["site"], options["film_seed"], len(options["site_sha256"])) == ("harbour", 3, 64)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Film seed 3; site harbour " in report
    assert f"--site {site} --film-seed 3" in report


def test_after_ctrl_c_the_same_command_continues(place: Path, tmp_path: Path) -> None:
    more = ["--methods", "paper-head,tip-adapter-f", "--shots", "1,2", "--draws", "6"]
    command = [sys.executable, "-m", "adapters.cli", *words(place, tmp_path / "out", *more)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out" / "scores").glob("*.npz"))) < 2:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, output = running.communicate(timeout=60)
    assert running.returncode == 75
    assert "interrupted; finished results are kept" in output
    assert "hint: the same command continues" in output
    assert "Traceback" not in output
    kept = len(list((tmp_path / "out" / "scores").glob("*.npz")))
    assert 2 <= kept < 25
    said(*words(place, tmp_path / "out", *more))
    said(*words(place, tmp_path / "whole", *more))
    assert (tmp_path / "out" / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()


def test_a_contact_sheet_of_a_site(tmp_path: Path) -> None:
    assert "nobody was X-rayed" in said("experiment", "phantoms", "--sheet", str(tmp_path / "sheet.png"), "--site", "east").stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 600
    unknown = CliRunner().invoke(app, ["experiment", "phantoms", "--sheet", str(tmp_path / "x.png"), "--site", "moon"])
    assert unknown.exit_code == 2
    assert "west" in unknown.output


def test_nothing_heavy_is_imported_before_a_verb_runs() -> None:
    script = "import sys, adapters.cli; print({'torch', 'sklearn', 'matplotlib', 'pyarrow', 'pydicom'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
