"""`radclipd quarantine list | retry`: jobs that wait for a person."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, TableFlag
from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError

quarantine = typer.Typer(help="Jobs that were set aside for a person.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(quarantine, name="quarantine")


@quarantine.command("list")
def list_(ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, json: JsonFlag = False) -> None:
    """List quarantined jobs with their errors."""
    query.jobs(ctx, state="quarantined", limit=1000, table=table, csv=csv, json=json)


@quarantine.command()
def retry(
    ctx: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(help="Job numbers.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every quarantined job.")] = False,
) -> None:
    """Put quarantined jobs back to work, their tries cleared."""
    if bool(ids) == all_:
        raise typer.BadParameter("name job numbers, or --all")
    from pipeline.domain import AuditEvent

    with parts_of(ctx) as parts, parts.catalog.begin() as tx:
        count = tx.jobs.requeue(ids)
        tx.audit(AuditEvent("requeue", "done", "", f"{count} quarantined jobs put back to work"))
    if ids and count < len(set(ids)):
        raise PermanentError(f"{len(set(ids)) - count} of {len(set(ids))} are not in quarantine", hint="radclipd quarantine list")
    typer.echo(f"{count} jobs wait again")
