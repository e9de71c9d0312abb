"""`radclipd labels`: readers' labels in and out, and their conflicts."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import query
from adapters.cli.output import CsvFlag, Format, JsonFlag, RawFlag, TableFlag, choose_format, write_rows
from adapters.cli.query import LimitOption
from adapters.cli.settings import name_user, parts_of
from pipeline.errors import InvalidLabels, PermanentError

if TYPE_CHECKING:
    from pipeline.domain import Document
    from pipeline.labels import ImportResult

ReaderOption = Annotated[str, typer.Option(help="The reader who made the statement.")]
SourceOption = Annotated[str, typer.Option(help="The source of the label.")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, or accession number.")]
BlindFlag = Annotated[
    bool, typer.Option("--blind", help="The reader had not seen the model's result, nor any report of it, on these studies.")
]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Check the table, and write nothing.")]

labels = typer.Typer(help="Readers' labels: add, import, list, export, revoke.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(labels, name="labels")


@labels.command()
def add(
    ctx: typer.Context,
    study: StudyArgument,
    findings: Annotated[list[str], typer.Argument(help='Mass (present), Edema=absent, Nodule=uncertain, "No Finding".')],
    reader: ReaderOption,
    at: Annotated[datetime | None, typer.Option(help="Time of the statement, local; default: now.")] = None,
    selection_reason: Annotated[str, typer.Option(help="Why the worklist chose the study.")] = "",
    selection_probability: Annotated[float | None, typer.Option(help="Probability of that choice.")] = None,
    source: SourceOption = "cli",
    blind: BlindFlag = False,
) -> None:
    """Add labels of one reader to one study.

    A later label of the same reader replaces the earlier one.
    """
    from pipeline.domain import LabelExposure, ReaderStatement
    from pipeline.finding_names import parse_findings
    from pipeline.labels import import_readings

    try:
        states = parse_findings(findings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with parts_of(ctx) as parts:
        with parts.catalog.read() as tx:
            is_uid = study in tx.studies.accession_numbers({study})
        reading = ReaderStatement(
            study_instance_uid=study if is_uid else "",
            accession_number="" if is_uid else study,
            findings=states,
            reader=reader.strip(),
            source=source.strip(),
            stated_at=at.astimezone() if at else None,
            selection_reason=selection_reason.strip(),
            selection_probability=selection_probability,
            exposure=LabelExposure.NONE if blind else None,
        )
        try:
            taken = import_readings([reading], catalog=parts.catalog)
        except InvalidLabels as error:
            fault = error.label_faults[0]
            raise PermanentError(f"{fault.column} {fault.value!r} cannot be taken; nothing was", hint=fault.remedy) from error
    typer.echo(_format_result(taken, dry_run=False))


@labels.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV: our template, or in ChestX-ray14's or CheXpert's style; - is standard input.")],
    reader: Annotated[str, typer.Option(help="The reader, if the table has no reader column.")] = "",
    source: SourceOption = "csv",
    unlisted_absent: Annotated[
        bool, typer.Option("--unlisted-absent", help="In a list like Effusion|Mass, unlisted findings are absent, not unknown.")
    ] = False,
    blind: BlindFlag = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a table with a column that is not used.")] = False,
    dry_run: DryRunFlag = False,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """Import a table of labels: all of it or nothing.

    Faults are printed, each with its row.
    """
    form = choose_format(table=table, csv=csv, json=json, raw=raw)
    from adapters.label_csv.importer import WARNING, ImportDefaults, import_table
    from pipeline.domain import LabelExposure, LabelState

    unlisted = LabelState.ABSENT if unlisted_absent else None
    exposure = LabelExposure.NONE if blind else None
    defaults = ImportDefaults(
        reader=reader.strip(), source=source.strip(), unlisted_state=unlisted, exposure=exposure, strict=strict
    )
    content = _read_content(file)
    with parts_of(ctx) as parts:
        try:
            taken, notes = import_table(content, defaults, catalog=parts.catalog, dry_run=dry_run)
        except InvalidLabels as error:
            faults = [(str(file), fault.row, fault.column, fault.value[:60], fault.remedy) for fault in error.label_faults]
            write_rows(("file", "row", "column", "value", "remedy"), faults, form)
            raise
    typer.echo(_format_result(taken, dry_run=dry_run))
    for note in notes:  # last: what stands there must not be missed
        typer.echo(typer.style(note, fg="red", bold=True) if note.startswith(WARNING) else note, err=True)


@labels.command("list")
def list_(
    ctx: typer.Context,
    study: Annotated[str, typer.Option(help="Only this study: its UID or accession number.")] = "",
    reader: Annotated[str, typer.Option(help="Only this reader.")] = "",
    finding: Annotated[str, typer.Option(help="Only this finding.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Also revoked and replaced labels.")] = False,
    limit: LimitOption = 50,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the newest labels in force."""
    query.query(ctx, _build_list_query(study, reader, finding, every, limit), table=table, csv=csv, json=json, raw=raw)


