"""`radclipd forget`: erase one patient, and tell what stays."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.settings import name_user, parts_of

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from pipeline.forget import Erasure, ErasureTools

FROM_STDIN = "-"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(forget)


def forget(
    ctx: typer.Context,
    patient: Annotated[str, typer.Argument(metavar="PATIENT", help='Patient ID; "-" reads it from standard input.')] = "",
    issuer: Annotated[str | None, typer.Option(help="Issuer of Patient ID, where several have this ID.")] = None,
    study: Annotated[str, typer.Option(metavar="UID", help="A study of the patient, in place of the ID.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without a question.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Erase one patient everywhere, and tell what stays and why.

    Studies, images, labels, reports, cached activations, exports. There is no way back.
    """
    from pipeline.forget import PatientChoice
    from pipeline.forget import forget as forget_patient

    if bool(patient) == bool(study):
        raise typer.BadParameter("name a Patient ID, or --study UID")
    if patient == FROM_STDIN:
        patient = sys.stdin.readline().strip()
        if not patient:
            raise typer.BadParameter("standard input holds no Patient ID")
    if not yes:
        typer.confirm("Erase this patient for good?", abort=True, err=True)
    choice = PatientChoice(patient_id=patient, issuer_of_patient_id=issuer, study_instance_uid=study)
    with parts_of(ctx) as parts:
        erasure = forget_patient(choice, catalog=parts.catalog, tools=_open_tools(parts), source=name_user())
    if json:
        typer.echo(json_format.dumps(asdict(erasure), indent=2))
    else:
        _write_erasure(erasure)


def _open_tools(parts: Parts) -> ErasureTools:
    from adapters.ml.activation_files import ActivationFolder
    from adapters.storage.export_folders import FileExportFolders
    from pipeline.forget import ErasureTools

    return ErasureTools(
        images=parts.images,
        activations=ActivationFolder(parts.config.activation_cache.directory),
        exports=FileExportFolders(),
    )


def _write_erasure(erasure: Erasure) -> None:
    typer.echo(f"erased: {', '.join(f'{count} {table}' for table, count in sorted(erasure.rows.items()))}")
    typer.echo(f"        {erasure.files} files, {erasure.activations} cached activations, in {erasure.exports} exports")
    typer.echo(f"audit pseudonym {erasure.pseudonym}: its key is destroyed")
    typer.echo("what stays:")
    for remaining in erasure.remains:
        typer.echo(f"* {remaining}")
