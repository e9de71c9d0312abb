"""`radclipd licences`: the packages that are installed with radclipd, and their licences."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from adapters.cli.output import CsvFlag, JsonFlag, RawFlag, TableFlag, choose_format, write_rows

COLUMNS = ("package", "version", "licence")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(licences)


def licences(
    cyclonedx: Annotated[bool, typer.Option("--cyclonedx", help="A software bill of materials, CycloneDX JSON.")] = False,
    table: TableFlag = False,
    csv: CsvFlag = False,
    raw: RawFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the installed packages and their licences."""
    from adapters.service.software_bill import build_bill, list_packages

    packages = list_packages()
    if cyclonedx:
        typer.echo(json_format.dumps(build_bill(packages), indent=2))
        return
    rows = [(package.name, package.version, package.licence) for package in packages]
    write_rows(COLUMNS, rows, choose_format(table=table, csv=csv, json=json, raw=raw))
