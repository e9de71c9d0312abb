"""`radclipd query` and `radclipd studies`; other listings run their SQL through `query`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.output import CsvFlag, JsonFlag, TableFlag, choose_format, write_rows
from adapters.cli.settings import config_of

if TYPE_CHECKING:
    from adapters.config.sections import Config

LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="Newest rows only.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (query, studies):
        app.command()(verb)


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help='One reading statement, as "select * from v_studies".')],
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """Query the results database. The connection is read-only."""
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json)


def studies(
    ctx: typer.Context,
    limit: LimitOption = 50,
    ignored: Annotated[bool, typer.Option("--ignored", help="Ignored studies only.")] = False,
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the newest studies with their state.

    For ignored studies, with the reason.
    """
    condition = "WHERE state = 'ignored' " if ignored else ""
    sql = (
        "SELECT study_instance_uid, accession_number, study_date, state, reason, instance_count, revision, last_received_at"
        f" FROM v_studies {condition}ORDER BY last_received_at DESC LIMIT {limit}"
    )
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json)


def _print_query(config: Config, sql: str, *, table: bool, csv: bool, json: bool) -> None:
    form = choose_format(table=table, csv=csv, json=json)
    from adapters.catalog import query as reading
    from adapters.catalog import schema

    schema.verify(config.catalog.url)
    columns, rows = reading.run(config.catalog.url, sql)
    write_rows(columns, rows, form)
