"""Outputs that README shows have the lines that the commands print."""

from __future__ import annotations

import re
from pathlib import Path

from adapters.cli.check import preflight_checks
from adapters.demo.demonstration import DEMO_STEPS

README = (Path(__file__).parents[3] / "README.md").read_text()


def console_output(command: str) -> list[str]:
    """Return the lines that README shows below a command."""
    block = re.search(rf"^\$ {re.escape(command)}\n(.*?)^(?:```|\$ )", README, re.MULTILINE | re.DOTALL)
    assert block is not None, command
    return block[1].splitlines()


def test_check_shows_every_check_in_order() -> None:
    names = ["configuration", *(one.name for one in preflight_checks(None))]
    for line, name in zip(console_output("radclipd check"), names, strict=True):
        assert re.match(rf"(ok  |FAIL) {re.escape(name)} ", line), line


def test_the_demonstration_shows_its_steps_in_order() -> None:
    titles = {number: step.title for number, step in enumerate(DEMO_STEPS, 1)}
    shown = [re.fullmatch(r"(\d+)\. (.+)", line) for line in console_output("make demo")]
    steps = [(int(step[1]), step[2]) for step in shown if step]
    assert all(titles.get(number) == title for number, title in steps)
    assert [number for number, _ in steps] == sorted({number for number, _ in steps})
    assert {1, len(titles)} <= {number for number, _ in steps}