@labels.command()
def conflicts(
    ctx: typer.Context, table: TableFlag = False, csv: CsvFlag = False, raw: RawFlag = False, json: JsonFlag = False
) -> None:
    """List findings on which readers disagree, with the consensus.

    The consensus follows labels.policy.
    """
    form = choose_format(table=table, csv=csv, json=json, raw=raw)
    from adapters.app.policies import label_policy
    from pipeline.consensus import resolve_consensus

    with parts_of(ctx) as parts, parts.catalog.read() as tx:
        conflicting = resolve_consensus(
            tx.labels.of_studies(tx.labels.multi_reader_studies()), label_policy(parts.config)
        ).conflicts
        numbers = tx.studies.accession_numbers({one.study_instance_uid for one in conflicting})
    rows = [
        (
            one.study_instance_uid,
            numbers[one.study_instance_uid],
            one.finding,
            one.state.value,
            parts.config.labels.policy,
            _format_votes(one.votes),
        )
        for one in conflicting
    ]
    write_rows(("study_instance_uid", "accession_number", "finding", "consensus", "policy", "votes"), rows, form)


@labels.command()
def export(ctx: typer.Context, raw: RawFlag = False) -> None:
    """Print all labels in force, as CSV for `labels import`."""
    from adapters.label_csv.exporter import EXPORT_COLUMNS, exported_rows
    from pipeline.consensus import labels_in_force
    from pipeline.domain import AuditEvent

    with parts_of(ctx) as parts, parts.catalog.begin() as tx:
        in_force = labels_in_force(tx.labels.all())
        numbers = tx.studies.accession_numbers({label.study_instance_uid for label in in_force})
        tx.audit(AuditEvent("export", "done", "", f"{len(in_force)} labels", name_user()))
    write_rows(EXPORT_COLUMNS, exported_rows(in_force, numbers), Format.RAW_CSV if raw else Format.CSV)


@labels.command()
def template(ctx: typer.Context, studies: Annotated[list[str] | None, typer.Argument(help="Study Instance UIDs.")] = None) -> None:
    """Print a table to fill in, with a row for each study."""
    from adapters.label_csv.exporter import TEMPLATE_COLUMNS, empty_rows

    numbers: dict[str, str] = {}
    if studies:
        with parts_of(ctx) as parts, parts.catalog.read() as tx:
            known = tx.studies.accession_numbers(studies)
        if unknown := [study for study in studies if study not in known]:
            raise PermanentError(f"{len(unknown)} of {len(studies)} studies are not in the catalog", hint="radclipd studies")
        numbers = {study: known[study] for study in studies}
    write_rows(TEMPLATE_COLUMNS, empty_rows(numbers), Format.CSV)


