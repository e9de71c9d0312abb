"""The verbs of `radclipd`, one small file a group. Errors are one line and a hint; exit codes: adapters.service.exit_codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.settings import GlobalOptions
from adapters.service.exit_codes import FAILED, exit_code_of
from pipeline.errors import RadclipdError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read by libgomp when torch is loaded. Threads that wait for others sleep: by default they spin, and on a machine with other work
a film takes seconds in place of milliseconds, for the thread that is waited for gets no processor."""

GROUPS = (
    "run",
    "check",
    "db",
    "model",
    "query",
    "quarantine",
    "reports",
    "labels",
    "worklist",
    "learn",
    "versions",
    "backfill",
    "demo",
    "experiment",
)

app = typer.Typer(
    name="radclipd",
    help="DICOM in, CLIP in the middle, DICOM SR out. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [tables] of the configuration stay in the text, and help is there sooner
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"radclipd {version('radclipd')}")
        raise typer.Exit


@app.callback()
def radclipd(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar="RADCLIPD_CONFIG", help="Configuration file (default /etc/radclipd/radclipd.toml).")
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """DICOM in, CLIP in the middle, DICOM SR out. Research use only; not a medical device."""
    ctx.obj = GlobalOptions(config)


for _group in GROUPS:
    import_module(f"adapters.cli.{_group}").register(app)


def main() -> None:
    """Run a verb; turn an error into one line, a hint and an exit code."""
    try:
        app()
    except RadclipdError as error:
        print(f"radclipd: {error}", file=sys.stderr)  # noqa: T201 - this is the one place that speaks to a terminal
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(exit_code_of(error))
    except BrokenPipeError:  # `radclipd jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
