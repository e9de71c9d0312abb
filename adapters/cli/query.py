"""`radclipd query`; listings run their SQL through `query`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag, choose_format, write_rows
from adapters.cli.settings import config_of

if TYPE_CHECKING:
    from adapters.config.sections import Config

LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="Newest rows only.")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(query)


def quote_text(value: str) -> str:
    """Return a text as an SQL literal."""
    escaped = value.replace("\0", "").replace("'", "''")
    return f"'{escaped}'"


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help='One reading statement, as "select * from v_studies".')],
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Stop the statement after this many seconds.")] = 60,
) -> None:
    """Query the results database. The connection is read-only."""
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json, raw=raw, max_seconds=max_seconds)


def list_rows(ctx: typer.Context, sql: str, *, narrow: Sequence[str], table: bool, csv: bool, json: bool, raw: bool) -> None:
    """Print the rows of a listing; `narrow`: the columns of its table, see `adapters.cli.output.write_rows`."""
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json, raw=raw, narrow=narrow)


def _print_query(
    config: Config,
    sql: str,
    *,
    table: bool,
    csv: bool,
    json: bool,
    raw: bool,
    max_seconds: float = 60,
    narrow: Sequence[str] = (),
) -> None:
    form = choose_format(table=table, csv=csv, json=json, raw=raw)
    from adapters.catalog import query as reading
    from adapters.catalog import schema

    schema.verify(config.catalog.url)
    columns, rows = reading.run(config.catalog.url, sql, max_seconds=max_seconds)
    write_rows(columns, rows, form, narrow=narrow)
