"""`radclipd experiment worklist`: films in; campaigns, a table, a plot and the saved studies out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context

from adapters.experiment import manifest, plot_style
from adapters.experiment.bases import ChosenBase
from adapters.experiment.campaigns import LEARNERS, RANDOM, WORKLIST, CampaignPoint, Campaigns, build_strategies
from adapters.experiment.case_source import CaseSource
from adapters.experiment.feature_cache import load_or_fill_cache
from adapters.experiment.method_inputs import build_bench, count_duplicates
from models.classifier.prompts import read_prompts
from pipeline.acquisition import SelectionPolicy
from pipeline.errors import OutOfResources

ENCODING, READING = "films encoded", "campaigns"
"""Phases of the progress bar."""
TARGET_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the studies read at which the AUC of random reading is a target."""
PLOT_FILE, POINTS_FILE, SUMMARY_FILE = "auc-by-studies-read.png", "points.csv", "summary.json"

CampaignProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Options of the campaigns."""

    cache: Path
    out: Path | None
    policy: SelectionPolicy
    learner: str  # of LEARNERS
    studies: int
    list_size: int
    seeds: Sequence[int]
    device: torch.device
    workers: int
    command: str = ""


@dataclass(frozen=True)
class CampaignOutcome:
    """All points, and the object of `--json`."""

    points: Sequence[CampaignPoint]
    summary: Mapping[str, Any]


def run_campaigns(
    source: CaseSource, base: ChosenBase, options: CampaignOptions, on_progress: CampaignProgress = lambda what, done, total: None
) -> CampaignOutcome:
    """Run all campaigns; write the folder where one is given.

    PermanentError where the split leaks; TransientError where another process fills the cache; OutOfResources for disk errors.
    """
    films = load_or_fill_cache(
        options.cache,
        source,
        base,
        device=options.device,
        workers=options.workers,
        advance=lambda rows: on_progress(ENCODING, rows, len(source.cases)),
    )
    bench = build_bench(source, films, base, read_prompts(), device=options.device)
    campaigns = Campaigns(bench, LEARNERS[options.learner])
    compared = [(strategy, seed) for seed in options.seeds for strategy in build_strategies(options.policy)]
    points: list[CampaignPoint] = []
    for done, (strategy, seed) in enumerate(compared, 1):
        points += campaigns.run(strategy, seed=seed, studies=options.studies, step=options.list_size)
        on_progress(READING, done, len(compared))
    sides = {
        side: manifest.count_cases(bench.cases, rows) for side, rows in (("pool", bench.split.pool), ("test", bench.split.test))
    }
    summary = {
        "films": {
            "kind": source.kind,
            "title": source.title,
            "sha256": source.fingerprint,
            "options": manifest.list_film_options(source),
            **sides,
        },
        "base": {"name": base.name, "sha256": base.sha256, "notice": base.notice},
        "left_out": {reason: count for reason, count in source.left_out_counts.items() if count} | count_duplicates(bench.split),
        "notes": list(source.notes),
        "policy": asdict(options.policy),
        "learner": options.learner,
        "seeds": list(options.seeds),
        "zero_shot": campaigns.zero_shot_auc(),
        "all_labels": campaigns.all_labels_auc(),
        "mean_auc": summarise_curves(points),
        "positives": _average_positives(points),
        "to_reach": studies_to_reach(points, [round(share * options.studies) for share in TARGET_SHARES]),
        "commit": manifest.git_commit(),
        "command": options.command,
    }
    if options.out is not None:
        _write_folder(options.out, points, summary)
    return CampaignOutcome(points, summary)


def summarise_curves(points: Sequence[CampaignPoint]) -> dict[str, dict[str, dict[str, float]]]:
    """Return strategy -> studies read -> mean, lowest and highest AUC of its campaigns."""
    return {
        strategy: {
            str(read): {"mean": mean(found), "min": min(found), "max": max(found)}
            for read, found in _group_by_studies_read(points, strategy).items()
        }
        for strategy in dict.fromkeys(point.strategy for point in points)
    }


def studies_to_reach(points: Sequence[CampaignPoint], targets: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return, for each target number of studies read at random, their mean AUC and the studies the worklist needs to reach it.

    `needed`: studies after which the mean of the worklist's campaigns first reaches the AUC; `ratio`: `needed` over the target.
    `each`: least, median and largest ratio of single campaigns. A campaign that never reaches the AUC counts with one list more
    than it read; `never` is the number of such campaigns.
    """
    random, worklist = _group_by_studies_read(points, RANDOM), _group_by_studies_read(points, WORKLIST)
    means = {read: mean(found) for read, found in worklist.items()}
    campaigns = sorted({point.seed for point in points if point.strategy == WORKLIST})
    beyond = max(worklist) + min(worklist)
    found: dict[str, dict[str, Any]] = {}
    for target in sorted({min(random, key=lambda read: abs(read - wanted)) for wanted in targets}):
        level = mean(random[target])
        single = [
            _first_reaching({p.studies_read: p.auc for p in points if (p.strategy, p.seed) == (WORKLIST, seed)}, level)
            for seed in campaigns
        ]
        needed = _first_reaching(means, level)
        ratios = [(one or beyond) / target for one in single]
        found[str(target)] = {
            "auc": level,
            "needed": needed,
            "ratio": None if needed is None else needed / target,
            "each": {"min": min(ratios), "median": median(ratios), "max": max(ratios)},
            "never": single.count(None),
        }
    return found


