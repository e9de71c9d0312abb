"""`radclipd learn`: train a candidate version from the labels, measure it, and promote it if the gate passes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from adapters.cli import output, progress
from adapters.cli.settings import parts_of

MEASURE_COLUMNS = (
    "finding",
    "sample",
    "positives",
    "negatives",
    "auc",
    "auc_zero_shot",
    "sensitivity",
    "sensitivity_lower",
    "sensitivity_upper",
    "specificity",
    "specificity_lower",
    "specificity_upper",
    "prevalence",
)
"""Of `card.learning.measures`, then of `card.learning.monitoring.measures`."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(learn)


def learn(
    ctx: typer.Context,
    again: Annotated[bool, typer.Option("--again", help="Even if a version was learnt from these labels.")] = False,
    table: output.TableFlag = False,
    csv: output.CsvFlag = False,
    raw: output.RawFlag = False,
    json: output.JsonFlag = False,
) -> None:
    """Train a candidate from the labels now, and measure it.

    The measures of each finding are of patients that were held out.
    """
    form = output.choose_format(table=table, csv=csv, json=json, raw=raw)
    from adapters.app.workers import learn_now
    from pipeline.domain import VersionState

    with parts_of(ctx) as parts:
        _ = parts.catalog  # a fault shows before the bars
        with progress.progress_bars() as watch:
            learnt = learn_now(parts, watch=watch, again=again)
    made = f" (version {learnt.version.number})" if learnt.version else ""
    typer.echo(f"{learnt.result.value}{made}: {learnt.reason}", err=True)
    if learnt.version and learnt.version.state is VersionState.CANDIDATE:
        typer.echo(f"next: {describe_next_step(learnt.version.number)}", err=True)
    output.write_rows(MEASURE_COLUMNS, measures_of(learnt.version.card) if learnt.version else [], form)


def describe_next_step(number: int) -> str:
    """Say what a person does with a candidate that passed the gate."""
    return f"radclipd versions promote {number} lets it serve; radclipd versions reject {number} --reason WHY does not"


def measures_of(card: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return a row of MEASURE_COLUMNS for each learnt finding, then for each finding with labels in the monitoring sample.

    `sample`: "labels", of patients held out in learning, or "monitoring". No rows for a zero-shot version.
    """
    learning = card.get("learning", {})
    samples: dict[str, dict[str, dict[str, Any]]] = {
        "labels": learning.get("measures", {}),
        "monitoring": learning.get("monitoring", {}).get("measures", {}),
    }
    return [
        (finding, sample, *(found.get(column) for column in MEASURE_COLUMNS[2:]))
        for sample, measures in samples.items()
        for finding, found in measures.items()
    ]
