"""What it costs to start radclipd: processor seconds of whole processes, each way in turn.

    python -m tests.benchmarks.startup --json

Ratios: `help_vs_empty_typer_help` is the help of an application without a single verb against ours, 1 being all that the library
takes; `help_vs_import_torch` and `listing_vs_import_torch` tell how many times longer it would take to load torch alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from adapters.catalog import schema
from tests.benchmarks.films import ratio, side_by_side, tell

ROOT = Path(__file__).parents[2]
RADCLIPD = ("-m", "adapters.cli")
EMPTY = "import typer\napp = typer.Typer()\n@app.command()\ndef nothing() -> None: ...\napp()"
WAYS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "import_typer": ("-c", "import typer"),
    "empty_typer_help": ("-c", EMPTY, "--help"),
    "help": (*RADCLIPD, "--help"),
    "verb_help": (*RADCLIPD, "labels", "import", "--help"),
    "listing": (*RADCLIPD, "studies"),
    "import_torch": ("-c", "import torch"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    tell(measure(asked.rounds), as_json=asked.json)


def measure(rounds: int) -> dict[str, Any]:
    """Return the ratios and the median processor seconds of each way."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/catalog.db"
        schema.upgrade(url)
        environment = os.environ | {"RADCLIPD_CONFIG": str(ROOT / "deploy/radclipd.toml"), "RADCLIPD_CATALOG__URL": url}
        ways = {name: partial(_start, arguments, environment) for name, arguments in WAYS.items()}
        side_by_side(ways, rounds=1)  # fills the disk's cache
        seconds = side_by_side(ways, rounds=rounds, clock=_spent_by_children)
    ratios = {
        "help_vs_empty_typer_help": ratio(seconds["empty_typer_help"], seconds["help"]),
        "help_vs_import_torch": ratio(seconds["import_torch"], seconds["help"]),
        "listing_vs_import_torch": ratio(seconds["import_torch"], seconds["listing"]),
    }
    medians = {f"seconds_{name}": round(statistics.median(of), 3) for name, of in seconds.items()}
    return {"rounds": rounds, "clock": "cpu", **medians, "ratios": ratios}


def _start(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def _spent_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
