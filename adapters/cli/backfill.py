"""`radclipd backfill`: receive an archive; `status` lists backfills, `score` scores the archive on many machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli import output, progress, query
from adapters.cli.extras import require_extra
from adapters.cli.peers import parse_peer_address
from adapters.cli.settings import config_of, config_path_of, parts_of
from pipeline.errors import PermanentError

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from pipeline.backfill import Backfill, BackfillPolicy
    from pipeline.errors import RadclipdError
    from pipeline.ports.backfill import BackfillObject, BackfillSource, DateRange

backfill = typer.Typer(help="Receive an archive, and score it.", invoke_without_command=True)


class ScoringEngine(StrEnum):
    """Engines of `backfill score`."""

    RAY = "ray"


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(backfill, name="backfill")


@backfill.callback()
def run_backfill(
    ctx: typer.Context,
    folder: Annotated[Path | None, typer.Option(help="A tree of DICOM files; other files are skipped.")] = None,
    dicomweb: Annotated[str, typer.Option(metavar="URL", help="An archive by QIDO-RS and WADO-RS.")] = "",
    orthanc: Annotated[str, typer.Option(metavar="URL", help="An Orthanc by its REST API; needs no plugin.")] = "",
    query_retrieve: Annotated[str, typer.Option(metavar="AE@HOST:PORT", help="An archive by C-FIND and C-GET.")] = "",
    move_to: Annotated[str, typer.Option(metavar="AE", help="C-MOVE to our running listener, by its AE title there.")] = "",
    first: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First study date.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last study date (default today).")] = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest days; default: the newest.")] = False,
    per_minute: Annotated[
        float | None, typer.Option(min=0, help="Instances a minute, at most (backfill.max_instances_per_minute).")
    ] = None,
    bytes_per_second: Annotated[str | None, typer.Option(help="As 20MB, at most (backfill.max_bytes_per_second).")] = None,
    again: Annotated[bool, typer.Option("--again", help="Repeat finished days and failed studies.")] = False,
    refused: Annotated[Path | None, typer.Option(help="A file that lists refused instances: location and reason.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="The totals as a JSON object.")] = False,
) -> None:
    """Receive an archive, day by day, behind new arrivals.

    Every instance goes through the same step as one that is sent. A new run continues where the last one ended, and fetches nothing
    twice.
    """
    if ctx.invoked_subcommand is not None:
        return
    if sum(map(bool, (folder, dicomweb, orthanc, query_retrieve))) != 1:
        raise typer.BadParameter("name one of --folder, --dicomweb, --orthanc and --query-retrieve")
    if move_to and not query_retrieve:
        raise typer.BadParameter("goes with --query-retrieve", param_hint="--move-to")
    config = _override_rates(config_of(ctx), per_minute, bytes_per_second)
    days = _parse_days(first, last, needed=folder is None)
    from adapters.app import backfill
    from pipeline.backfill import BackfillPolicy

    source: BackfillSource
    if folder is not None:
        source = backfill.folder_source(config, folder, days, oldest_first=oldest_first)
    elif dicomweb:
        source = backfill.dicomweb_source(config, config_path_of(ctx), dicomweb)
    elif orthanc:
        source = backfill.orthanc_source(config, config_path_of(ctx), orthanc)
    else:
        peer = parse_peer_address(query_retrieve, option="--query-retrieve")
        source = backfill.query_retrieve_source(config, ae_title=peer.ae_title, host=peer.host, port=peer.port, move_to=move_to)
    policy = BackfillPolicy(days_per_query=config.backfill.days_per_query, oldest_first=oldest_first, repeat_finished=again)
    with _open_run(config, source, policy, refused) as run:
        run.run(days)
    _print_result(run, as_json=json_)


@contextmanager
def _open_run(config: Config, source: BackfillSource, policy: BackfillPolicy, refused: Path | None) -> Iterator[Backfill]:
    """Yield a backfill with progress bars and a log of refusals; Ctrl-C stops it."""
    from adapters.app import backfill
    from adapters.app.compose import Parts
    from adapters.service.signals import StopSignal

    with Parts(config) as parts:
        _ = parts.catalog  # a fault shows before the bars
        with StopSignal() as stop, progress.progress_bars() as watch, _open_refusal_log(refused) as on_refused:
            yield backfill.build_backfill(
                parts, source, policy=policy, watch=watch, on_refused=on_refused, stop_requested=stop.is_set, wait=stop.wait
            )


@contextmanager
def _open_refusal_log(path: Path | None) -> Iterator[Callable[[BackfillObject, RadclipdError], None]]:
    """Yield a function that appends a line to the file for each refused object; without a file, one that does nothing."""
    if path is None:
        yield lambda _found, _error: None
        return
    try:
        stream = path.open("a", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise PermanentError(f"{path} cannot be written: {error.strerror}", hint="name another file after --refused") from error
    with stream:
        yield lambda found, error: print(found.location, error, sep="\t", file=stream, flush=True)


def _print_result(run: Backfill, *, as_json: bool) -> None:
    total = run.totals
    if as_json:
        sys.stdout.write(json.dumps(asdict(total) | {"failed": run.failed}) + "\n")
    else:
        typer.echo(
            f"{total.instances} instances received ({total.bytes / 1e6:.1f} MB), {total.duplicates} known already,"
            f" {total.refused} refused, {total.others} skipped"
        )
    if run.failed:
        raise PermanentError(
            f"{run.failed} studies could not be retrieved", hint="radclipd backfill status shows why; --again tries again"
        )


def _override_rates(config: Config, per_minute: float | None, bytes_per_second: str | None) -> Config:
    """Return the configuration with the rates of the command line in [backfill]."""
    from pydantic import ValidationError

    given = {"max_instances_per_minute": per_minute, "max_bytes_per_second": bytes_per_second}
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        wanted = type(config.backfill).model_validate(config.backfill.model_dump() | changes)
    except ValidationError:
        raise typer.BadParameter("a size such as 500kB or 20MiB", param_hint="--bytes-per-second") from None
    return config.model_copy(update={"backfill": wanted})


def _parse_days(first: datetime | None, last: datetime | None, *, needed: bool) -> DateRange | None:
    from pipeline.ports.backfill import DateRange

    if first is None:
        if needed or last is not None:
            raise typer.BadParameter("name the first study date", param_hint="--from")
        return None
    days = DateRange(first.date(), last.date() if last else date.today())
    if days.last < days.first:
        raise typer.BadParameter("lies before --from", param_hint="--to")
    return days


@backfill.command()
def status(
    ctx: typer.Context,
    table: output.TableFlag = False,
    csv: output.CsvFlag = False,
    raw: output.RawFlag = False,
    json: output.JsonFlag = False,
) -> None:
    """List the backfills, by source."""
    query.query(ctx, "SELECT * FROM v_backfills ORDER BY begun_at", table=table, csv=csv, json=json, raw=raw)


@backfill.command()
def score(
    ctx: typer.Context,
    engine: Annotated[ScoringEngine, typer.Option(help="Ray Data: the extra radclipd[scale].")] = ScoringEngine.RAY,
    address: Annotated[str, typer.Option(help="HOST:PORT of a running cluster, or auto; default: a local Ray on this host.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Maximum of workers; 0: one for each GPU, or for each --cores.")] = 0,
    cores: Annotated[int, typer.Option(min=0, help="CPU cores of a worker; 0: [score] threads, or all of a machine.")] = 0,
) -> None:
    """Score the archive on all machines of a Ray cluster.

    It scores all studies that the serving version has not scored, and fills the activation cache. The catalog records the progress:
    after a stop or the loss of a machine, start it again.
    """
    if engine is ScoringEngine.RAY:
        require_extra("scale")
    with parts_of(ctx) as parts:
        from adapters.cluster.engine import ClusterSettings, score_archive
        from adapters.config.sections import DEFAULT_PATH

        config = parts.config
        settings = ClusterSettings(
            config=(config_path_of(ctx) or DEFAULT_PATH).absolute(),
            address=address,
            workers=workers,
            cores=cores or config.score.threads,
            gpu=config.model.device != "cpu",
        )
        parts.require_serving()
        with progress.progress_bars() as watch:
            jobs = score_archive(config, settings, catalog=parts.catalog, on_progress=watch)
    typer.echo(f"{jobs} studies scored")
