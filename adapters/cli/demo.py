"""`radclipd demo`: radiographs travel archive -> radclipd -> archive, and a few labels change it, before your eyes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    studies: Annotated[int, typer.Option(min=1, max=2000, help="How many studies, at most so many of a folder.")] = 320,
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of DICOM or PNG files to send instead of phantom films; with a label table it is measured."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where everything goes: a new or empty folder. Default: a scratch folder.")
    ] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep everything running until Ctrl-C.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same films.")] = 0,
    embedded: Annotated[bool, typer.Option("--embedded", help="Use the embedded archive even where Orthanc is installed.")] = False,
    architecture: Annotated[
        str,
        typer.Option(
            help="Random numbers in the shape of open_clip's model of this name, or of a JSON file, for the shipped encoder."
        ),
    ] = "",
) -> None:
    """Play the whole story with an archive on this machine.

    Start Orthanc and radclipd on free loopback ports, send films, fetch the reports back; label a few, learn, score again. In the
    end all is compared with the truth, on patients of whom nothing was labelled. Nothing of yours is touched.
    """
    from rich.console import Console

    from adapters.demo import demonstration as story

    options = story.DemoOptions(
        studies=studies, images=images, folder=folder, hold=hold, seed=seed, embedded=embedded, architecture=architecture
    )
    console = Console(width=None if sys.stdout.isatty() else 132)
    raise typer.Exit(story.run_demo(options, console))
