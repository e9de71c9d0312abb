"""`python -m tests.readme LOG`: renew the output of `make demo` in README.md from the log of a run."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
WIDTH = 140
CONTINUATION = " " * 6
NUMBER = re.compile(r"[+-]?\d[\d.,]*")


def demo_lines(readme: str) -> list[str]:
    """Return the lines of the demonstration that README shows: without "..." and the rest of a wrapped line."""
    _, _, rest = readme.partition("$ make demo\n")
    block, _, _ = rest.partition("$ make test\n")
    return [line for line in block.splitlines() if line.strip(" .") and not line.startswith(CONTINUATION)]


def shape_of(line: str) -> str:
    """Return the words of a line up to its first colon, every number as #."""
    return " ".join(NUMBER.sub("#", line).partition(":")[0].split())


def renew(readme: str, log: Sequence[str]) -> str:
    """Return README with each line of the demonstration as the log has it. ValueError where the log lacks a line."""
    before, _, rest = readme.partition("$ make demo\n")
    block, _, after = rest.partition("$ make test\n")
    return f"{before}$ make demo\n{''.join(_renew_lines(block.splitlines(), log))}$ make test\n{after}"


def _renew_lines(lines: Sequence[str], log: Sequence[str]) -> Iterator[str]:
    position = 0
    for line in lines:
        if line.startswith(CONTINUATION):
            continue
        if line.strip(" .") == "":
            yield f"{line}\n"
            continue
        found = [number for number in range(position, len(log)) if shape_of(log[number]) == shape_of(line)]
        if not found:
            raise ValueError(f"the log has no line like: {line}")
        position = found[0] + 1
        yield textwrap.fill(log[found[0]].rstrip(), WIDTH, subsequent_indent=CONTINUATION, break_on_hyphens=False) + "\n"


if __name__ == "__main__":
    README.write_text(renew(README.read_text(), Path(sys.argv[1]).read_text().splitlines()))
