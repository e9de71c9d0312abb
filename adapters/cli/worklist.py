"""`radclipd worklist`, alias `label-next`: the studies to label next, and the reason of each choice."""

from __future__ import annotations

import csv as csv_format
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

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
    "requested_at",
)


def register(app: typer.Typer) -> None:
    """Add the verb and its alias."""
    app.command()(worklist)
    app.command("label-next", short_help="The same as worklist.")(worklist)


def worklist(
    ctx: typer.Context,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=10_000, help="Number of studies.")] = 20,
    still_open: Annotated[
        bool, typer.Option("--open", help="Choose nothing; list the open requests: chosen, and no label yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Choose, and record no request.")] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a table to fill in, for labels import; - is standard output."),
    ] = None,
    table: TableFlag = False,
    json: JsonFlag = False,
) -> None:
    """Choose the studies to label next, and record the reason.

    This is the labelling worklist, not the DICOM Modality Worklist (PS3.4 Annex K). One study per patient, by the shares of
    [worklist]. A later label of such a study carries the reason and the selection probability, whatever its source.
    """
    if table + json + (str(csv) == "-") > 1:
        raise typer.BadParameter("choose one of --table, --csv - and --json")
    from adapters.app.policies import chest_policy, worklist_policy
    from pipeline import worklist as steps

    with _open_table(csv) as out, parts_of(ctx) as parts:
        if still_open:
            entries = steps.list_open_entries(catalog=parts.catalog, chest=chest_policy(parts.config))
        else:
            policy = worklist_policy(parts.config)
            entries = steps.make_worklist(count=n, catalog=parts.catalog, policy=policy, dry_run=dry_run)
        if out is not None:
            _write_csv(out, entries)
    if str(csv) != "-":
        write_rows(COLUMNS, map(_make_row, entries), Format.JSON if json else Format.TABLE)
    if not still_open and len(entries) < n:
        typer.echo(f"{len(entries)} of {n}: no more patients whose studies are scored and neither labelled nor asked for", err=True)


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
        request.requested_at,
    )


@contextmanager
def _open_table(file: Path | None) -> Iterator[TextIO | None]:
    """Yield the file to write to; None without one. PermanentError.

    It is opened before anything is requested, and as the caller: root may write where the owner of the store may not. An existing
    table stays as it is until the new one is written.
    """
    if file is None or str(file) == "-":
        yield sys.stdout if file is not None else None
        return
    try:
        out = file.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise PermanentError(f"{file}: {error.strerror}", hint="name a file in a folder that you can write to") from error
    with out:
        yield out


def _write_csv(out: TextIO, entries: Iterable[WorklistEntry]) -> None:
    """Write the columns of `labels template`. They omit the finding a study was chosen for: it would bias the reader."""
    from adapters.label_csv.csv_text import escape_cell
    from adapters.label_csv.exporter import TEMPLATE_COLUMNS, request_rows

    rows = request_rows((one.request, one.accession_number) for one in entries)
    if out is sys.stdout:
        write_rows(TEMPLATE_COLUMNS, rows, Format.CSV)
        return
    try:
        out.truncate(0)
        writer = csv_format.writer(out, lineterminator="\n")
        writer.writerow(TEMPLATE_COLUMNS)
        writer.writerows(map(escape_cell, row) for row in rows)
        out.flush()
    except OSError as error:
        remedy = "radclipd worklist --open --csv FILE writes the open requests again"
        raise PermanentError(f"{out.name}: {error.strerror}", hint=remedy) from error
