"""The manual page and the completion: everything that the help knows, and scripts that real shells run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from adapters.cli import app
from adapters.cli.manual import escape_roff, walk_verbs
from tests.builders.command import ROOT

VERBS = [" ".join(path) for path, _ in walk_verbs(typer.main.get_command(app))]


@pytest.fixture(scope="module")
def page() -> str:
    done = CliRunner().invoke(app, ["manual"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_has_every_verb_and_option(page: str) -> None:
    assert len(VERBS) > 50
    text = page.replace(r"\-", "-")
    for path, command in walk_verbs(typer.main.get_command(app)):
        _, found, below = text.partition(f".SS radclipd {' '.join(path)} [OPTIONS]")
        assert found, path
        section = below.partition("\n.S")[0]
        assert str(command.help).splitlines()[0] in section
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(option in section for option in parameter.opts), (path, parameter.name)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not here")
def test_groff_has_nothing_to_say(page: str) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=page, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert "--sr OUT" in re.sub(".\x08", "", done.stdout)  # bold: each character twice


@pytest.mark.parametrize(("text", "escaped"), [(".TH x", r"\&.TH x"), ("'a", r"\&'a"), (r"a\b-c", r"a\eb\-c"), ("plain", "plain")])
def test_text_is_no_request(text: str, escaped: str) -> None:
    assert escape_roff(text) == escaped


BASH = """
source "$1"; COMP_WORDS=({words} ""); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_WORDS[$COMP_CWORD]="{start}"
_radclipd_completion radclipd; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ :; }}; _arguments() {{ print -r -- "$1"; }}; fpath=("${{1:h}}"); autoload -Uz _radclipd
words=({words} "{start}"); CURRENT=$#words; _radclipd
"""
FISH = """source $argv[1]; complete -C "{words} {start}" """


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
def test_a_real_shell_completes(shell: str, script: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    done = CliRunner().invoke(app, ["completion", shell])
    file = tmp_path / "_radclipd"
    file.write_text(done.stdout)
    command = tmp_path / "radclipd"
    command.write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m adapters.cli "$@"\n')
    command.chmod(0o755)

    def complete(words: str, start: str) -> str:
        text = tmp_path / "script"
        text.write_text(script.format(words=words, start=start))
        arguments = [shell, *(["-f"] if shell == "zsh" else []), str(text), str(file)]
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    for words, start, wanted, other in (
        ("radclipd", "sc", "score", "status"),
        ("radclipd jobs", "l", "list", "retry"),
        ("radclipd score", "--s", "--sr", "--json"),
    ):
        found = complete(words, start)
        assert wanted in found, (words, found)
        assert other not in found
