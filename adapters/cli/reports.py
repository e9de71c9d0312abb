"""`radclipd reports list | show | resend | shadow | stop | resume | stops | recall`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag, WideFlag
from adapters.cli.query import LimitOption
from adapters.cli.settings import name_user, parts_of
from adapters.cli.shadow import shadow
from pipeline.errors import PermanentError

FindingOption = Annotated[str, typer.Option("--finding", help="One finding, such as Mass; without it: all.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, in words; it stands in the audit, and in withdrawals.")]

reports = typer.Typer(help="Structured reports: list, show, resend; stop, resume, recall.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    reports.command("shadow")(shadow)
    app.add_typer(reports, name="reports")


@reports.command("list")
def list_(
    ctx: typer.Context,
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
    wide: WideFlag = False,
) -> None:
    """List the newest reports with their delivery state."""
    sql = (
        "SELECT sop_instance_uid, study_instance_uid, version, revision, state, withheld, status, created_at, sent_at"
        f" FROM v_reports ORDER BY created_at DESC LIMIT {limit}"
    )
    narrow = ("sop_instance_uid", "study_instance_uid", "version", "state", "created_at")
    query.list_rows(ctx, sql, narrow=() if wide else narrow, table=table, csv=csv, json=json, raw=raw)


@reports.command()
def show(ctx: typer.Context, sop_instance_uid: Annotated[str, typer.Argument(help="SOP Instance UID of the report.")]) -> None:
    """Print one report as text, from the file that was sent."""
    from adapters.dicom.sr.text import lines_of_file
    from pipeline.domain import VisibleKind, VisibleObject

    with parts_of(ctx) as parts:
        with parts.catalog.read() as tx:
            report = tx.reports.find(sop_instance_uid) or tx.reports.find_visible(sop_instance_uid)
        if report is None or report.file is None:
            raise PermanentError(f"no report {sop_instance_uid} with bytes in this catalog", hint="radclipd reports list")
        if isinstance(report, VisibleObject) and report.kind is not VisibleKind.TEXT:
            raise PermanentError(
                f"{sop_instance_uid} is a {report.kind}, whose words are pixels", hint=f"radclipd reports show {report.report}"
            )
        content = parts.images.read(report.file)
    for line in lines_of_file(content):
        typer.echo(line)


@reports.command()
def resend(
    ctx: typer.Context,
    studies: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Instead: what was built since then, local time, and kept by report.deliver.")
    ] = None,
) -> None:
    """Send the newest report of each study again, or belatedly.

    Reports of the silent share are never sent.
    """

    from pipeline import withholding

    if (since is None) == (not studies):
        raise typer.BadParameter("name studies, or --since a time")
    with parts_of(ctx) as parts:
        deliver = parts.config.report.deliver
        if since is not None:
            count = withholding.resend_withheld(
                since=since.astimezone(), source=name_user(), catalog=parts.catalog, deliver=deliver
            )
            typer.echo(f"{count} reports will be sent")
            return
        named = studies or []
        queued = withholding.resend(named, catalog=parts.catalog, deliver=deliver)
    typer.echo(f"{len(queued)} reports will be sent again")
    if len(queued) < len(named):
        raise PermanentError(
            f"{len(named) - len(queued)} of these studies have no report, or belong to the silent share",
            hint="radclipd reports list",
        )


@reports.command()
def stop(ctx: typer.Context, reason: ReasonOption, finding: FindingOption = "") -> None:
    """Stop reporting at once, of all findings or of one.

    A stopped finding is told as not assessed, also in reports that wait to be sent. While all are stopped, studies are scored and
    nothing is built or sent.
    """
    from pipeline import stops

    with parts_of(ctx) as parts:
        stops.stop(_parse_finding(finding), reason=reason, source=name_user(), catalog=parts.catalog)
    typer.echo(f"reporting of {finding or 'all findings'} is stopped")


@reports.command()
def resume(ctx: typer.Context, finding: FindingOption = "") -> None:
    """End a stop. Reports that have waited follow within half a minute."""
    from pipeline import stops

    with parts_of(ctx) as parts:
        stops.resume(_parse_finding(finding), source=name_user(), catalog=parts.catalog)
    typer.echo(f"reporting of {finding or 'all findings'} goes on")


@reports.command("stops")
def list_stops(
    ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, raw: RawFlag = False, json: JsonFlag = False
) -> None:
    """List the stops of reporting, past and present.

    An empty finding: all of them.
    """
    sql = "SELECT finding, reason, source, stopped_at, resumed_at FROM v_report_stops ORDER BY stopped_at DESC"
    query.query(ctx, sql, table=table, csv=csv, json=json)


@reports.command()
def recall(
    ctx: typer.Context,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.")],
    reason: ReasonOption,
) -> None:
    """Withdraw every delivered report of a version.

    The archive gets, for each study, a revision that says so and why.
    """
    from pipeline import stops

    with parts_of(ctx) as parts:
        recalled = stops.recall(version, reason=reason, source=name_user(), catalog=parts.catalog)
    typer.echo(f"{recalled} reports of version {version} are withdrawn")


def _parse_finding(name: str) -> str:
    if not name:
        return ""
    from pipeline.domain import FINDINGS
    from pipeline.finding_names import match_finding

    finding = match_finding(name)
    if finding not in FINDINGS:
        raise PermanentError(f"{name!r} is no finding", hint=f"one of {', '.join(FINDINGS)}")
    return finding
