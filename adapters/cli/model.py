"""`radclipd model fetch | import | demo | untrained`: weights in. Only `fetch` uses the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from adapters.cli.settings import parts_of

if TYPE_CHECKING:
    from adapters.storage.model_store import ModelStore

ArchitectureOption = Annotated[str, typer.Option(help="open_clip's name, as ViT-B-32, or a JSON configuration file.")]
NameOption = Annotated[str, typer.Option(help="Name of the base; derived from the source by default.")]
ServeFlag = Annotated[bool, typer.Option("--serve", help="Let it serve at once, even if another version serves.")]
NoticeOption = Annotated[str, typer.Option(help="A notice shown with every result of these weights.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this group."""
    group = typer.Typer(no_args_is_help=True, help="Weights: fetch, import, demo, untrained.")
    group.command("fetch")(fetch)
    group.command("import")(import_file)
    group.command("demo")(demo)
    group.command("untrained")(untrained)
    app.add_typer(group, name="model")


def fetch(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="TAG_OR_HUB_ID", help="ViT-B-32-quickgelu/openai or hf-hub:OWNER/NAME.")],
    name: NameOption = "",
    notice: NoticeOption = "",
    serve: ServeFlag = False,
) -> None:
    """Download weights by open_clip, as a zero-shot version."""
    from adapters.ml.error_translation import translate_model_errors
    from adapters.ml.importer import import_base
    from models.encoder import sources

    def keep(store: ModelStore) -> str:
        with translate_model_errors():
            found = sources.fetch(source, store.root / "downloads")
        return import_base(store, found, name=name, notice=notice)

    _add_version(ctx, keep, serve=serve)


def import_file(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="safetensors, or a torch checkpoint of a state dict.")],
    architecture: ArchitectureOption = "",
    layout: Annotated[
        Literal["open_clip", "chexzero", "clear"],
        typer.Option(help="Layout of the tensors. chexzero, clear: the architecture is read from the file."),
    ] = "open_clip",
    quickgelu: Annotated[
        bool | None,
        typer.Option(
            "--quickgelu/--no-quickgelu",
            help="Activation of the training; OpenAI's weights need --quickgelu. Default: the architecture's.",
        ),
    ] = None,
    name: NameOption = "",
    notice: NoticeOption = "",
    serve: ServeFlag = False,
) -> None:
    """Import weights from a file, as a zero-shot version."""
    from adapters.ml.error_translation import translate_model_errors
    from adapters.ml.importer import import_base
    from models.encoder import foreign_layouts, sources

    if (layout == "open_clip") != bool(architecture) or (layout != "open_clip" and quickgelu is not None):
        raise typer.BadParameter("give --architecture, or --layout chexzero|clear, which knows architecture and activation")
    with translate_model_errors():
        if layout == "open_clip":
            source = sources.local_source(file, architecture, quickgelu=quickgelu)
        else:
            source = foreign_layouts.foreign_source(file, foreign_layouts.WeightsLayout(layout))
    typer.echo(f"activation: {'QuickGELU' if source.architecture.quickgelu else 'GELU'}", err=True)
    _add_version(ctx, lambda store: import_base(store, source, name=name, notice=notice), serve=serve)


def demo(ctx: typer.Context, name: NameOption = "", serve: ServeFlag = False) -> None:
    """Make a zero-shot version of the shipped encoder.

    It was trained on phantoms: for demonstrations, never for patients.
    """
    from adapters.ml.error_translation import translate_model_errors
    from adapters.ml.importer import import_base
    from models import demo as encoder

    with translate_model_errors():
        source = encoder.verified_source()
    _add_version(ctx, lambda store: import_base(store, source, name=name, notice=encoder.NOTICE), serve=serve)


def untrained(
    ctx: typer.Context,
    architecture: ArchitectureOption = "ViT-B-32",
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    name: NameOption = "",
    serve: ServeFlag = False,
) -> None:
    """Make an untrained version, to test an installation.

    Every result of it carries the notice UNTRAINED.
    """
    from adapters.ml.importer import import_untrained_base

    _add_version(ctx, lambda store: import_untrained_base(store, architecture, seed=seed, name=name), serve=serve)


def _add_version(ctx: typer.Context, keep: Callable[[ModelStore], str], *, serve: bool) -> None:
    """Store a base, register its zero-shot version, print that version."""
    from rich.console import Console

    from adapters.ml.importer import register_zero_shot as register_version

    with parts_of(ctx) as parts:
        catalog = parts.catalog  # first: minutes of work must not be lost to an unreachable catalog
        base = keep(parts.models)
        with Console(stderr=True).status("encoding prompts"):
            version = register_version(catalog, parts.models, base, serve=serve)
    notice = f"  {version.notice}" if version.notice else ""
    typer.echo(f"version {version.number}  {version.state.value}  {version.name}  sha256 {version.weights_sha256[:12]}{notice}")
