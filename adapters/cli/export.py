"""`radclipd export`: a research set without identity."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.extras import require_extra
from adapters.cli.settings import name_user, parts_of

if TYPE_CHECKING:
    from adapters.config.sections import ExportConfig
    from adapters.dicom.deidentification.deidentifier import BurnedInPolicy


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(export)


def export(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    study: Annotated[list[str] | None, typer.Option(metavar="UID", help="Only this study; may be repeated.")] = None,
    labelled: Annotated[bool, typer.Option("--labelled", help="Only studies with labels.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Tables as Parquet too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Export images, labels and predictions without identity.

    PS3.15 Basic Profile by an allow-list, keyed pseudonyms, moved dates.
    """
    if parquet:
        require_extra("lab")
    from adapters.dicom.deidentification.deidentifier import RadiographDeidentifier
    from adapters.storage.export_folders import FileExportWriter
    from pipeline.export import ExportChoice
    from pipeline.export import export as export_studies

    with parts_of(ctx) as parts:
        result = export_studies(
            ExportChoice(studies=study or (), labelled=labelled),
            catalog=parts.catalog,
            images=parts.images,
            deidentifier=RadiographDeidentifier(_read_policy(parts.config.export)),
            writer=FileExportWriter(out, parquet=parquet),
            source=name_user(),
        )
    if json:
        typer.echo(json_format.dumps(asdict(result), indent=2))
        return
    typer.echo(f"{result.images} images of {result.studies} studies and {result.patients} patients in {result.directory}")
    typer.echo(f"{result.labels} labels, {result.predictions} predictions")
    for reason, count in sorted(result.left_out.items()):
        typer.echo(f"left out: {count} images: {reason}")


def _read_policy(config: ExportConfig) -> BurnedInPolicy:
    from adapters.config.types import parse_region
    from adapters.dicom.deidentification.deidentifier import BurnedInPolicy, MaskRegion

    return BurnedInPolicy(action=config.burned_in, regions=[MaskRegion(*parse_region(region)) for region in config.mask_regions])
