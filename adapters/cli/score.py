"""`radclipd score`: what the serving version tells of DICOM files, without a daemon."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.output import WideFlag
from adapters.cli.overview import ObjectFlag, describe_statement, write_lines
from adapters.cli.settings import config_of
from adapters.service.exit_codes import FAILED

if TYPE_CHECKING:
    from adapters.app.file_scoring import FileFault, FileScorer
    from pipeline.file_scoring import ScoredStudy


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(score)


@dataclass(slots=True)
class _Results:
    """What was found, in the order of finding it."""

    studies: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, str]] = field(default_factory=list)

    def add_fault(self, fault: FileFault) -> None:
        """Keep a fault, and print it."""
        self.faults.append({"file": str(fault.file), "reason": fault.reason, "remedy": fault.remedy})
        typer.echo(f"radclipd: {fault.file}: {fault.reason}" + (f"  hint: {fault.remedy}" if fault.remedy else ""), err=True)


def score(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE|FOLDER...", help="DICOM files; folders with all below them.")],
    sr: Annotated[Path | None, typer.Option("--sr", metavar="OUT", help="Write the SR and its visible objects here.")] = None,
    json: ObjectFlag = False,
    wide: WideFlag = False,
) -> None:
    """Score DICOM files, without a daemon.

    The version that serves tells the same as in a report. The catalog is read and not written; nothing is sent. Each run makes new
    objects, with new UIDs. A file that cannot be scored is named with the reason, all others are scored, and the exit status is 1.
    """
    config = config_of(ctx)
    from adapters.app.file_scoring import open_file_scorer

    results = _Results()
    with open_file_scorer(config) as scorer:
        version = scorer.scoring.version
        for study in scorer.score(files, results.add_fault):
            row = _describe_study(study, _write_objects(scorer, study, sr, results))
            results.studies.append(row)
            if not json:
                write_lines([*_format_study(row, study), ""], wide=wide, wrap=True)
    if json:
        head = {"version": version.number, "version_name": version.name, "notice": version.notice}
        json_format.dump(head | asdict(results), sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    if results.faults:
        raise typer.Exit(FAILED)


def _write_objects(scorer: FileScorer, study: ScoredStudy, folder: Path | None, results: _Results) -> Sequence[Path]:
    """Write the objects of a scored study. One that no report can be built of is a fault of its first file."""
    from adapters.app.file_scoring import FileFault, locate
    from pipeline.errors import ReportImpossible

    if folder is None or study.statement is None:
        return ()
    try:
        return scorer.write_objects(study, folder)
    except ReportImpossible as error:
        results.add_fault(FileFault(locate(study.images[0]), str(error), error.hint))
        return ()


def _describe_study(study: ScoredStudy, objects: Sequence[Path]) -> dict[str, Any]:
    from adapters.app.file_scoring import locate

    return {
        "study_instance_uid": study.study_instance_uid,
        "state": study.state.value,
        "reason": study.reason,
        "files": [str(locate(image)) for image in study.images],
        "statement": asdict(study.statement) if study.statement else None,
        "objects": list(map(str, objects)),
    }


def _format_study(row: dict[str, Any], study: ScoredStudy) -> Iterator[str]:
    yield f"{row['study_instance_uid']}  {row['state']}" + (f": {row['reason']}" if row["reason"] else "")
    yield from (f"  scored  {file}" for file in row["files"])
    yield from (f"  written {file}" for file in row["objects"])
    if study.statement is not None:
        yield from (f"  {line}".rstrip() for line in describe_statement(study.statement))
