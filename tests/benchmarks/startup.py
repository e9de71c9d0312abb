"""Cost of starting radclipd: `python -m tests.benchmarks.startup [--rounds 7] [--starts 3] [--json]`.

Verbs in processor seconds of whole processes, each way in turn; the daemon (ViT-B/32, untrained, SQLite) in seconds from its start
until systemd hears READY=1 of it, and until it has scored a study that waited from the start on, for which the encoder is loaded.

Ratios: `help_vs_empty_typer_help` is the help of an application without a single verb against ours, 1 being all that the library
takes; `help_vs_import_torch` and `listing_vs_import_torch` tell how many times longer it would take to load torch alone;
`target_ready` is of 5 seconds to what it took until READY=1: above 1 holds.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.storage.image_store import FileImageStore
from pipeline.domain import JobKind, JobState
from tests.benchmarks.films import ratio, side_by_side
from tests.benchmarks.output import format_result, prints_result_alone
from tests.builders import labelled_archive
from tests.builders.installation import Installation, wait_for
from tests.builders.notified import Notified

ROOT = Path(__file__).parents[2]
READY = 5.0
"""Target, seconds."""
PATIENCE = 300.0
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


@prints_result_alone
def main() -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=3, help="of the daemon")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    return format_result(measure(asked.rounds, asked.starts), as_json=asked.json)


def measure(rounds: int, starts: int) -> dict[str, Any]:
    """Return the ratios, the median processor seconds of each way, and the median seconds of the daemon's starts."""
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
    seconds |= daemon(starts)
    ratios["target_ready"] = ratio([READY] * starts, seconds["ready"])
    medians = {f"seconds_{name}": round(statistics.median(of), 3) for name, of in seconds.items()}
    return {"rounds": rounds, "clock": "cpu", **medians, "ratios": ratios}


def daemon(starts: int) -> dict[str, list[float]]:
    """Return the seconds of each start of the daemon until it was ready, and until the study that waited for it was scored."""
    seconds: dict[str, list[float]] = {"ready": [], "first_scored": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Installation(Path(folder), score={"threads": 0}, work={"poll_seconds": 0.5})
        place.run("db", "upgrade")
        place.run("model", "untrained", "--architecture", "ViT-B-32", "--seed", "0", timeout=PATIENCE)
        for number in range(starts + 1):  # the first fills the disk's cache
            ready, scored = _run(place, number)
            seconds["ready"].append(ready)
            seconds["first_scored"].append(scored)
    return {name: of[1:] for name, of in seconds.items()}


def _run(place: Installation, number: int) -> tuple[float, float]:
    catalog = SqlCatalog(place.url)
    labelled_archive.reported_film(catalog, FileImageStore(place.folder / "images"), number, effusion=False)
    with catalog.begin() as tx:
        tx.jobs.put(JobKind.SCORE, f"1.2.{number}")

    def scored() -> bool:
        with catalog.read() as tx:
            return tx.jobs.count_by_state().get((JobKind.SCORE, JobState.DONE), 0) > number

    with Notified(place.folder / f"notify-{number}") as systemd:
        begun = time.monotonic()
        with place.running(environment=systemd.environment):
            ready = systemd.ready(PATIENCE) - begun
            wait_for(scored, PATIENCE, place.read_log)
            took = time.monotonic() - begun
    catalog.dispose()
    return ready, took


def _start(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def _spent_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
