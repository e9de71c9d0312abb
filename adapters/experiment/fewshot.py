"""`radclipd experiment fewshot`: films in, a folder of tables, plots and a report out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.experiment import fewshot_report, manifest, plots
from adapters.experiment.bases import ChosenBase
from adapters.experiment.case_source import CaseSource
from adapters.experiment.feature_cache import load_or_fill_cache
from adapters.experiment.method_inputs import build_bench, count_duplicates
from adapters.experiment.protocol import cautions
from adapters.experiment.result_tables import MEAN, CachedBootstrap, FewshotTables, build_tables, write_csv, write_parquet
from adapters.experiment.scoring import ScoringResults, ScoringUnit, list_units, score_units
from models.classifier.prompts import read_prompts
from models.ladder.method import FewShotBenchmark, Method
from pipeline.errors import OutOfResources

ENCODING, SCORING, RESAMPLING, WRITING = "films encoded", "methods scored", "test patients resampled", "tables and plots"
"""Phases of the progress bar."""
RESAMPLES_FOLDER = "resamples"

FewshotProgress = Callable[[str, int, int], None]
"""Called with the phase, the number done and the total."""


@dataclass(frozen=True, kw_only=True)
class FewshotOptions:
    """Options of an experiment."""

    out: Path
    cache: Path
    methods: Sequence[Method]
    shots: Sequence[int]
    draws: int
    seed: int
    resamples: int
    device: torch.device
    workers: int
    command: str  # reproduces the folder, for the report


@dataclass(frozen=True)
class FewshotOutcome:
    """Results of an experiment. `manifest`: the content of manifest.json."""

    tables: FewshotTables
    manifest: Mapping[str, Any]
    cautions: Sequence[str]


def run_fewshot(
    source: CaseSource, base: ChosenBase, options: FewshotOptions, on_progress: FewshotProgress = lambda what, done, total: None
) -> FewshotOutcome:
    """Run the experiment, or its missing parts, and write the folder.

    PermanentError where the split leaks or the folder belongs to another experiment; TransientError where another process fills
    the cache.
    """
    started = time.monotonic()
    films = load_or_fill_cache(
        options.cache,
        source,
        base,
        device=options.device,
        workers=options.workers,
        advance=lambda rows: on_progress(ENCODING, rows, len(source.cases)),
    )
    prompts = read_prompts()
    bench = build_bench(source, films, base, prompts, device=options.device)
    contents = {"identity": manifest.build_identity(source, bench.cases, bench.split, base, prompts, seed=options.seed)}
    manifest.claim_folder(options.out, contents["identity"])
    scored = _score_methods(bench, options, on_progress)
    result_tables = build_tables(
        scored.unit_scores,
        bench.cases,
        bench.split,
        CachedBootstrap(
            bench.cases.patient[bench.split.test], options.out / RESAMPLES_FOLDER, resamples=options.resamples, seed=options.seed
        ),
        seed=options.seed,
        advance=partial(_report_resampling, on_progress, len(scored.unit_scores)),
    )
    contents |= _describe_run(source, base, options, scored, time.monotonic() - started)
    contents["left_out"] |= count_duplicates(bench.split)
    on_progress(WRITING, 1, 2)
    _write_folder(options.out, result_tables, contents)
    on_progress(WRITING, 2, 2)
    return FewshotOutcome(result_tables, contents, cautions(contents, result_tables))


def _report_resampling(on_progress: FewshotProgress, total: int, done: int) -> None:
    on_progress(RESAMPLING, done, total)
    if done == total:
        on_progress(WRITING, 0, 2)


def _score_methods(bench: FewShotBenchmark, options: FewshotOptions, on_progress: FewshotProgress) -> ScoringResults:
    units = list_units(options.methods, bench, shots=options.shots, count=options.draws, seed=options.seed)
    counter = iter(range(1, len(units) + 1))

    def advance(unit: ScoringUnit, kept: bool) -> None:
        on_progress(SCORING, next(counter), len(units))

    return score_units(options.out, bench, units, seed=options.seed, advance=advance)


def _describe_run(
    source: CaseSource, base: ChosenBase, options: FewshotOptions, scored: ScoringResults, seconds: float
) -> dict[str, Any]:
    """Return the manifest's content besides the identity."""
    return {
        "methods": [method.name for method in options.methods if method.name not in scored.unsupported_methods],
        "impossible": scored.unsupported_methods,
        "shots": list(options.shots),
        "draws": options.draws,
        "resamples": options.resamples,
        "left_out": {reason: count for reason, count in source.left_out_counts.items() if count},
        "notes": list(source.notes),
        "card": {name: value for name, value in base.card.items() if name != "golden"},
        "device": str(options.device),
        "commit": manifest.git_commit(),
        "command": options.command,
        "seconds": round(seconds, 1),
    }


def _write_folder(out: Path, result_tables: FewshotTables, contents: Mapping[str, Any]) -> None:
    try:
        write_parquet(out / "results.parquet", result_tables.results)
        for name in ("results", "summary", "comparisons", "timings"):
            if rows := getattr(result_tables, name):
                write_csv(out / f"{name}.csv", rows)
        drawn = plots.draw_plots(out / "plots", result_tables, notice=contents["identity"]["base"]["notice"])
        fewshot_report.write_report(out, result_tables, contents, drawn)
    except OSError as error:
        raise OutOfResources(
            f"cannot write into {out}: {error.strerror}", hint="make room and run the same command again"
        ) from error
    manifest.write_manifest(out, contents)


def summary_json(outcome: FewshotOutcome) -> dict[str, Any]:
    """Return the object of `--json`.

    A method without support is listed under 0 shots and, unchanged, under every shot count.
    """
    means: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in outcome.tables.summary:
        if row.scope != MEAN:
            continue
        cell = {"mean": row.auc, "sd": row.sd, "lo": row.lo, "hi": row.hi}
        at = [row.shots, *outcome.manifest["shots"]] if row.shots == 0 else [row.shots]
        for shots in at:
            means.setdefault(row.method, {})[str(shots)] = {name: _nan_to_none(value) for name, value in cell.items()}
    copied = ("shots", "draws", "resamples", "impossible", "left_out", "commit", "seconds")
    return {
        "mean_auc": means,
        "support_positives": _list_support_positives(outcome.tables),
        "cautions": list(outcome.cautions),
        **{name: outcome.manifest[name] for name in copied},
        **outcome.manifest["identity"],
    }


def _list_support_positives(result_tables: FewshotTables) -> dict[str, dict[str, float]]:
    """Return shots -> finding -> positives in the support, mean over draws."""
    findings = {row.finding for row in result_tables.results}
    found: dict[str, dict[str, float]] = {}
    for row in result_tables.summary:
        if row.scope in findings and row.shots:
            found.setdefault(str(row.shots), {})[row.scope] = row.support_positives
    return found


def _nan_to_none(value: float) -> float | None:
    """Replace NaN, which JSON lacks."""
    return None if np.isnan(value) else value
