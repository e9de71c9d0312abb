"""`radclipd labels`: what readers say, in and out, and where they disagree."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, Format, JsonFlag, TableFlag, chosen, write_rows
from adapters.cli.query import Limit
from adapters.cli.settings import config_of
from pipeline.errors import BadLabels, Refused

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from pipeline.domain import Document
    from pipeline.labels import Taken

Reader = Annotated[str, typer.Option(help="Whose word it is.")]
Source = Annotated[str, typer.Option(help="How it came in.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, or accession number.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look at everything and write nothing.")]

labels = typer.Typer(help="What readers say of findings.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(labels, name="labels")


@labels.command()
def add(
    ctx: typer.Context,
    study: Study,
    findings: Annotated[list[str], typer.Argument(help='Mass (which is present), Edema=absent, Nodule=uncertain, "No Finding".')],
    reader: Reader,
    at: Annotated[datetime | None, typer.Option(help="When it was said, local time; default: now.")] = None,
    asked_because: Annotated[str, typer.Option(help="Why the worklist asked for it.")] = "",
    selection_probability: Annotated[float | None, typer.Option(help="With which the worklist chose the study.")] = None,
    source: Source = "cli",
) -> None:
    """Add what one reader says of one study. A later word of the same reader takes the place of the earlier one."""
    from pipeline.domain import Reading
    from pipeline.finding_names import findings_said
    from pipeline.labels import take

    try:
        said = findings_said(findings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _catalog_of(ctx) as (_, catalog):
        with catalog.read() as tx:
            is_uid = study in tx.studies.accession_numbers({study})
        reading = Reading(
            study_instance_uid=study if is_uid else "",
            accession_number="" if is_uid else study,
            findings=said,
            reader=reader.strip(),
            source=source.strip(),
            stated_at=at.astimezone() if at else None,
            asked_because=asked_because.strip(),
            selection_probability=selection_probability,
        )
        try:
            taken = take([reading], catalog=catalog)
        except BadLabels as error:
            fault = error.faults[0]
            raise Refused(f"{fault.column} {fault.value!r} cannot be taken; nothing was", hint=fault.remedy) from error
    typer.echo(_told(taken, dry_run=False))


@labels.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: our own template, ChestX-ray14's or CheXpert's style; - for standard input.")],
    reader: Annotated[str, typer.Option(help="Whose word it is, where the table has no reader column.")] = "",
    source: Source = "csv",
    unlisted_absent: Annotated[
        bool, typer.Option("--unlisted-absent", help="In a list like Effusion|Mass, what is not listed is absent, not unknown.")
    ] = False,
    dry_run: DryRun = False,
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """Import a table: all of it or nothing.

    Where anything is wrong, every fault is printed with its row.
    """
    form = chosen(table=table, csv=csv, json=json)
    from adapters.label_csv.importer import Defaults, import_table
    from pipeline.domain import LabelState

    unlisted = LabelState.ABSENT if unlisted_absent else None
    defaults = Defaults(reader=reader.strip(), source=source.strip(), unlisted=unlisted)
    content = _content_of(file)
    with _catalog_of(ctx) as (_, catalog):
        try:
            taken, notes = import_table(content, defaults, catalog=catalog, dry_run=dry_run)
        except BadLabels as error:
            faults = [(str(file), fault.row, fault.column, fault.value[:60], fault.remedy) for fault in error.faults]
            write_rows(("file", "row", "column", "value", "remedy"), faults, form)
            raise
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(_told(taken, dry_run=dry_run))


@labels.command("list")
def list_(
    ctx: typer.Context,
    study: Annotated[str, typer.Option(help="Only this study: its UID or accession number.")] = "",
    reader: Annotated[str, typer.Option(help="Only this reader.")] = "",
    finding: Annotated[str, typer.Option(help="Only this finding.")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Also what was revoked, or followed by the same reader's later word.")
    ] = False,
    limit: Limit = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the newest statements that stand."""
    query.query(ctx, _listing(study, reader, finding, every, limit), table=table, csv=csv, json=json)


@labels.command()
def conflicts(ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, json: JsonFlag = False) -> None:
    """List what readers disagree on, and what holds by labels.policy."""
    form = chosen(table=table, csv=csv, json=json)
    from adapters.app.compose import label_policy
    from pipeline.consensus import resolve

    with _catalog_of(ctx) as (config, catalog), catalog.read() as tx:
        disputed = resolve(tx.labels.of_studies(tx.labels.read_by_several()), label_policy(config)).conflicts
        numbers = tx.studies.accession_numbers({one.study_instance_uid for one in disputed})
    rows = [
        (
            one.study_instance_uid,
            numbers[one.study_instance_uid],
            one.finding,
            one.state.value,
            config.labels.policy,
            _votes(one.votes),
        )
        for one in disputed
    ]
    write_rows(("study_instance_uid", "accession_number", "finding", "holds", "policy", "votes"), rows, form)


