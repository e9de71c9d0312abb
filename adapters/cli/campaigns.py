"""`radclipd experiment worklist`: simulate labelling campaigns and count the readings that a strategy saves."""

from __future__ import annotations

import json as json_format
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.extras import require_extra
from adapters.cli.fewshot import (
    FILM_SEED_HELP,
    SITE_HELP,
    ExperimentData,
    base_of,
    command_of,
    default_cache,
    print_left_out,
    source_of,
)
from adapters.cli.output import Format, write_rows
from adapters.cli.progress import progress_bars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapters.experiment.case_source import CaseSource

TABLE_ROWS = 12
"""Rows of the table at most: numbers of studies read, evenly spaced."""


def worklist(
    ctx: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for points, summary and plot. Default: nothing is written.")] = None,
    data: Annotated[ExperimentData, typer.Option(help="Source of the films.")] = ExperimentData.PHANTOM,
    folder: Annotated[Path | None, typer.Option(help="nih: the folder with the films and their label table.")] = None,
    site: Annotated[str, typer.Option(metavar="NAME|FILE", help=SITE_HELP)] = "",
    film_seed: Annotated[int, typer.Option(min=0, help=FILM_SEED_HELP)] = 0,
    pool: Annotated[int, typer.Option(min=1, help="phantom: patients to choose from, at natural prevalences.")] = 4000,
    test: Annotated[int, typer.Option(min=1, help="phantom: films to test on.")] = 1000,
    film_size: Annotated[int, typer.Option(min=32, help="phantom: edge of a film, pixels.")] = 112,
    studies: Annotated[int, typer.Option(min=1, help="Studies read in each campaign.")] = 480,
    step: Annotated[int, typer.Option(min=1, help="Studies of one list; the model learns after each.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Campaigns of each strategy.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first campaign.")] = 0,
    learner: Annotated[str, typer.Option(help="Head on frozen features: stage-1, anchored, discriminative.")] = "stage-1",
    base: Annotated[
        str, typer.Option(help="Encoder: a base's folder or name, untrained. Default: the demo model; catalog: the serving one's.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Films rendered or read in parallel.")] = os.cpu_count() or 1,
    cache: Annotated[Path | None, typer.Option(help="Folder of the cached features.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Compare strategies for choosing the studies to label next.

    At random, by uncertainty, by the worklist's rules; with the same learner.
    """
    require_extra("lab")
    from adapters.experiment.campaigns import LEARNERS
    from adapters.experiment.worklist import CampaignOptions
    from adapters.experiment.worklist import run_campaigns as run
    from adapters.ml.scorer import choose_device
    from pipeline.acquisition import SelectionPolicy

    if learner not in LEARNERS:
        raise typer.BadParameter(f"one of {', '.join(LEARNERS)}", param_hint="--learner")
    source = (
        _make_natural_source(site, (pool, test, film_size), workers, film_seed)
        if data is ExperimentData.PHANTOM
        else source_of(ctx, data, folder=folder)
    )
    options = CampaignOptions(
        cache=cache or default_cache(),
        out=out,
        policy=SelectionPolicy(),
        learner=learner,
        studies=studies,
        list_size=step,
        seeds=range(seed, seed + seeds),
        device=choose_device(device),
        workers=workers,
        command=command_of(ctx),
    )
    with progress_bars() as watch:
        outcome = run(source, base_of(ctx, data, base), options, watch)
    if json:
        typer.echo(json_format.dumps(outcome.summary, allow_nan=False))
        return
    _print_summary(outcome.summary)
    if out is not None:
        typer.echo(f"points, summary and plot: {out}")


def _make_natural_source(site: str, sizes: tuple[int, int, int], workers: int, film_seed: int) -> CaseSource:
    from adapters.experiment.phantom_source import PhantomSizes, natural_source
    from adapters.simulator.sites import UNSEEN_SITE

    return natural_source(site or UNSEEN_SITE, PhantomSizes.scaled(*sizes), workers=workers, film_seed=film_seed)


def _print_summary(summary: Mapping[str, Any]) -> None:
    """Print mean AUC by studies read, and the readings saved."""
    curves = summary["mean_auc"]
    reads = [*next(iter(curves.values()))]
    shown = reads[:: max(1, len(reads) // TABLE_ROWS)]
    rows = [(int(at), *(curve[at]["mean"] if at in curve else None for curve in curves.values())) for at in shown]
    write_rows(("studies read", *curves), rows, Format.TABLE)
    typer.echo(f"mean AUC; zero-shot {summary['zero_shot']:.4f}, all labels of the pool {summary['all_labels']:.4f}")
    for read, found in summary["to_reach"].items():
        reached = f"by the worklist with {found['needed']}" if found["needed"] else "by the worklist not at all"
        typer.echo(f"{found['auc']:.4f} is reached at random with {read} studies read, {reached}")
    print_left_out(summary["left_out"])
    for words in summary["notes"]:
        typer.echo(f"caution: {words}")
