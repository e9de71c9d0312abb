"""`radclipd experiment fewshot`: choose films, encoder and methods; run the few-shot experiment."""

from __future__ import annotations

import json as json_format
import os
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.extras import require_extra
from adapters.cli.output import Format, write_rows
from adapters.cli.progress import progress_bars
from adapters.cli.settings import config_of, parts_of
from pipeline.errors import TransientError

if TYPE_CHECKING:
    from adapters.experiment.bases import ChosenBase
    from adapters.experiment.case_source import CaseSource
    from adapters.experiment.fewshot import FewshotOptions, FewshotOutcome
    from models.ladder.method import Method

FROZEN, ALL = "frozen", "all"
"""Names of groups: the methods on frozen features; all methods."""
REFERENCE_METHOD = "zero-shot"
"""Method that is always measured: the others are compared with it."""


SITE_HELP = "phantom: the hospital, or a file that describes one; default: one that the demo model was not trained on."
FILM_SEED_HELP = "phantom: another number gives other persons and films."


class ExperimentData(StrEnum):
    """Sources of films."""

    PHANTOM = "phantom"
    NIH = "nih"
    CATALOG = "catalog"


def parse_whole_numbers(words: str) -> tuple[int, ...]:
    """Read 1,4,16 into ascending numbers of at least 1, each once. typer.BadParameter."""
    try:
        numbers = sorted({int(word) for word in words.split(",") if word.strip()})
    except ValueError as error:
        raise typer.BadParameter("whole numbers joined by commas, as 1,4,16") from error
    if not numbers or numbers[0] < 1:
        raise typer.BadParameter("at least one number, none below 1")
    return tuple(numbers)


def default_cache() -> Path:
    """Return the user's folder for caches (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radclipd" / "features"


def fewshot(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results, new or to be continued. Default: fewshot-..., named by films, encoder and seed."),
    ] = None,
    data: Annotated[ExperimentData, typer.Option(help="Source of the films.")] = ExperimentData.PHANTOM,
    folder: Annotated[Path | None, typer.Option(help="nih: the folder with the films and their label table.")] = None,
    site: Annotated[str, typer.Option(metavar="NAME|FILE", help=SITE_HELP)] = "",
    film_seed: Annotated[int, typer.Option(min=0, help=FILM_SEED_HELP)] = 0,
    pool: Annotated[int, typer.Option(min=1, help="phantom: films to learn from.")] = 2500,
    test: Annotated[int, typer.Option(min=1, help="phantom: films to test on.")] = 1500,
    film_size: Annotated[int, typer.Option(min=32, help="phantom: edge of a film, pixels.")] = 256,
    methods: Annotated[str, typer.Option(help="Names joined by commas; frozen, all.")] = FROZEN,
    shots: Annotated[str, typer.Option(help="Positives of each finding, joined by commas.")] = "1,2,4,8,16",
    draws: Annotated[int, typer.Option(min=1, help="Number of supports drawn.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same table.")] = 0,
    base: Annotated[
        str, typer.Option(help="Encoder: a base's folder or name, untrained. Default: the demo model; catalog: the serving one's.")
    ] = "",
    bootstrap: Annotated[int, typer.Option(min=10, help="Resamples of the test patients.")] = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Films rendered or read in parallel.")] = os.cpu_count() or 1,
    cache: Annotated[Path | None, typer.Option(help="Folder of the cached features.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure few-shot adaptation by every method.

    Every shot count and draw, compared with zero-shot. Finished results in --out are reused.
    """
    require_extra("lab")
    counts = parse_whole_numbers(shots)
    chosen = _parse_methods(methods)
    source = source_of(ctx, data, folder=folder, site=site, sizes=(pool, test, film_size), workers=workers, film_seed=film_seed)
    encoder = base_of(ctx, data, base)
    from adapters.experiment.fewshot import FewshotOptions, summary_json
    from adapters.ml.scorer import choose_device

    out = out or _name_output_folder(source, encoder, seed)
    options = FewshotOptions(
        out=out,
        cache=cache or default_cache(),
        methods=chosen,
        shots=counts,
        draws=draws,
        seed=seed,
        resamples=bootstrap,
        device=choose_device(device),
        workers=workers,
        command=command_of(ctx),
    )
    outcome = _run_interruptibly(source, encoder, options)
    if json:
        typer.echo(json_format.dumps(summary_json(outcome), allow_nan=False))
    else:
        _print_outcome(outcome, out)


def _run_interruptibly(source: CaseSource, encoder: ChosenBase, options: FewshotOptions) -> FewshotOutcome:
    """Run the experiment with a progress bar. TransientError on Ctrl-C: finished results stay in `options.out`."""
    from adapters.experiment.fewshot import run_fewshot

    try:
        with progress_bars() as watch:
            return run_fewshot(source, encoder, options, watch)
    except KeyboardInterrupt as error:
        raise TransientError(
            f"interrupted; finished results are kept in {options.out}", hint="the same command continues from there"
        ) from error


