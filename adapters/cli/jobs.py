"""`radclipd jobs list | retry`: the queue, and the jobs in quarantine."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag, WideFlag
from adapters.cli.query import LimitOption
from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError

jobs = typer.Typer(help="The queue: list it; retry quarantined jobs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(jobs, name="jobs")


@jobs.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="waiting, running, done or quarantined; default: all but done.")] = "",
    study: Annotated[str, typer.Option(help="Only jobs of this study: Study Instance UID, or accession number.")] = "",
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """List the newest jobs with their state and last error."""
    from pipeline.domain import JobState

    if state and state not in list(JobState):
        raise typer.BadParameter(f"one of {', '.join(JobState)}", param_hint="--state")
    sql = _select_jobs_of_study(study, state, limit) if study else _select_jobs(state, limit)
    narrow = ("id", "kind", "subject", "state", "attempts", "run_at", "error")
    query.list_rows(ctx, sql, narrow=() if wide else narrow, table=table, csv=csv, json=json, raw=raw)


def _select_jobs(state: str, limit: int) -> str:
    """Return the SQL of the newest jobs in a state; "": in any but done."""
    from pipeline.domain import JobState

    states = [state] if state else [one.value for one in JobState if one is not JobState.DONE]
    each = (  # one index scan for each state: the many finished jobs are not read
        "SELECT * FROM (SELECT id, kind, subject, state, attempts, run_at, worker, lease_until, error"
        f" FROM v_jobs WHERE state = '{one}' ORDER BY id DESC LIMIT {limit}) AS {one}"
        for one in states
    )
    return f"{' UNION ALL '.join(each)} ORDER BY id DESC LIMIT {limit}"


def _select_jobs_of_study(study: str, state: str, limit: int) -> str:
    """Return the SQL of the newest jobs of a study, of its instances and of its reports; "": in any state, done included."""
    named = query.quote_text(study)
    uids = f"SELECT study_instance_uid FROM v_studies WHERE study_instance_uid = {named} OR accession_number = {named}"
    subjects = " UNION ".join(
        [
            uids,
            *(f"SELECT sop_instance_uid FROM {view} WHERE study_instance_uid IN ({uids})" for view in ("v_instances", "v_reports")),
        ]
    )
    condition = f" AND state = '{state}'" if state else ""
    return (
        "SELECT id, kind, subject, state, attempts, run_at, worker, lease_until, error"
        f" FROM v_jobs WHERE subject IN ({subjects}){condition} ORDER BY id DESC LIMIT {limit}"
    )


@jobs.command()
def retry(
    ctx: typer.Context,
    ids: Annotated[list[int] | None, typer.Argument(help="Job numbers.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every quarantined job.")] = False,
) -> None:
    """Put quarantined jobs back into the queue, with no attempt counted."""
    if bool(ids) == all_:
        raise typer.BadParameter("name job numbers, or --all")
    from pipeline.domain import AuditEvent

    with parts_of(ctx) as parts, parts.catalog.begin() as tx:
        count = tx.jobs.requeue(ids)
        tx.audit(AuditEvent("requeue", "done", "", f"{count} quarantined jobs put back to work"))
    if ids and count < len(set(ids)):
        raise PermanentError(
            f"{len(set(ids)) - count} of {len(set(ids))} are not in quarantine", hint="radclipd jobs list --state quarantined"
        )
    typer.echo(f"{count} jobs queued again")
