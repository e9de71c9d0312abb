"""`radclipd model`: weights in, and what is there. Only `fetch` uses the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import output
from adapters.cli.settings import parts_of

if TYPE_CHECKING:
    from adapters.storage.model_store import ModelStore, StoredBase
    from pipeline.domain import ModelVersion

ArchitectureOption = Annotated[str, typer.Option(help="open_clip's name, as ViT-B-32, or a JSON configuration file.")]
NameOption = Annotated[str, typer.Option(help="Name of the base; derived from the source by default.")]
ServeFlag = Annotated[bool, typer.Option("--serve", help="Let it serve at once, even where another version does.")]
NoticeOption = Annotated[str, typer.Option(help="Words shown wherever a result of these weights shows.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this group."""
    group = typer.Typer(no_args_is_help=True, help="Weights: fetch, import, list.")
    group.command("fetch")(fetch)
    group.command("import")(import_file)
    group.command("demo")(demo)
    group.command("untrained")(untrained)
    group.command("list")(list_versions)
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
    architecture: ArchitectureOption,
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
    """Take weights from a file and make a zero-shot version of them."""
    from adapters.ml.error_translation import translate_model_errors
    from adapters.ml.importer import import_base
    from models.encoder import sources

    with translate_model_errors():
        source = sources.local_source(file, architecture, quickgelu=quickgelu)
    typer.echo(f"activation: {'QuickGELU' if source.architecture.quickgelu else 'GELU'}", err=True)
    _add_version(ctx, lambda store: import_base(store, source, name=name, notice=notice), serve=serve)


def demo(ctx: typer.Context, name: NameOption = "", serve: ServeFlag = False) -> None:
    """Make a zero-shot version of the shipped encoder.

    It was trained on phantoms, for demonstrations, never for a patient.
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
    """Make a version that has learnt nothing: to try the plumbing. Every result of it is marked UNTRAINED."""
    from adapters.ml.importer import import_untrained_base

    _add_version(ctx, lambda store: import_untrained_base(store, architecture, seed=seed, name=name), serve=serve)


def list_versions(
    ctx: typer.Context, table: output.TableFlag = False, csv: output.CsvFlag = False, json: output.JsonFlag = False
) -> None:
    """List the versions, and whether their files are there.

    And bases that no version uses.
    """
    form = output.choose_format(table=table, csv=csv, json=json)
    with parts_of(ctx) as parts:
        with parts.catalog.read() as transaction:
            versions = transaction.versions.all()
        used = {version.base for version in versions}
        rows = [_make_version_row(version, parts.models) for version in versions]
        rows += [_make_unused_row(base) for base in parts.models.bases() if base.name not in used]
    output.write_rows(
        ("version", "state", "name", "architecture", "activation", "weights", "files", "calibrated", "notice"), rows, form
    )


def _add_version(ctx: typer.Context, keep: Callable[[ModelStore], str], *, serve: bool) -> None:
    """Keep a base, register its zero-shot version, say what became of it."""
    from rich.console import Console

    from adapters.ml.importer import register_zero_shot as register_version

    with parts_of(ctx) as parts:
        catalog = parts.catalog  # first: minutes of work must not end at an unreachable catalog
        base = keep(parts.models)
        with Console(stderr=True).status("encoding prompts"):
            version = register_version(
                catalog,
                parts.models,
                base,
                threshold=parts.config.score.threshold,
                undetermined_margin=parts.config.score.undetermined_margin,
                serve=serve,
            )
    notice = f"  {version.notice}" if version.notice else ""
    typer.echo(f"version {version.number}  {version.state.value}  {version.name}  sha256 {version.weights_sha256[:12]}{notice}")


def _make_version_row(version: ModelVersion, store: ModelStore) -> tuple[Any, ...]:
    files = "present" if store.has_version(version) else "MISSING"
    network = _describe_network(version.card)
    calibrated = version.calibrated
    return (
        version.number,
        version.state.value,
        version.name,
        *network,
        version.weights_sha256[:12],
        files,
        calibrated,
        version.notice,
    )


def _make_unused_row(base: StoredBase) -> tuple[Any, ...]:
    network = _describe_network(base.card)
    return None, "unused", base.name, *network, base.weights_sha256[:12], "present", None, base.card.get("notice", "")


def _describe_network(card: dict[str, Any]) -> tuple[str, str]:
    """Return the architecture's name and activation."""
    architecture = card.get("architecture", {})
    return architecture.get("name", ""), "QuickGELU" if architecture.get("quickgelu") else "GELU"