def _name_output_folder(source: CaseSource, encoder: ChosenBase, seed: int) -> Path:
    """Return the folder of this experiment, below the working directory."""
    from models.fingerprint import fingerprint

    return Path(f"fewshot-{source.kind}-{fingerprint([source.fingerprint, encoder.sha256, seed])[:8]}")


def _parse_methods(words: str) -> list[Method]:
    """Return the named methods, with the reference. PermanentError for an unknown name."""
    from adapters.ml.error_translation import translate_model_errors
    from models.ladder import registry

    names: list[str] = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        group = {FROZEN: registry.FROZEN_ENCODER_METHODS, ALL: registry.LADDER}.get(word)
        names += [word] if group is None else [method.name for method in group]
    with translate_model_errors():
        return registry.find_methods(list(dict.fromkeys(names if REFERENCE_METHOD in names else [REFERENCE_METHOD, *names])))


def source_of(
    ctx: typer.Context,
    data: ExperimentData,
    *,
    folder: Path | None,
    site: str = "",
    sizes: tuple[int, int, int] = (0, 0, 0),
    workers: int = 1,
    film_seed: int = 0,
) -> CaseSource:
    """Return the films of the data set. `sizes`: of the phantoms' pool and test set, and the edge of a film, pixels.

    typer.BadParameter for ChestX-ray14 without a folder.
    """
    if data is ExperimentData.CATALOG:
        return _load_catalog_source(ctx)
    if data is ExperimentData.NIH:
        if folder is None:
            raise typer.BadParameter("--data nih needs the folder of the films", param_hint="--folder")
        from adapters.experiment.nih_source import nih_source

        return nih_source(folder)
    from adapters.experiment.phantom_source import PhantomSizes, phantom_source
    from adapters.simulator.sites import UNSEEN_SITE

    return phantom_source(site or UNSEEN_SITE, PhantomSizes.scaled(*sizes), workers=workers, film_seed=film_seed)


def _load_catalog_source(ctx: typer.Context) -> CaseSource:
    from adapters.app.policies import chest_policy, label_policy
    from adapters.dicom.image.pixels import DicomImageReader
    from adapters.experiment.catalog_source import catalog_source

    with parts_of(ctx) as parts:
        reader, config = DicomImageReader(parts.images), parts.config
        return catalog_source(parts.catalog, reader, chest=chest_policy(config), labels=label_policy(config))


def base_of(ctx: typer.Context, data: ExperimentData, wanted: str) -> ChosenBase:
    """Return the named encoder; by default the demo model, with a catalog the encoder of the serving version."""
    from adapters.experiment import bases

    if data is ExperimentData.CATALOG and not wanted:
        return _load_serving_base(ctx)
    if not wanted:
        return bases.demo_base()
    if bases.needs_store(wanted):
        return bases.choose_base(wanted, store=config_of(ctx).model.directory)
    return bases.choose_base(wanted, store=None)


def _load_serving_base(ctx: typer.Context) -> ChosenBase:
    from adapters.experiment.bases import serving_base

    with parts_of(ctx) as parts:
        version = parts.require_serving()
        return serving_base(parts.config.model.directory, version.base, version.card)


def command_of(ctx: typer.Context) -> str:
    """Return the command line with its explicit options, without the output format."""
    words = ["radclipd", "experiment", str(ctx.info_name)]
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if parameter.name not in (None, "json") and source is not None and source.name == "COMMANDLINE":
            value: Any = ctx.params[parameter.name]
            words += [parameter.opts[0], str(getattr(value, "value", value))]
    return shlex.join(words)


def _print_outcome(outcome: FewshotOutcome, out: Path) -> None:
    """Print the table of means and the path of the report."""
    from adapters.experiment.fewshot_report import HTML_FILE
    from adapters.experiment.result_tables import MEAN

    rows = [row for row in outcome.tables.summary if row.scope == MEAN]
    shots: Sequence[int] = sorted({row.shots for row in rows})
    means = {(row.method, row.shots): row.auc for row in rows}
    table = [(method, *(means.get((method, at)) for at in shots)) for method in dict.fromkeys(row.method for row in rows)]
    write_rows(("mean AUC", *(f"{at} shot{'s' * (at > 1)}" if at else "no support" for at in shots)), table, Format.TABLE)
    print_left_out(outcome.manifest["left_out"])
    for words in outcome.cautions:
        typer.echo(f"caution: {words}")
    typer.echo(f"report: {out / HTML_FILE}")


def print_left_out(left_out: Mapping[str, int]) -> None:
    """Print the numbers of films that the experiment could not use."""
    for reason, count in left_out.items():
        typer.echo(f"left out: {count} {reason}")
