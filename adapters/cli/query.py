"""`radclipd query`, and the listings that are queries with a name: studies, reports, jobs."""

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
    for verb in (query, studies, jobs):
        app.command()(verb)


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help='One reading statement, e.g. "select * from v_studies".')],
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """Ask the results database. The connection itself refuses to write."""
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json)


def studies(
    ctx: typer.Context, limit: LimitOption = 50, table: TableFlag = False, csv: CsvFlag = False, json: JsonFlag = False
) -> None:
    """List the studies that arrived last, and their states.

    Of those that were ignored, the reason.
    """
    sql = (
        "SELECT study_instance_uid, accession_number, study_date, state, reason, instance_count, revision, last_received_at"
        f" FROM v_studies ORDER BY last_received_at DESC LIMIT {limit}"
    )
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json)


def jobs(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="waiting, running, done or quarantined; default: all but done.")] = "",
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """List jobs: what waits, what runs, what was set aside and why."""
    from pipeline.domain import JobState

    if state and state not in list(JobState):
        raise typer.BadParameter(f"one of {', '.join(JobState)}", param_hint="--state")
    states = [state] if state else [one.value for one in JobState if one is not JobState.DONE]
    each = (  # each state by its own index: the many that are done are not looked at
        "SELECT * FROM (SELECT id, kind, subject, state, attempts, run_at, worker, lease_until, error"
        f" FROM v_jobs WHERE state = '{one}' ORDER BY id DESC LIMIT {limit}) AS {one}"
        for one in states
    )
    sql = f"{' UNION ALL '.join(each)} ORDER BY id DESC LIMIT {limit}"
    _print_query(config_of(ctx), sql, table=table, csv=csv, json=json)


def _print_query(config: Config, sql: str, *, table: bool, csv: bool, json: bool) -> None:
    form = choose_format(table=table, csv=csv, json=json)
    from adapters.catalog import query as reading
    from adapters.catalog import schema

    schema.verify(config.catalog.url)
    columns, rows = reading.run(config.catalog.url, sql)
    write_rows(columns, rows, form)