@labels.command()
def export(ctx: typer.Context) -> None:
    """Print all statements that stand, as CSV for `import`."""
    from adapters.label_csv.exporter import EXPORTED, exported_rows
    from pipeline.consensus import standing

    with _catalog_of(ctx) as (_, catalog), catalog.read() as tx:
        stand = standing(tx.labels.all())
        numbers = tx.studies.accession_numbers({label.study_instance_uid for label in stand})
    write_rows(EXPORTED, exported_rows(stand, numbers), Format.CSV)


@labels.command()
def template(ctx: typer.Context, studies: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs.")] = None) -> None:
    """Print a table to fill in, a row for each study named."""
    from adapters.label_csv.exporter import TO_FILL_IN, empty_rows

    numbers: dict[str, str] = {}
    if studies:
        with _catalog_of(ctx) as (_, catalog), catalog.read() as tx:
            known = tx.studies.accession_numbers(studies)
        if unknown := [study for study in studies if study not in known]:
            raise Refused(f"{len(unknown)} of {len(studies)} studies are not in the catalog", hint="radclipd studies")
        numbers = {study: known[study] for study in studies}
    write_rows(TO_FILL_IN, empty_rows(numbers), Format.CSV)


@labels.command()
def revoke(
    ctx: typer.Context, ids: Annotated[list[int], typer.Argument(help="Numbers, as `labels list` shows them.")], reader: Reader
) -> None:
    """Withdraw statements. They stay on record; what they said holds no more."""
    from pipeline.labels import withdraw

    if not reader.strip():
        raise typer.BadParameter("name who withdraws", param_hint="--reader")
    with _catalog_of(ctx) as (_, catalog):
        count = withdraw(ids, reader=reader.strip(), source="cli", catalog=catalog)
    typer.echo(f"{count} statements withdrawn")


@labels.command()
def explain(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(metavar="FILE_OR_UID", help="A DICOM file, or the SOP Instance UID of an SR or KOS.")],
    table: TableFlag = False,
    csv: CsvFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show what labels an SR or KOS gives, or why none.

    By [labels]. Nothing is written.
    """
    form = chosen(table=table, csv=csv, json=json)
    read = _document_of(ctx, document)
    if read.reason:
        raise Refused(f"no label in this document: {read.reason}", hint="deploy/docs/labelling.md names the documents that count")
    rows = [
        (r.study_instance_uid, f, s.value, r.reader, r.source, r.stated_at) for r in read.readings for f, s in r.findings.items()
    ]
    write_rows(("study_instance_uid", "finding", "state", "reader", "source", "stated_at"), rows, form)


@labels.command()
def reread(ctx: typer.Context) -> None:
    """Have every SR and KOS in the catalog read again.

    After a change of [labels]. What they have said is not said twice.
    """
    from pipeline.labels import reread as enqueue

    with _catalog_of(ctx) as (_, catalog):
        count = enqueue(catalog=catalog)
    typer.echo(f"{count} documents will be read")


@contextmanager
def _catalog_of(ctx: typer.Context) -> Iterator[tuple[Config, SqlCatalog]]:
    config = config_of(ctx)
    from adapters.app.compose import open_catalog

    catalog = open_catalog(config)
    try:
        yield config, catalog
    finally:
        catalog.dispose()


def _content_of(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}", hint="name a CSV file that you can read") from error


def _document_of(ctx: typer.Context, document: str) -> Document:
    with _catalog_of(ctx) as (config, catalog):
        from adapters.app.compose import open_documents, open_image_store

        if Path(document).is_file():
            return open_documents(config).read(_content_of(Path(document)))
        with catalog.read() as tx:
            instance = tx.studies.find_instance(document)
        if instance is None:
            raise Refused(
                f"{document} is neither a file nor an instance in the catalog", hint="radclipd query 'select * from v_instances'"
            )
        return open_documents(config).read(open_image_store(config).read(instance.file))


def _told(taken: Taken, *, dry_run: bool) -> str:
    verb = "would be added" if dry_run else "added"
    return f"{taken.added} statements on {taken.studies} studies {verb}, {taken.known} known already"


def _votes(votes: Any) -> str:
    return "; ".join(f"{vote.reader}: {vote.state.value} ({vote.stated_at:%Y-%m-%d})" for vote in votes)


def _listing(study: str, reader: str, finding: str, every: bool, limit: int) -> str:
    conditions = [] if every else ["revoked = 0"]
    if study:
        named = " UNION ALL ".join(
            f"SELECT study_instance_uid FROM v_studies WHERE {column} = {_quoted(study)}"
            for column in ("study_instance_uid", "accession_number")
        )
        conditions.append(f"study_instance_uid IN ({named})")
    if reader:
        conditions.append(f"reader = {_quoted(reader)}")
    if finding:
        conditions.append(f"finding = {_quoted(_finding(finding))}")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = (
        "id, study_instance_uid, accession_number, finding, state, reader, source, stated_at, asked_because, selection_probability"
    )
    return f"SELECT {columns}{', revoked' if every else ''} FROM v_labels{where} ORDER BY id DESC LIMIT {limit}"


def _finding(name: str) -> str:
    from pipeline.domain import FINDINGS
    from pipeline.finding_names import finding_named

    found = finding_named(name)
    if found not in FINDINGS:
        raise typer.BadParameter(f"one of {', '.join(FINDINGS)}", param_hint="--finding")
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
