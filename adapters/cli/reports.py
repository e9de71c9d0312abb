"""`radclipd reports list | show | resend`."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag
from adapters.cli.query import LimitOption
from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError

reports = typer.Typer(help="Structured reports: list, show, resend.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(reports, name="reports")


@reports.command("list")
def list_(
    ctx: typer.Context,
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the newest reports with their delivery state."""
    query.query(
        ctx,
        "SELECT sop_instance_uid, study_instance_uid, version, revision, state, status, created_at, sent_at"
        f" FROM v_reports ORDER BY created_at DESC LIMIT {limit}",
        table=table,
        csv=csv,
        json=json,
    )


@reports.command()
def show(ctx: typer.Context, sop_instance_uid: Annotated[str, typer.Argument(help="SOP Instance UID of the report.")]) -> None:
    """Print one report as text, from the file that was sent."""
    from adapters.dicom.sr.text import lines_of_file

    with parts_of(ctx) as parts:
        with parts.catalog.read() as tx:
            report = tx.reports.find(sop_instance_uid)
        if report is None or report.file is None:
            raise PermanentError(f"no report {sop_instance_uid} with bytes in this catalog", hint="radclipd reports list")
        content = parts.images.read(report.file)
    for line in lines_of_file(content):
        typer.echo(line)


@reports.command()
def resend(ctx: typer.Context, studies: Annotated[list[str], typer.Argument(help="Study Instance UIDs.")]) -> None:
    """Send the newest report of each study again."""
    from pipeline import report

    with parts_of(ctx) as parts:
        queued = report.resend(studies, catalog=parts.catalog)
    typer.echo(f"{len(queued)} reports will be sent again")
    if len(queued) < len(studies):
        raise PermanentError(f"{len(studies) - len(queued)} of these studies have no report", hint="radclipd reports list")
