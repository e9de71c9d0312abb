"""`radclipd status`, `show` and `audit`: the daemon, one study, and the audit table on a terminal of 80 columns."""

from __future__ import annotations

import json as json_format
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import query
from adapters.cli.output import WIDTH, CsvFlag, JsonFlag, RawFlag, TableFlag, WideFlag, format_cell, shorten_uids
from adapters.cli.query import LimitOption
from adapters.cli.settings import parts_of
from pipeline.errors import RadclipdError

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from pipeline.overview import DaemonOverview, StudyOverview
    from pipeline.statements import StudyStatement

IDENTITY = ("patient_id", "issuer_of_patient_id")
"""Columns that `show` leaves out: they belong to `radclipd query`."""
GIGABYTE = 1e9

ObjectFlag = Annotated[bool, typer.Option("--json", help="One JSON object.")]

audit = typer.Typer(help="The audit table: list it, verify its chain.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (status, show):
        app.command()(verb)
    app.add_typer(audit, name="audit")


def status(ctx: typer.Context, json: ObjectFlag = False, wide: WideFlag = False) -> None:
    """Print the state of the daemon on one screen.

    Arrivals, queue, serving version, archives, disk, learning, last errors.
    """
    from pipeline.overview import describe_daemon

    with parts_of(ctx) as parts:
        with parts.catalog.read() as tx:
            found = describe_daemon(tx)
        lines = list(_describe_state(found, parts))
    if json:
        _write_json(found)
        return
    write_lines(lines, wide=wide)


def show(
    ctx: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, or accession number.")],
    json: ObjectFlag = False,
    wide: WideFlag = False,
) -> None:
    """Print all that is known of one study.

    States, what is told of its findings, labels, reports, jobs, events.
    """
    from adapters.app.report_policies import report_policy
    from pipeline.overview import describe_study, find_study_uid

    with parts_of(ctx) as parts, parts.catalog.read() as tx:
        found = describe_study(find_study_uid(study, tx), tx, report_policy(parts.config))
    if json:
        _write_json(found)
        return
    write_lines(list(_describe_study(found)), wide=wide, wrap=True)


@audit.command("list")
def list_(
    ctx: typer.Context,
    limit: LimitOption = 50,
    action: Annotated[str, typer.Option(help="Only this action, such as promote or label.")] = "",
    outcome: Annotated[str, typer.Option(help="done, refused or failed.")] = "",
    subject: Annotated[str, typer.Option(help='Only this UID, or "version N".')] = "",
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """List the newest audit events."""
    wanted = {"action": action, "outcome": outcome, "subject": subject}
    conditions = [f"{name} = {query.quote_text(value)}" for name, value in wanted.items() if value]
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    sql = f"SELECT at, action, outcome, subject, detail, source FROM v_audit {where}ORDER BY id DESC LIMIT {limit}"
    narrow = ("at", "action", "outcome", "subject", "detail")
    query.list_rows(ctx, sql, narrow=() if wide else narrow, table=table, csv=csv, json=json, raw=raw)


def _describe_state(found: DaemonOverview, parts: Parts) -> Iterator[str]:
    queue, archive = found.queue, found.archive
    arrived = ", ".join(f"{count} {state}" for state, count in sorted(found.arrived.items())) or "none"
    yield f"arrived in 24 h   {arrived}"
    done = ", ".join(f"{step.last_hour} {step.name}" for step in found.flow if step.last_hour)
    yield f"in the last hour  {done or 'nothing'}"
    waiting = ", ".join(f"{count} {kind.value} {state.value}" for (kind, state), count in sorted(queue.jobs.items()) if count)
    yield f"queue             {waiting or 'empty'}"
    serving = f"version {queue.serving} since {_format_moment(queue.serving_since)}" if queue.serving is not None else "NO VERSION"
    yield f"serving           {serving}{f' ({queue.notice})' if queue.notice else ''}"
    circuits = f"out of reach: {', '.join(sorted(queue.open_circuits))}" if queue.open_circuits else "in reach"
    yield f"archive           {circuits}"
    if parts.config.report.deliver != "all":
        yield f"reports           {parts.config.report.deliver}: nothing leaves"
    yield f"disk              {_describe_disk(found, parts)}"
    yield f"studies           {', '.join(f'{count} {state.value}' for state, count in archive.studies.items() if count) or 'none'}"
    yield f"labels            {sum(archive.labels.values())}; {archive.open_requests} studies asked for and not read"
    yield f"learning          {_describe_learning(found, parts)}"
    for one in found.drift:
        yield f"drift             {one.finding}: {one.share:.1%} of the newest studies, {one.share_before:.1%} of those before"
    for event in found.errors:
        yield f"{event['outcome']:17} {_format_moment(event['at'])} {event['action']} {event['subject']}: {event['detail']}"


def _describe_disk(found: DaemonOverview, parts: Parts) -> str:
    try:
        free = parts.images.free_bytes()
    except RadclipdError as error:
        return str(error)
    days = f", {free / found.bytes_per_day:.0f} days at the rate of the last week" if found.bytes_per_day else ""
    return f"{free / GIGABYTE:.1f} GB free{days}"


def _describe_learning(found: DaemonOverview, parts: Parts) -> str:
    wanted, queue = parts.config.learn, found.queue
    if queue.stage is not None:
        return f"{queue.stage.name}, {queue.stage.done} of {queue.stage.total}"
    last = f"; last: {queue.last_round.result}, {_format_moment(queue.last_round.ended_at)}" if queue.last_round else ""
    when = f'"{wanted.cron}" UTC' if wanted.cron else "never by itself"
    return f"{found.new_labels} of {wanted.min_new_labels} new labels, looked at {when}{last}"


def _describe_study(found: StudyOverview) -> Iterator[str]:
    for name, value in found.study.items():
        if name not in IDENTITY and value not in ("", None):
            yield f"{name:22} {_format_value(value)}"
    if found.request:
        yield f"{'asked for':22} {found.request['selection_reason']}: {found.request['reason']}"
    if found.statement:
        yield from ("", *describe_statement(found.statement))
    yield from _describe_rows("labels", found.labels, ("stated_at", "finding", "state", "reader", "source", "exposure"))
    yield from _describe_rows(
        "reports", found.reports, ("created_at", "state", "version", "revision", "status", "sop_instance_uid")
    )
    yield from _describe_rows("jobs", found.jobs, ("created_at", "id", "kind", "state", "attempts", "error"))
    yield from _describe_rows("events", found.events, ("at", "action", "outcome", "source", "detail"))


def describe_statement(statement: StudyStatement) -> Iterator[str]:
    """Yield what is told of a study: marking, summary, findings."""
    yield from filter(None, (statement.title, statement.research_only, statement.notice, statement.version_line))
    yield from ("", *statement.summary, "", *(one.sentence for one in statement.findings))


def _describe_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", title)
    cells = [[_format_value(row[name]) for name in columns] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        yield "  " + " ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def write_lines(lines: Sequence[str], *, wide: bool, wrap: bool = False) -> None:
    """Print lines; unless `wide` they have at most WIDTH characters, with short UIDs: they are wrapped, or else cut."""
    for line in lines:
        text = format_cell(line)
        for part in [text] if wide else _wrap_line(text) if wrap else [_cut_line(text)]:
            typer.echo(part)


def _wrap_line(line: str) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(shorten_uids(line), WIDTH, subsequent_indent=f"{indent}    ", replace_whitespace=False) or [""]


def _cut_line(line: str) -> str:
    short = shorten_uids(line)
    return short if len(short) <= WIDTH else short[: WIDTH - 1] + "…"


def _format_value(value: Any) -> str:
    return _format_moment(value) if isinstance(value, datetime) else "" if value is None else str(value)


def _format_moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else "never"


def _write_json(found: DaemonOverview | StudyOverview) -> None:
    json_format.dump(_convert_keys(asdict(found)), sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def _convert_keys(value: Any) -> Any:
    """Return the value with keys that JSON has: parts of a key are joined."""
    if isinstance(value, dict):
        return {" ".join(map(str, key)) if isinstance(key, tuple) else str(key): _convert_keys(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_convert_keys(each) for each in value]
    return value
