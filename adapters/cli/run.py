"""`radclipd run` is the whole daemon; `listen`, `dispatch`, `work` and `web` are its roles, for one systemd unit each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from adapters.cli.extras import require_extra
from adapters.cli.settings import config_of, config_path_of


class WorkKind(StrEnum):
    """Kinds of workers."""

    SCORE = "score"
    REPORT = "report"
    LEARN = "learn"
    LABEL = "label"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (run, listen, dispatch, work, web):
        app.command()(verb)


def run(ctx: typer.Context) -> None:
    """Run the whole daemon.

    Listener, dispatcher, workers that score, learn, report and read labels, and the desk where [web] enables it.
    """
    config = config_of(ctx, role="run")
    from adapters.app import run

    run.run(config, config_path_of(ctx))


def listen(ctx: typer.Context) -> None:
    """Receive DICOM: the listener alone."""
    config = config_of(ctx, role="listen")
    from adapters.app import listen

    listen.listen(config)


def dispatch(ctx: typer.Context) -> None:
    """Settle studies and schedule learning: the dispatcher alone.

    It also maintains the catalog. One for each catalog is enough; a second one does no harm.
    """
    config = config_of(ctx, role="dispatch")
    from adapters.app import dispatch

    dispatch.dispatch(config)


def work(ctx: typer.Context, kinds: Annotated[list[WorkKind], typer.Argument(metavar="KIND...", help="Kinds of jobs.")]) -> None:
    """Process jobs: score, report, learn, label, or several of them.

    PostgreSQL serves any number of workers on any number of hosts.
    """
    wanted = [kind.value for kind in WorkKind if kind in kinds]
    config = config_of(ctx, role=f"work-{'+'.join(wanted)}")
    from adapters.app import work

    work.work(config, wanted)


def web(ctx: typer.Context) -> None:
    """Serve the desk: pages for readers and engineers.

    Labelling, studies, operations and the model. Users log in: radclipd users add.
    """
    require_extra("web")
    config = config_of(ctx, role="web")
    from adapters.app import web

    web.serve_desk(config, config_path_of(ctx))
