"""The verbs of `radclipd`, one small file a group. Errors are one line and a hint; exit codes: adapters.service.exit_codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.manual import COMPLETE_VARIABLE, PROGRAM
from adapters.cli.renamed import VerbGroup
from adapters.cli.settings import GlobalOptions
from adapters.service.exit_codes import FAILED, exit_code_of
from adapters.storage.folders import user_name
from pipeline.errors import RadclipdError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read by libgomp when torch is loaded. Waiting threads sleep. By default they spin, and on a busy machine the thread that has work
gets no processor: an image takes seconds in place of milliseconds."""

GROUPS = (
    "run",
    "check",
    "overview",
    "score",
    "audit_chain",
    "forget",
    "export",
    "licences",
    "db",
    "model",
    "query",
    "jobs",
    "reports",
    "studies",
    "labels",
    "worklist",
    "learn",
    "versions",
    "references",
    "users",
    "backfill",
    "demo",
    "experiment",
    "manual",
)

app = typer.Typer(
    name="radclipd",
    cls=VerbGroup,
    help="DICOM in, CLIP in the middle, DICOM SR out. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # keeps the names of [tables] in the text, and loads faster
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
    if COMPLETE_VARIABLE in os.environ:  # a shell asks for words
        from typer.completion import completion_init  # type: ignore[attr-defined]  # typer re-exports it

        completion_init()
    try:
        app(prog_name=PROGRAM)
    except RadclipdError as error:
        print(f"radclipd: {error}", file=sys.stderr)  # noqa: T201 - the one place that prints errors
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(exit_code_of(error))
    except PermissionError as error:
        print(f"radclipd: {error.filename or ''}: {error.strerror}", file=sys.stderr)  # noqa: T201 - as above
        print(f"hint: user {user_name()} needs access to it", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(FAILED)
    except BrokenPipeError:  # `radclipd jobs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:  # of a file or folder that the command line names
        print(f"radclipd: {error.filename or ''}: {error.strerror or type(error).__name__}", file=sys.stderr)  # noqa: T201 - as above
        sys.exit(FAILED)
