"""The command line as a whole: help, start-up, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli import app
from tests.builders.command import ROOT

VERBS = (
    "demo",
    "run",
    "listen",
    "dispatch",
    "work",
    "web",
    "check",
    "db",
    "model",
    "query",
    "studies",
    "jobs",
    "versions",
    "users",
    "status",
    "show",
    "score",
    "manual",
    "completion",
    "audit",
    "forget",
    "export",
    "licences",
    "reports",
    "labels",
    "worklist",
    "label-next",
    "learn",
    "backfill",
    "experiment",
)


def run(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "adapters.cli"]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_every_verb_is_listed_and_has_its_own_help() -> None:
    listed = run("--help").stdout
    assert all(f" {verb} " in listed for verb in VERBS)
    for verb in VERBS:
        assert run(verb, "--help").returncode == 0


@pytest.mark.parametrize(
    "group", ["", "db", "model", "jobs", "versions", "users", "audit", "reports", "labels", "backfill", "experiment"]
)
def test_the_help_of_each_verb_fits_one_line(group: str) -> None:
    _, _, listed = run(*group.split(), "--help").stdout.partition("\nCommands:\n")
    assert listed and "..." not in listed


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        (["promote", "2"], "promote", "versions promote"),
        (["reject", "2", "--because", "x"], "reject", "versions reject"),
        (["rollback"], "rollback", "versions rollback"),
        (["resend", "1.4"], "resend", "reports resend"),
        (["quarantine"], "quarantine", "jobs list --state quarantined"),
        (["quarantine", "list"], "quarantine list", "jobs list --state quarantined"),
        (["quarantine", "retry", "--all"], "quarantine retry", "jobs retry"),
        (["jobs", "--state", "done"], "jobs --state", "jobs list --state"),
        (["db", "tidy"], "db tidy", "db maintain"),
        (["model", "list", "--json"], "model list", "versions list"),
        (["versions", "2"], "versions 2", "versions show 2"),
        (["versions", "--json"], "versions --json", "versions list --json"),
        (["versions", "reject", "2", "--because", "x"], "versions reject --because", "versions reject --reason"),
        (["versions", "rollback", "--because=x"], "versions rollback --because", "versions rollback --reason"),
        (["labels", "add", "A1", "Mass", "--asked-because", "x"], "labels add --asked-because", "labels add --selection-reason"),
        (["model", "import", "--marking", "x", "f.pt"], "model import --marking", "model import --notice"),
        (["--config", "none.toml", "promote", "--help"], "promote", "versions promote"),
    ],
)
def test_an_old_verb_names_the_new_one_in_one_line(words: list[str], old: str, new: str) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"radclipd: `{old}` is now `radclipd {new}`\n")


@pytest.mark.parametrize("verb", ["jobs", "versions"])
def test_a_group_alone_is_help(verb: str) -> None:
    assert "Commands:" in run(verb, "--help").stdout
    assert "Commands:" in run(verb).stderr


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


def test_an_unknown_word_is_a_usage_error() -> None:
    assert run("frobnicate").returncode == 2
    assert run("work", "nothing").returncode == 2


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.startswith("radclipd ")


def test_a_missing_configuration_names_the_remedy(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"), "studies")
    assert done.returncode == 78
    first, hint = done.stderr.splitlines()
    assert "none.toml" in first
    assert hint.startswith("hint: ")
