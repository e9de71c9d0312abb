"""`radclipd learn`: from the labels to a candidate version, measured, and to the serving one where it has earned it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import output, progress
from adapters.cli.settings import parts_of

if TYPE_CHECKING:
    from pipeline.domain import ModelVersion

COLUMNS = (
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
    again: Annotated[bool, typer.Option("--again", help="Even where these labels have been learnt already.")] = False,
    table: output.TableFlag = False,
    csv: output.CsvFlag = False,
    json: output.JsonFlag = False,
) -> None:
    """Learn from the labels now, and say what became of it. The measures of each finding are of patients not seen in learning."""
    form = output.choose_format(table=table, csv=csv, json=json)
    from adapters.app.workers import learn_now

    with parts_of(ctx) as parts:
        _ = parts.catalog  # a fault shows before the bars
        with progress.progress_bars() as watch:
            learnt = learn_now(parts, watch=watch, again=again)
    made = f" (version {learnt.version.number})" if learnt.version else ""
    typer.echo(f"{learnt.result.value}{made}: {learnt.reason}", err=True)
    output.write_rows(COLUMNS, measures_of(learnt.version) if learnt.version else [], form)


def measures_of(version: ModelVersion) -> list[tuple[Any, ...]]:
    """Return a row of COLUMNS for each finding that the version has learnt, then for each that the monitoring sample has labels of.

    `sample`: "labels", of patients held out in learning, or "monitoring". None for a version that has learnt nothing.
    """
    learning = version.card.get("learning", {})
    samples: dict[str, dict[str, dict[str, Any]]] = {
        "labels": learning.get("measures", {}),
        "monitoring": learning.get("monitoring", {}).get("measures", {}),
    }
    return [
        (finding, sample, *(found.get(column) for column in COLUMNS[2:]))
        for sample, measures in samples.items()
        for finding, found in measures.items()
    ]
