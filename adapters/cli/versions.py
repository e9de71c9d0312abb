"""`radclipd versions | promote | reject | rollback`: which model version serves. Every change is audited."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli import activity, output, query
from adapters.cli.learn import COLUMNS, measures_of
from adapters.cli.settings import config_of, parts_of
from pipeline.errors import PermanentError

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from pipeline.domain import ModelVersion
    from pipeline.versions import VerifyWeights

NumberArgument = Annotated[int, typer.Argument(metavar="N", help="Number of the version.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (versions, promote, reject, rollback):
        app.command()(verb)


def versions(
    ctx: typer.Context,
    number: Annotated[int | None, typer.Argument(metavar="[N]", help="One version: what was measured of each finding.")] = None,
    table: output.TableFlag = False,
    csv: output.CsvFlag = False,
    json: output.JsonFlag = False,
) -> None:
    """List the model versions, and what is under way.

    Each with its state and the reason for it; of one, the measures (--json: the whole card).
    """
    if number is None:
        sql = (
            "SELECT number, state, name, notice, calibrated, created_at, served_at, retired_at, reason"
            " FROM v_model_versions ORDER BY number"
        )
        query.query(ctx, sql, table=table, csv=csv, json=json)
        for line in activity.activity_lines(config_of(ctx).catalog.url):
            typer.echo(line, err=True)
        return
    form = output.choose_format(table=table, csv=csv, json=json)
    with parts_of(ctx) as parts, parts.catalog.read() as tx:
        version = tx.versions.find(number)
    if version is None:
        raise PermanentError(f"there is no version {number}", hint="radclipd versions")
    if form is output.Format.JSON:
        _print_card(version)
        return
    typer.echo(_format_version(version), err=True)
    output.write_rows(COLUMNS, measures_of(version), form)


def promote(ctx: typer.Context, number: NumberArgument) -> None:
    """Let a version serve, in place of the one that does. Its files are loaded and proved first."""
    from pipeline import versions as steps

    with parts_of(ctx) as parts:
        verify = _make_prover(parts.config)
        typer.echo(_format_version(steps.promote(number, catalog=parts.catalog, verify=verify, source=_name_user())))


def reject(
    ctx: typer.Context,
    number: NumberArgument,
    because: Annotated[str, typer.Option(help="The reason, which is kept with the version.")],
) -> None:
    """Put a version aside that does not serve."""
    from pipeline import versions as steps

    if not because.strip():
        raise typer.BadParameter("say why", param_hint="--because")
    with parts_of(ctx) as parts:
        typer.echo(_format_version(steps.reject(number, reason=because.strip(), catalog=parts.catalog, source=_name_user())))


def rollback(
    ctx: typer.Context, because: Annotated[str, typer.Option(help="The reason, which is kept with the version.")] = "rolled back"
) -> None:
    """Reject the serving version: the one before serves again."""
    from pipeline import versions as steps

    with parts_of(ctx) as parts:
        before = steps.rollback(
            reason=because.strip() or "rolled back",
            catalog=parts.catalog,
            verify=_make_prover(parts.config),
            source=_name_user(),
        )
    typer.echo(f"version {before.number} serves again: {before.name}")


def _format_version(version: ModelVersion) -> str:
    notice = f"  {version.notice}" if version.notice else ""
    reason = f": {version.reason}" if version.reason else ""
    return f"version {version.number}  {version.name}  {version.state.value}{notice}{reason}"


def _print_card(version: ModelVersion) -> None:
    from dataclasses import asdict
    from json import dump

    dump(asdict(version), sys.stdout, indent=2)
    sys.stdout.write("\n")


def _make_prover(config: Config) -> VerifyWeights:
    """Load a version as serving would, on the device that serves."""

    def prove(version: ModelVersion) -> object:
        from adapters.ml.scorer import load_scorer

        return load_scorer(
            version,
            config.model.directory,
            device=config.model.device,
            batch_size=config.score.batch_size,
            threads=config.score.threads,
        )

    return prove


def _name_user() -> str:
    """Name the user of this terminal for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"
