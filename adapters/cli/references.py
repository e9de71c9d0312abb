"""`radclipd references list | make`: the distributions that the ranks of zero-shot findings refer to."""

from __future__ import annotations

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag
from adapters.cli.settings import name_user, parts_of

references = typer.Typer(help="What ranks of findings refer to: list, make.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(references, name="references")


@references.command("list")
def list_(ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, raw: RawFlag = False, json: JsonFlag = False) -> None:
    """List the reference distributions, newest first."""
    sql = "SELECT number, version, studies, separation, made_at FROM v_references ORDER BY number DESC"
    query.query(ctx, sql, table=table, csv=csv, json=json)


@references.command()
def make(ctx: typer.Context) -> None:
    """Make a new distribution of the serving version from its newest studies.

    The first one is made by itself. A new one takes up changed priors and call rates, and films of a new device. Studies that are
    scored from now on refer to it.
    """
    from adapters.app.report_policies import decision_policy
    from pipeline import references as step

    with parts_of(ctx) as parts:
        made = step.make(catalog=parts.catalog, policy=decision_policy(parts.config), source=name_user())
    if made is not None:
        typer.echo(f"reference distribution {made.number} of version {made.version}: {made.studies} studies")
