"""`radclipd experiment fewshot` from end to end: films in, a folder of tables, plots and a report out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.experiment import manifest, plots, report
from adapters.experiment.bases import ChosenBase
from adapters.experiment.bench import bench_of
from adapters.experiment.cache import cached
from adapters.experiment.protocol import cautions
from adapters.experiment.run import Results, Unit, run, units
from adapters.experiment.sources import Source
from adapters.experiment.tables import MEAN, KeptBootstrap, Tables, tables, write_csv, write_parquet
from models.classifier.prompts import read_prompts
from models.ladder.method import Bench, Method
from pipeline.errors import OutOfResources

ENCODING, SCORING, RESAMPLING, WRITING = "films encoded", "methods scored", "test patients resampled", "tables and plots"
"""What a progress bar can be about."""
RESAMPLES = "resamples"

Watch = Callable[[str, int, int], None]
"""Hears what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for."""

    out: Path
    cache: Path
    methods: Sequence[Method]
    shots: Sequence[int]
    draws: int
    seed: int
    resamples: int
    device: torch.device
    workers: int
    command: str  # that makes this folder again, for the report


@dataclass(frozen=True)
class Outcome:
    """What came of it. `manifest` is what the folder's manifest.json holds."""

    tables: Tables
    manifest: Mapping[str, Any]
    cautions: Sequence[str]


def fewshot(source: Source, base: ChosenBase, options: Options, watch: Watch = lambda what, done, total: None) -> Outcome:
    """Run the experiment, or what is missing of it, and write the folder.

    Refused where the split leaks or the folder belongs to another experiment; TryAgain where another process fills the cache.
    """
    began = time.monotonic()
    films = cached(
        options.cache,
        source,
        base,
        device=options.device,
        workers=options.workers,
        advance=lambda rows: watch(ENCODING, rows, len(source.cases)),
    )
    prompts = read_prompts()
    bench = bench_of(source, films, base, prompts, device=options.device)
    whole = {"identity": manifest.identity(source, bench.cases, bench.split, base, prompts, seed=options.seed)}
    manifest.claim(options.out, whole["identity"])
    scored = _scored(bench, options, watch)
    measured = tables(
        scored.scored,
        bench.cases,
        bench.split,
        KeptBootstrap(
            bench.cases.patient[bench.split.test], options.out / RESAMPLES, resamples=options.resamples, seed=options.seed
        ),
        seed=options.seed,
        advance=partial(_resampled, watch, len(scored.scored)),
    )
    whole |= _told(source, base, options, scored, time.monotonic() - began)
    watch(WRITING, 1, 2)
    _write(options.out, measured, whole)
    watch(WRITING, 2, 2)
    return Outcome(measured, whole, cautions(whole, measured))


def _resampled(watch: Watch, total: int, done: int) -> None:
    watch(RESAMPLING, done, total)
    if done == total:
        watch(WRITING, 0, 2)


def _scored(bench: Bench, options: Options, watch: Watch) -> Results:
    wanted = units(options.methods, bench, shots=options.shots, count=options.draws, seed=options.seed)
    places = iter(range(1, len(wanted) + 1))

    def advance(unit: Unit, kept: bool) -> None:
        watch(SCORING, next(places), len(wanted))

    return run(options.out, bench, wanted, seed=options.seed, advance=advance)


def _told(source: Source, base: ChosenBase, options: Options, scored: Results, seconds: float) -> dict[str, Any]:
    """What the manifest says besides its identity."""
    return {
        "methods": [method.name for method in options.methods if method.name not in scored.impossible],
        "impossible": scored.impossible,
        "shots": list(options.shots),
        "draws": options.draws,
        "resamples": options.resamples,
        "left_out": {reason: count for reason, count in source.counts.items() if count},
        "notes": list(source.notes),
        "card": {name: value for name, value in base.card.items() if name != "golden"},
        "device": str(options.device),
        "commit": manifest.commit(),
        "command": options.command,
        "seconds": round(seconds, 1),
    }


def _write(out: Path, measured: Tables, whole: Mapping[str, Any]) -> None:
    try:
        write_parquet(out / "results.parquet", measured.results)
        for name in ("results", "summary", "comparisons", "timings"):
            if rows := getattr(measured, name):
                write_csv(out / f"{name}.csv", rows)
        drawn = plots.draw(out / "plots", measured, marking=whole["identity"]["base"]["marking"])
        report.write(out, measured, whole, drawn)
    except OSError as error:
        raise OutOfResources(
            f"cannot write into {out}: {error.strerror}", hint="make room and run the same command again"
        ) from error
    manifest.write(out, whole)


def summary_json(outcome: Outcome) -> dict[str, Any]:
    """Return the object of `--json`.

    A method that takes no support stands under 0 and, being the same there, under every shot count.
    """
    means: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in outcome.tables.summary:
        if row.scope != MEAN:
            continue
        cell = {"mean": row.auc, "sd": row.sd, "lo": row.lo, "hi": row.hi}
        at = [row.shots, *outcome.manifest["shots"]] if row.shots == 0 else [row.shots]
        for shots in at:
            means.setdefault(row.method, {})[str(shots)] = {name: _finite(value) for name, value in cell.items()}
    told = ("shots", "draws", "resamples", "impossible", "left_out", "commit", "seconds")
    return {
        "mean_auc": means,
        "cautions": list(outcome.cautions),
        **{name: outcome.manifest[name] for name in told},
        **outcome.manifest["identity"],
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value
