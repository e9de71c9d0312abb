"""Value of few labels: `python -m tests.benchmarks.fewshot [--draws 10] [--shots 1,2,4,8,16] [--methods all] [--json]`.

The few-shot experiment on the phantom hospital that the demonstration encoder has not seen: `radclipd`, zero-shot and the ladder
on the same supports and the same test films. Ratios are of mean AUCs on one draw each: least, median and greatest over the draws.
Three targets are compared with the means and the paired intervals. The exit status is 0 either way. That of the gain (GAIN) can be
reached because the text of the demonstration encoder is weak: it is a property of the baseline (deploy/docs/experiment.md).

Scores are stored under --out and not recomputed: the same command resumes an interrupted run. The folder is named by films,
encoder, seed and the numbers of the recipe; after a change of code give another --out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adapters.cli.fewshot import default_cache, parse_whole_numbers
from adapters.experiment import manifest
from adapters.experiment.bases import demo_base
from adapters.experiment.feature_cache import load_or_fill_cache
from adapters.experiment.method_inputs import build_bench
from adapters.experiment.phantom_source import DEFAULT_SIZES, PhantomSizes, phantom_source
from adapters.experiment.result_tables import CachedBootstrap
from adapters.experiment.scoring import ScoringUnit, UnitScores, list_units, score_units
from adapters.simulator.sites import UNSEEN_SITE
from models.classifier.prompts import read_prompts
from models.evaluation.statistics import PatientBootstrap, macro_average
from models.experiment.summary import PRODUCT, ZERO_SHOT, LadderComparison, MethodRun, measure_run, summarise
from models.fingerprint import fingerprint
from models.ladder.method import FewShotBenchmark, Method
from models.ladder.registry import FROZEN_ENCODER_METHODS, LADDER, find_methods
from models.training.training_round import TrainingPlan
from tests.benchmarks.output import format_result, prints_result_alone

GAIN, AT_SHOTS = 1.20, 16
"""Minimum mean AUC by shot count, relative to zero-shot."""
MOST_BELOW = 0.005
"""Largest allowed AUC below zero-shot, at any shot count in any draw."""
UNJUDGED = ("all-labels",)
"""Methods with more knowledge than the support: listed, but no rivals."""
SEED = 0

GROUPS = {"all": LADDER, "frozen": FROZEN_ENCODER_METHODS}


@dataclass(frozen=True)
class Against:
    """radclipd minus a method at a shot count, with the 95 % interval over test patients and draws."""

    method: str
    shots: int
    difference: float
    lo: float
    hi: float

    @property
    def worse(self) -> bool:
        """Return whether the whole interval lies below 0."""
        return self.hi < 0


@prints_result_alone
def main() -> str:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--shots", type=parse_whole_numbers, default="1,2,4,8,16")
    parser.add_argument("--methods", default="all", help="names joined by commas; frozen, all")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--pool", type=int, default=DEFAULT_SIZES.pool)
    parser.add_argument("--test", type=int, default=DEFAULT_SIZES.test)
    parser.add_argument("--threads", type=int, default=0, help="of each computation; 0: torch's choice")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measure(options)
    return format_result(result, as_json=True) if options.json else "\n".join(table(result)) + "\n"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the missing parts and return the object of `--json`."""
    base, prompts = demo_base(), read_prompts()
    workers = os.cpu_count() or 1
    source = phantom_source(UNSEEN_SITE, PhantomSizes.scaled(options.pool, options.test, DEFAULT_SIZES.edge), workers=workers)
    device = torch.device("cpu")
    films = load_or_fill_cache(options.cache, source, base, device=device, workers=workers)
    bench = build_bench(source, films, base, prompts, device=device)
    key = fingerprint([source.fingerprint, base.sha256, SEED, TrainingPlan().card])[:12]
    out = options.out or options.cache.parent / "benchmarks" / f"fewshot-{key}"
    manifest.claim_folder(out, manifest.build_identity(source, bench.cases, bench.split, base, prompts, seed=SEED))
    wanted = list_units(_asked(options.methods), bench, shots=options.shots, count=options.draws, seed=SEED)
    results = score_units(out, bench, wanted, seed=SEED, advance=_progress(len(wanted)))
    bootstrap = CachedBootstrap(bench.cases.patient[bench.split.test], out / "resamples", resamples=options.resamples, seed=SEED)
    runs = [_measured(one, bench, bootstrap) for one in results.unit_scores]
    settings = {"draws": options.draws, "shots": list(options.shots), "seed": SEED, "resamples": options.resamples}
    settings |= {"site": UNSEEN_SITE, "pool": options.pool, "test": options.test, "encoder": base.sha256[:12], "out": str(out)}
    return {**evaluate_runs(runs, results.unit_scores), "impossible": results.unsupported_methods, "settings": settings}


