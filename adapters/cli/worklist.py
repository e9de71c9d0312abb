"""`radclipd worklist`: what to label next, and why."""

from __future__ import annotations

import csv as csv_format
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.output import Format, JsonFlag, TableFlag, write_rows
from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError

if TYPE_CHECKING:
    from pipeline.worklist import WorklistEntry

COLUMNS = (
    "study_instance_uid",
    "accession_number",
    "view",
    "scanner",
    "selection_reason",
    "finding",
    "reason",
    "selection_probability",
    "asked_at",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(worklist)


def worklist(
    ctx: typer.Context,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=10_000, help="How many studies.")] = 20,
    still_open: Annotated[
        bool, typer.Option("--open", help="Ask for nothing; list what was asked for and has no label yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Choose, and do not keep that it was asked for.")] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a table to fill in, for labels import; - is standard output."),
    ] = None,
    table: TableFlag = False,
    json: JsonFlag = False,
) -> None:
    """Choose what to label next, and keep why.

    One study a patient, by the shares of [worklist]. A label of such a study, however it comes in, carries the reason and the
    probability by itself.
    """
    if table + json + (str(csv) == "-") > 1:
        raise typer.BadParameter("choose one of --table, --csv - and --json")
    from adapters.app.policies import chest_policy, worklist_policy
    from pipeline import worklist as steps

    with parts_of(ctx) as parts:
        if still_open:
            asked = steps.list_open_entries(catalog=parts.catalog, chest=chest_policy(parts.config))
        else:
            policy = worklist_policy(parts.config)
            asked = steps.make_worklist(count=n, catalog=parts.catalog, policy=policy, dry_run=dry_run)
    if csv is not None:
        _write_csv(csv, asked)
    if str(csv) != "-":
        write_rows(COLUMNS, map(_make_row, asked), Format.JSON if json else Format.TABLE)
    if not still_open and len(asked) < n:
        typer.echo(f"{len(asked)} of {n}: no more patients whose studies are scored and neither labelled nor asked for", err=True)


def _make_row(one: WorklistEntry) -> Sequence[Any]:
    request = one.request
    return (
        request.study_instance_uid,
        one.accession_number,
        one.view,
        one.scanner,
        request.selection_reason,
        request.finding,
        request.reason,
        request.selection_probability,
        request.asked_at,
    )


def _write_csv(file: Path, asked: Iterable[WorklistEntry]) -> None:
    """The columns of `labels template`. Which finding a study was chosen for is left out: a reader is not to know it."""
    from adapters.label_csv.exporter import TEMPLATE_COLUMNS, request_rows

    rows = request_rows((one.request, one.accession_number) for one in asked)
    if str(file) == "-":
        write_rows(TEMPLATE_COLUMNS, rows, Format.CSV)
        return
    try:
        with file.open("w", encoding="utf-8", newline="") as out:
            writer = csv_format.writer(out, lineterminator="\n")
            writer.writerow(TEMPLATE_COLUMNS)
            writer.writerows(rows)
    except OSError as error:
        remedy = "radclipd worklist --open --csv FILE writes what was asked for again"
        raise PermanentError(f"{file}: {error.strerror}", hint=remedy) from error
