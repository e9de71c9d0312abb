"""The command line as a whole: help, start-up, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERBS = (
    "demo",
    "run",
    "listen",
    "dispatch",
    "work",
    "check",
    "db",
    "model",
    "query",
    "studies",
    "jobs",
    "quarantine",
    "reports",
    "labels",
    "resend",
)


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "adapters.cli"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_every_verb_is_in_the_help_and_has_one_of_its_own() -> None:
    told = run("--help").stdout
    assert all(f" {verb} " in told for verb in VERBS)
    for verb in VERBS:
        assert run(verb, "--help").returncode == 0


@pytest.mark.parametrize("group", ["", "db", "model", "quarantine", "reports", "labels", "backfill", "experiment"])
def test_what_a_verb_is_for_fits_its_line(group: str) -> None:
    _, _, listed = run(*group.split(), "--help").stdout.partition("\nCommands:\n")
    assert listed and "..." not in listed


def test_tables_of_the_configuration_stay_in_the_help() -> None:
    assert "[worklist]" in run("worklist", "--help").stdout


@pytest.mark.parametrize(("process", "part"), [("listen", "build_listener"), ("dispatch", "build_settle")])
def test_listener_and_dispatcher_never_load_torch(process: str, part: str, fresh_url: Callable[[str], str]) -> None:
    code = f"""
import sys
from adapters.app import {process}
from adapters.app.compose import Parts
from adapters.config.sections import CatalogConfig, Config
with Parts(Config(catalog=CatalogConfig(url={fresh_url("sqlite")!r}))) as parts:
    {process}.{part}(parts)
print('torch' in sys.modules, 'open_clip' in sys.modules)
"""
    done = run(code=code)
    assert done.stdout.strip() == "False False", done.stderr


def test_a_wrong_word_is_usage() -> None:
    assert run("frobnicate").returncode == 2
    assert run("work", "nothing").returncode == 2


def test_the_version() -> None:
    assert run("--version").stdout.startswith("radclipd ")


def test_a_missing_configuration_names_the_remedy(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"), "studies")
    assert done.returncode == 78
    first, hint = done.stderr.splitlines()
    assert "none.toml" in first
    assert hint.startswith("hint: ")