@labels.command()
def revoke(
    ctx: typer.Context,
    ids: Annotated[list[int], typer.Argument(help="Label numbers, as in `labels list`.")],
    reader: ReaderOption,
) -> None:
    """Revoke labels. They stay on record, and count no more."""
    from pipeline.labels import withdraw

    if not reader.strip():
        raise typer.BadParameter("name the reader who revokes", param_hint="--reader")
    with parts_of(ctx) as parts:
        revoked = withdraw(ids, reader=reader.strip(), source="cli", catalog=parts.catalog)
    others = sorted({label.reader for label in revoked} - {reader.strip()})
    foreign = sum(label.reader != reader.strip() for label in revoked)
    typer.echo(
        f"{len(revoked)} labels revoked" + (f", {foreign} of them by another reader: {', '.join(others)}" if foreign else "")
    )


@labels.command()
def explain(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(metavar="FILE_OR_UID", help="A DICOM file, or the SOP Instance UID of an SR or KOS.")],
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show the labels of an SR or KOS, or why it has none.

    By the rules of [labels]. Nothing is written.
    """
    form = choose_format(table=table, csv=csv, json=json, raw=raw)
    read = _read_document(ctx, document)
    if read.reason:
        raise PermanentError(f"no label in this document: {read.reason}", hint="the documents that count: deploy/docs/labelling.md")
    rows = [
        (r.study_instance_uid, f, s.value, r.reader, r.source, r.stated_at) for r in read.readings for f, s in r.findings.items()
    ]
    write_rows(("study_instance_uid", "finding", "state", "reader", "source", "stated_at"), rows, form)


@labels.command()
def reread(ctx: typer.Context) -> None:
    """Read every SR and KOS in the catalog again.

    For use after a change of [labels]. Known labels are not added twice.
    """
    from pipeline.labels import enqueue_documents as enqueue

    with parts_of(ctx) as parts:
        count = enqueue(catalog=parts.catalog)
    typer.echo(f"{count} documents will be read")


def _read_content(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise PermanentError(f"{file}: {error.strerror}", hint="name a CSV file that you can read") from error


def _read_document(ctx: typer.Context, document: str) -> Document:
    with parts_of(ctx) as parts:
        if Path(document).is_file():
            return parts.documents.read(_read_content(Path(document)))
        with parts.catalog.read() as tx:
            instance = tx.studies.find_instance(document)
        if instance is None:
            raise PermanentError(
                f"{document} is neither a file nor an instance in the catalog", hint="radclipd query 'select * from v_instances'"
            )
        return parts.documents.read(parts.images.read(instance.file))


def _format_result(taken: ImportResult, *, dry_run: bool) -> str:
    verb = "would be added" if dry_run else "added"
    return f"{taken.added} labels on {taken.studies} studies {verb}, {taken.known} known already"


def _format_votes(votes: Any) -> str:
    return "; ".join(f"{vote.reader}: {vote.state.value} ({vote.stated_at:%Y-%m-%d})" for vote in votes)


def _build_list_query(study: str, reader: str, finding: str, every: bool, limit: int) -> str:
    conditions = [] if every else ["revoked = 0"]
    if study:
        named = " UNION ALL ".join(
            f"SELECT study_instance_uid FROM v_studies WHERE {column} = {_quote_literal(study)}"
            for column in ("study_instance_uid", "accession_number")
        )
        conditions.append(f"study_instance_uid IN ({named})")
    if reader:
        conditions.append(f"reader = {_quote_literal(reader)}")
    if finding:
        conditions.append(f"finding = {_quote_literal(_parse_finding(finding))}")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    columns = (
        "id, study_instance_uid, accession_number, finding, state, reader, source, stated_at, selection_reason,"
        " selection_probability, exposure"
    )
    return f"SELECT {columns}{', revoked' if every else ''} FROM v_labels{where} ORDER BY id DESC LIMIT {limit}"


def _parse_finding(name: str) -> str:
    from pipeline.domain import FINDINGS
    from pipeline.finding_names import match_finding

    found = match_finding(name)
    if found not in FINDINGS:
        raise typer.BadParameter(f"one of {', '.join(FINDINGS)}", param_hint="--finding")
    return found


def _quote_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