def evaluate_runs(runs: Sequence[MethodRun], scored: Sequence[UnitScores]) -> dict[str, Any]:
    """Return ratios, differences, seconds and the state of the targets, JSON-able."""
    zero, own, shots = _mean_aucs(runs, ZERO_SHOT), _mean_aucs(runs, PRODUCT), sorted({one.shots for one in runs if one.shots})
    summary = summarise(runs, seed=SEED, references=(PRODUCT, ZERO_SHOT))
    against = [_against(one) for one in summary.comparisons if one.reference == PRODUCT]
    lowest = min(own, key=lambda cell: own[cell] - zero[0, 0])
    most = shots[-1]
    gain = summary.mean_auc[PRODUCT][most].mean / summary.mean_auc[ZERO_SHOT][0].mean
    worse = [one for one in against if one.worse and one.method not in UNJUDGED]
    return {
        "ratios": dict(_ratios(runs, own, shots)),
        "mean_auc": summary.json["mean_auc"],
        "gain": {"shots": most, "of_means": round(gain, 4), "target": GAIN},
        "lowest_difference": {
            "value": round(own[lowest] - zero[0, 0], 4),
            "shots": lowest[0],
            "draw": lowest[1],
            "target": -MOST_BELOW,
        },
        "differences": [{name: _rounded(value) for name, value in asdict(one).items()} for one in against],
        "worse_outside_interval": [f"{one.method} at {one.shots}" for one in worse],
        "seconds_per_fit": {str(count): round(_seconds(scored, count), 2) for count in shots},
        "holds": {
            f"mean AUC at {AT_SHOTS} shots is {GAIN} x zero-shot or more": gain >= GAIN if most == AT_SHOTS else None,
            f"never more than {MOST_BELOW} below zero-shot": own[lowest] - zero[0, 0] >= -MOST_BELOW,
            "never worse than a method outside the interval": not worse,
        },
    }


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result as lines of text."""
    shots = [str(count) for count in result["settings"]["shots"]]
    yield f"{'mean AUC at shots':24}" + "".join(f"{count:>10}" for count in shots)
    for method, cells in result["mean_auc"].items():
        means = [cells.get(count, cells.get("0")) for count in shots]
        yield f"{method:24}" + "".join(f"{cell['mean']:10.4f}" if cell else " " * 10 for cell in means)
    yield ""
    yield f"{PRODUCT} minus each method, with the 95 % interval; * where it is worse outside of it"
    for one in result["differences"]:
        mark = " *" if f"{one['method']} at {one['shots']}" in result["worse_outside_interval"] else ""
        yield f"{one['method']:24}{one['shots']:>4}{one['difference']:+10.4f}  [{one['lo']:+.4f}, {one['hi']:+.4f}]{mark}"
    yield ""
    gain, lowest = result["gain"], result["lowest_difference"]
    yield f"mean AUC at {gain['shots']} shots / zero-shot: {gain['of_means']:.3f} (target {gain['target']:.2f})"
    yield f"lowest difference to zero-shot: {lowest['value']:+.4f} at {lowest['shots']} shots, draw {lowest['draw']}"
    yield "seconds per fit: " + ", ".join(f"{seconds} at {count}" for count, seconds in result["seconds_per_fit"].items())
    yield from (f"not possible: {method}: {reason}" for method, reason in result["impossible"].items())
    words = {True: "holds", False: "does NOT hold", None: "not measured"}
    yield from (f"{words[holds]:14} {target}" for target, holds in result["holds"].items())


def _asked(words: str) -> list[Method]:
    names = [name for word in words.split(",") for name in ([each.name for each in GROUPS[word]] if word in GROUPS else [word])]
    return find_methods(list(dict.fromkeys([ZERO_SHOT, PRODUCT, *names])))


def _progress(total: int) -> Any:
    places = iter(range(1, total + 1))

    def advance(unit: ScoringUnit, kept: bool) -> None:
        place = next(places)
        if not kept:
            sys.stderr.write(f"{place} of {total}: {unit.method.name}, {unit.shots} shots, draw {unit.draw}\n")

    return advance


def _measured(one: UnitScores, bench: FewShotBenchmark, bootstrap: PatientBootstrap) -> MethodRun:
    return measure_run(
        one.logits(),
        bench.cases.labels[bench.split.test],
        bootstrap,
        method=one.method,
        shots=one.shots,
        draw=one.draw,
        findings=bench.cases.findings,
    )


def _mean_aucs(runs: Sequence[MethodRun], method: str) -> dict[tuple[int, int], float]:
    """Mean AUC over the findings by shots and draw."""
    return {
        (run.shots, run.draw): float(macro_average(np.array([row.auc for row in run.rows]))) for run in runs if run.method == method
    }


def _ratios(
    runs: Sequence[MethodRun], own: Mapping[tuple[int, int], float], shots: Sequence[int]
) -> Iterator[tuple[str, dict[str, float]]]:
    for method in dict.fromkeys(one.method for one in runs if one.method != PRODUCT):
        theirs = _mean_aucs(runs, method)
        for count in shots:
            each = [value / theirs.get(cell, theirs.get((0, 0), np.nan)) for cell, value in own.items() if cell[0] == count]
            found = {"min": min(each), "median": statistics.median(each), "max": max(each)}
            yield f"{PRODUCT} at {count} shots / {method}", {name: round(value, 4) for name, value in found.items()}


def _against(one: LadderComparison) -> Against:
    """Invert a comparison: the reference minus the method."""
    return Against(one.method, one.shots, -one.difference, -one.hi, -one.lo)


def _seconds(scored: Sequence[UnitScores], shots: int) -> float:
    return float(np.mean([one.seconds for one in scored if one.method == PRODUCT and one.shots == shots]))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return value


if __name__ == "__main__":
    main()
