"""`radclipd show`: what is told of a study, as its reports tell it."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.settings import parts_of
from pipeline.errors import PermanentError

if TYPE_CHECKING:
    from pipeline.domain import Prediction
    from pipeline.ports.services import Transaction
    from pipeline.statements import StudyStatement


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(show)


def show(
    ctx: typer.Context,
    study: Annotated[str, typer.Argument(help="Study Instance UID or accession number.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print what is told of a study: summary and findings.

    By the version that scored it last, as its reports tell it.
    """
    from adapters.app.report_policies import report_policy
    from pipeline import report

    with parts_of(ctx) as parts, parts.catalog.read() as tx:
        uid = _find_study(tx, study)
        predictions, number, withdrawal = _load_predictions(tx, uid)
        version = tx.versions.find(number)
        assert version is not None
        statement = report.tell(tx, predictions, version, report_policy(parts.config), withdrawal)
    if json:
        json_format.dump({"study_instance_uid": uid, **asdict(statement)}, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        for line in list_lines(statement):
            typer.echo(line)


def list_lines(statement: StudyStatement) -> list[str]:
    """Return the lines of a statement: marking, summary, findings."""
    head = [statement.title, statement.research_only, *([statement.notice] if statement.notice else []), statement.version_line]
    return [*head, "", *statement.summary, "", *(one.sentence for one in statement.findings)]


def _find_study(tx: Transaction, study: str) -> str:
    if tx.studies.find(study) is not None:
        return study
    found = tx.studies.uids_by_accession_number([study]).get(study, [])
    if len(found) != 1:
        said = f"{len(found)} studies have" if found else "no study has"
        raise PermanentError(f"{said} this UID or accession number", hint="radclipd studies lists them; name a Study Instance UID")
    return found[0]


def _load_predictions(tx: Transaction, uid: str) -> tuple[list[Prediction], int, str]:
    """Return the newest predictions, their version, and why the study's reports are withdrawn."""
    latest, serving = tx.reports.latest(uid), tx.versions.serving()
    numbers = [serving.number] if serving else []
    numbers += [latest.version] if latest else []
    numbers += [version.number for version in reversed(tx.versions.all())]
    for number in numbers:
        if predictions := tx.scores.predictions(uid, number):
            is_latest = latest is not None and latest.version == number
            return predictions, number, latest.withdrawal if is_latest and latest else ""
    raise PermanentError("this study has not been scored", hint="radclipd studies; radclipd jobs list")