def _first_reaching(curve: Mapping[int, float], level: float) -> int | None:
    return next((read for read, height in sorted(curve.items()) if height >= level), None)


def _group_by_studies_read(points: Sequence[CampaignPoint], strategy: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for point in points:
        if point.strategy == strategy:
            found.setdefault(point.studies_read, []).append(point.auc)
    return dict(sorted(found.items()))


def _average_positives(points: Sequence[CampaignPoint]) -> dict[str, list[float]]:
    """Return strategy -> positives of each finding at the end, mean of its campaigns."""
    last = {(point.strategy, point.seed): point.positives for point in points}
    return {
        strategy: np.mean([found for (name, _), found in last.items() if name == strategy], axis=0).round(1).tolist()
        for strategy in dict.fromkeys(name for name, _ in last)
    }


def _write_folder(out: Path, points: Sequence[CampaignPoint], summary: Mapping[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / POINTS_FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("strategy", "seed", "studies_read", "mean_auc", "positives"))
            writer.writerows((p.strategy, p.seed, p.studies_read, f"{p.auc:.6f}", " ".join(map(str, p.positives))) for p in points)
        (out / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        _draw_plot(out / PLOT_FILE, summary)
    except OSError as error:
        raise OutOfResources(f"cannot write into {out}: {error.strerror}", hint="give another --out") from error


def _draw_plot(path: Path, summary: Mapping[str, Any]) -> None:
    """Draw mean AUC against studies read, with bands from the lowest to the highest campaign."""
    with rc_context(plot_style.MATPLOTLIB_RC):
        figure = plot_style.new_figure(8.0, 5.0)
        axes = figure.add_subplot()
        lines = plot_style.curve_styles([*summary["mean_auc"], "zero-shot", "all-labels"])
        ends = []
        for strategy, curve in summary["mean_auc"].items():
            line, read = lines[strategy], [int(at) for at in curve]
            means = [point["mean"] for point in curve.values()]
            axes.plot(read, means, color=line.colour, linestyle=line.dash)
            lowest, highest = ([point[end] for point in curve.values()] for end in ("min", "max"))
            axes.fill_between(read, lowest, highest, color=line.colour, alpha=plot_style.BAND_OPACITY, linewidth=0)
            ends.append((strategy, means[-1], line.colour))
        for name in ("zero-shot", "all-labels"):
            line, height = lines[name], summary[name.replace("-", "_")]
            axes.axhline(height, color=line.colour, linestyle=line.dash, linewidth=1.0)
            ends.append((name, height, line.colour))
        axes.set_xlabel("studies read")
        axes.set_ylabel("mean AUC")
        plot_style.label_ends(axes, ends)
        plot_style.save_figure(figure, path, notice=summary["base"]["notice"])
