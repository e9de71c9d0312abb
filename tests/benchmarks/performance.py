"""All benchmarks in sequence, and their page: `python -m tests.benchmarks.performance [NAME ...]`.

Each runs in a new process, so that no benchmark warms the memory of another; its JSON is stored in `build/benchmarks`. The page
(`deploy/docs/performance.md` with its plot) is written from what lies there, so single ones can be repeated; `--page-only`
runs none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from models.encoder.precision import choose_dtype

NAMES = (
    "ingest",
    "crowd",
    "scoring",
    "latency",
    "report",
    "startup",
    "catalog",
    "retrain",
    "rescore",
    "worklist",
    "fewshot",
    "phantoms",
    "label_efficiency",
    "decisions",
    "gate_campaigns",
    "unusable_images",
    "desk",
)
ARGUMENTS: Mapping[str, Sequence[str]] = {
    "latency": ("--backlog", "2000"),
    "retrain": ("--steps", "10", "--rounds", "3"),
    "label_efficiency": ("--quick",),
    "decisions": ("--quick",),
}
"""Of benchmarks that measure less by themselves."""
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "benchmarks"
PAGE = ROOT / "deploy" / "docs" / "performance.md"
PLOT = "pictures/performance.svg"

TARGETS: Mapping[str, float] = {
    "ingest.vs_storescp_2mb_1assoc": 2.0,
    "ingest.vs_orthanc_2mb_1assoc": 2.5,
    "ingest.vs_storescp_fork_10mb_1assoc": 1.0,
    "ingest.vs_orthanc_10mb_1assoc": 1.5,
    "ingest.vs_storescp_fork_2mb_4assoc": 1.0,
    "crowd.target_slowest_answer": 1.0,
    "scoring.vs_bare_encoder": 0.8,
    "scoring.vs_naive": 5.0,
    "latency.target_median": 1.0,
    "latency.target_p95": 1.0,
    "latency.target_p95_loaded": 1.0,
    "report.vs_highdicom_from_nothing": 5.0,
    "startup.target_ready": 1.0,
    "catalog.vs_orm_per_row": 3.0,
    "catalog.vs_orm_per_row_postgresql": 3.0,
    "catalog.target_predictions_per_second": 1.0,
    "catalog.target_predictions_per_second_postgresql": 1.0,
    "catalog.target_query_p95": 1.0,
    "catalog.target_query_p95_postgresql": 1.0,
    "catalog.flat_study_cost": 0.8,
    "catalog.flat_study_cost_postgresql": 0.8,
    "retrain.vs_from_pixels": 4.0,
    "rescore.vs_full_encoder": 5.0,
    "rescore.vs_decode_and_full_encoder": 20.0,
}
"""What is to be reached, by benchmark and ratio; a median below it stands in the table as missed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One ratio of speeds, over the rounds."""

    name: str
    least: float
    median: float
    most: float


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    for name in () if options.page_only else options.names or NAMES:
        run(name)
    write_page(PAGE, kept())


def run(name: str) -> None:
    """Run a benchmark and store its results. Exits where it fails: the page never shows older results instead."""
    sys.stdout.write(f"{name} ...\n")
    (KEPT / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *ARGUMENTS.get(name, ()), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: exit status {done.returncode}")
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(json.dumps(json.loads(done.stdout)) + "\n")


def kept() -> dict[str, dict[str, Any]]:
    """Return the last results by benchmark."""
    files = [(name, KEPT / f"{name}.json") for name in NAMES]
    return {name: json.loads(file.read_text()) for name, file in files if file.exists()}


def rows_of(measured: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return the ratios, benchmark by benchmark."""
    return [
        Row(f"{name}.{ratio}", found["min"], found["median"], found["max"])
        for name, figures in measured.items()
        for ratio, found in figures.get("ratios", {}).items()
        if None not in found.values()
    ]


def write_page(page: Path, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Write table and plot."""
    rows = rows_of(measured)
    (page.parent / PLOT).parent.mkdir(exist_ok=True)
    _draw(page.parent / PLOT, [row for row in rows if row.name in TARGETS])
    page.write_text("\n".join(_lines(rows)) + "\n")


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "# Performance"
    yield ""
    yield "Written by `make bench` (`python -m tests.benchmarks.performance`). A ratio is the speed of radclipd divided by that"
    yield "of the alternative, both measured in turn in the same run; higher is better. The docstring of each benchmark in"
    yield f"`tests/benchmarks` names the alternative. Measured on {os.cpu_count()} processors, {platform.machine()},"
    yield f"{_instructions()}, without a GPU."
    yield ""
    yield f"![Ratios and targets]({PLOT})"
    yield ""
    yield "| ratio | min | median | max | target | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield f"| `{row.name}` | {row.least:g} | {row.median:g} | {row.most:g} | {_verdict(row)} |"


def _instructions() -> str:
    """What decides how fast the encoder is beside what a user would write, whose encoder is in float32."""
    fast = choose_dtype("auto", torch.device("cpu")) is torch.bfloat16
    return "which multiply in bfloat16" if fast else "which have no instructions for bfloat16 (the encoder stays in float32)"


def _verdict(row: Row) -> str:
    if (target := TARGETS.get(row.name)) is None:
        return " | "
    return f"{target:g} | {'reached' if row.median >= target else '**missed**'}"


def _draw(path: Path, rows: Sequence[Row]) -> None:
    figure = Figure(figsize=(8, 0.6 + 0.36 * max(1, len(rows))), layout="constrained")
    panel = figure.subplots()
    places = range(len(rows))
    middle = [row.median for row in rows]
    spread = [[row.median - row.least for row in rows], [row.most - row.median for row in rows]]
    panel.barh(places, middle, xerr=spread, color="#7a9cc6", ecolor="#334", height=0.6)
    targets = [TARGETS[row.name] for row in rows]
    panel.scatter(targets, places, marker="|", s=180, color="#b03a2e", label="to be reached", zorder=3)
    panel.set_yticks(places, [row.name for row in rows])
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.set_xlabel("times as fast")
    if rows:
        panel.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
