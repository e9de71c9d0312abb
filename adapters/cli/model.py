"""`radclipd model`: weights in, and what is there. Only `fetch` uses the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import output
from adapters.cli.settings import config_of

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.storage.model_store import ModelStore, StoredBase
    from pipeline.domain import ModelVersion

Architecture = Annotated[str, typer.Option(help="open_clip's name, as ViT-B-32, or a JSON configuration file.")]
Name = Annotated[str, typer.Option(help="Name of the base; derived from the source by default.")]
Serve = Annotated[bool, typer.Option("--serve", help="Let it serve at once, even where another version does.")]
Marking = Annotated[str, typer.Option(help="Words shown wherever a result of these weights shows.")]


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
    name: Name = "",
    marking: Marking = "",
    serve: Serve = False,
) -> None:
    """Download weights by open_clip, as a zero-shot version."""
    from adapters.ml.error_translation import in_the_pipelines_words
    from adapters.ml.importer import keep_source
    from models.encoder import sources

    def keep(store: ModelStore) -> str:
        with in_the_pipelines_words():
            found = sources.fetch(source, store.root / "downloads")
        return keep_source(store, found, name=name, marking=marking)

    _add(ctx, keep, serve=serve)


def import_file(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="safetensors, or a torch checkpoint of a state dict.")],
    architecture: Architecture,
    quickgelu: Annotated[
        bool | None,
        typer.Option(
            "--quickgelu/--no-quickgelu",
            help="Activation of the training; OpenAI's weights need --quickgelu. Default: the architecture's.",
        ),
    ] = None,
    name: Name = "",
    marking: Marking = "",
    serve: Serve = False,
) -> None:
    """Take weights from a file and make a zero-shot version of them."""
    from adapters.ml.error_translation import in_the_pipelines_words
    from adapters.ml.importer import keep_source
    from models.encoder import sources

    with in_the_pipelines_words():
        source = sources.local(file, architecture, quickgelu=quickgelu)
    typer.echo(f"activation: {'QuickGELU' if source.architecture.quickgelu else 'GELU'}", err=True)
    _add(ctx, lambda store: keep_source(store, source, name=name, marking=marking), serve=serve)


def demo(ctx: typer.Context, name: Name = "", serve: Serve = False) -> None:
    """Make a zero-shot version of the shipped encoder.

    It was trained on phantoms, for demonstrations, never for a patient.
    """
    from adapters.ml.error_translation import in_the_pipelines_words
    from adapters.ml.importer import keep_source
    from models import demo as encoder

    with in_the_pipelines_words():
        source = encoder.shipped()
    _add(ctx, lambda store: keep_source(store, source, name=name, marking=encoder.MARKING), serve=serve)


def untrained(
    ctx: typer.Context,
    architecture: Architecture = "ViT-B-32",
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    name: Name = "",
    serve: Serve = False,
) -> None:
    """Make a version that has learnt nothing: to try the plumbing. Every result of it is marked UNTRAINED."""
    from adapters.ml.importer import keep_untrained

    _add(ctx, lambda store: keep_untrained(store, architecture, seed=seed, name=name), serve=serve)


def list_versions(
    ctx: typer.Context, table: output.TableFlag = False, csv: output.CsvFlag = False, json: output.JsonFlag = False
) -> None:
    """List the versions, and whether their files are there.

    And bases that no version uses.
    """
    from adapters.app.compose import open_model_store

    form = output.chosen(table=table, csv=csv, json=json)
    config = config_of(ctx)
    store = open_model_store(config)
    with _catalog_of(config) as catalog, catalog.read() as transaction:
        versions = transaction.versions.all()
    used = {version.base for version in versions}
    rows = [_row(version, store) for version in versions]
    rows += [_unused(base) for base in store.bases() if base.name not in used]
    output.write_rows(
        ("version", "state", "name", "architecture", "activation", "weights", "files", "calibrated", "marking"), rows, form
    )


def _add(ctx: typer.Context, keep: Callable[[ModelStore], str], *, serve: bool) -> None:
    """Keep a base, register its zero-shot version, say what became of it."""
    from rich.console import Console

    from adapters.app.compose import open_model_store
    from adapters.ml.importer import register as register_version

    config = config_of(ctx)
    store = open_model_store(config)
    with _catalog_of(config) as catalog:  # first: minutes of work must not end at a catalog that is not there
        base = keep(store)
        with Console(stderr=True).status("encoding prompts"):
            version = register_version(catalog, store, base, threshold=config.score.threshold, band=config.score.band, serve=serve)
    marking = f"  {version.marking}" if version.marking else ""
    typer.echo(f"version {version.number}  {version.state.value}  {version.name}  sha256 {version.weights_sha256[:12]}{marking}")


@contextmanager
def _catalog_of(config: Config) -> Iterator[SqlCatalog]:
    """Open the catalog for one verb."""
    from adapters.app.compose import open_catalog

    catalog = open_catalog(config)
    try:
        yield catalog
    finally:
        catalog.dispose()


def _row(version: ModelVersion, store: ModelStore) -> tuple[Any, ...]:
    files = "present" if store.present(version) else "MISSING"
    network = _network(version.card)
    calibrated = version.calibrated
    return (
        version.number,
        version.state.value,
        version.name,
        *network,
        version.weights_sha256[:12],
        files,
        calibrated,
        version.marking,
    )


def _unused(base: StoredBase) -> tuple[Any, ...]:
    network = _network(base.card)
    return None, "unused", base.name, *network, base.weights_sha256[:12], "present", None, base.card.get("marking", "")


def _network(card: dict[str, Any]) -> tuple[str, str]:
    """Return the architecture's name and activation."""
    architecture = card.get("architecture", {})
    return architecture.get("name", ""), "QuickGELU" if architecture.get("quickgelu") else "GELU"
