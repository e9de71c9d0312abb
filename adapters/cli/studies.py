"""`radclipd studies`, `radclipd studies conflicts | resolve | fetch`: the list, conflicts of instances, deleted files."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag, WideFlag
from adapters.cli.query import LimitOption
from adapters.cli.settings import name_user, parts_of

studies = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(studies, name="studies")


@studies.callback()
def list_(
    ctx: typer.Context,
    limit: LimitOption = 50,
    ignored: Annotated[bool, typer.Option("--ignored", help="Ignored studies only.")] = False,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """List the newest studies with their state.

    For ignored studies, with the reason.
    """
    if ctx.invoked_subcommand:
        return
    condition = "WHERE state = 'ignored' " if ignored else ""
    sql = (
        "SELECT study_instance_uid, accession_number, study_date, state, reason, instance_count, revision, last_received_at"
        f" FROM v_studies {condition}ORDER BY last_received_at DESC LIMIT {limit}"
    )
    narrow = ("study_instance_uid", "accession_number", "state", "reason", "last_received_at")
    query.list_rows(ctx, sql, narrow=() if wide else narrow, table=table, csv=csv, json=json, raw=raw)


@studies.command()
def conflicts(
    ctx: typer.Context,
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """List open conflicts: two instances with one SOP Instance UID."""
    sql = (
        "SELECT conflict, sop_instance_uid, study_instance_uid, received_at, sender_ae_title, stored_file_key, file_key"
        f" FROM v_conflicts WHERE resolution = '' ORDER BY conflict LIMIT {limit}"
    )
    query.query(ctx, sql, table=table, csv=csv, json=json, raw=raw)


@studies.command()
def resolve(
    ctx: typer.Context,
    conflict: Annotated[int, typer.Argument(help="Number of the conflict.")],
    keep: Annotated[str, typer.Option(help="stored: delete the received file; received: it takes the place of the stored one.")],
) -> None:
    """Decide a conflict.

    A received image that is kept is scored anew; the labels of its study stay.
    """
    from pipeline.conflicts import resolve_conflict
    from pipeline.domain import ConflictResolution

    if keep not in list(ConflictResolution):
        raise typer.BadParameter(f"one of {', '.join(ConflictResolution)}", param_hint="--keep")
    with parts_of(ctx) as parts:
        found = resolve_conflict(conflict, ConflictResolution(keep), catalog=parts.catalog, images=parts.images, source=name_user())
    typer.echo(f"conflict {conflict}: the {keep} instance {found.sop_instance_uid} is kept")


@studies.command()
def fetch(ctx: typer.Context, studies: Annotated[list[str], typer.Argument(help="Study Instance UIDs.")]) -> None:
    """Fetch the files that retention has deleted from the archive."""
    from adapters.app.file_fetch import make_file_fetch

    with parts_of(ctx) as parts:
        file_fetch = make_file_fetch(parts)
        for study in studies:
            typer.echo(f"{study}: {file_fetch.fetch_study(study)} files fetched")
