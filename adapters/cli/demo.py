"""`radclipd demo`: radiographs go from an archive to radclipd and back as reports; a few labels then improve the model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.extras import require_extra


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    studies: Annotated[int, typer.Option(min=1, max=2000, help="Number of studies; with --images the maximum.")] = 320,
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of DICOM or PNG files to send instead of phantom films; with a label table they are measured."),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="A new or empty folder for all files. Default: a scratch folder.")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep everything running until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same films.")] = 0,
    embedded: Annotated[bool, typer.Option("--embedded", help="Use the embedded archive even where Orthanc is installed.")] = False,
    architecture: Annotated[
        str,
        typer.Option(help="An untrained encoder, not the shipped one: open_clip's name or a JSON file."),
    ] = "",
) -> None:
    """Run the whole cycle with an archive on this machine.

    Start Orthanc and radclipd on free loopback ports, send films, fetch the reports; label a few, learn, score again. At the end
    the scores are compared with the truth, on patients without labels. No existing installation or file is touched.
    """
    require_extra("lab")
    from rich.console import Console

    from adapters.demo import demonstration as story

    options = story.DemoOptions(
        studies=studies, images=images, folder=folder, hold=hold, seed=seed, embedded=embedded, architecture=architecture
    )
    console = Console(width=None if sys.stdout.isatty() else 132)
    raise typer.Exit(story.run_demo(options, console))
