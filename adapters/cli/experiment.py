"""`radclipd experiment`: few-shot and labelling experiments, ChestX-ray14 as DICOM, phantom sheets, the demo encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.campaigns import worklist
from adapters.cli.fewshot import fewshot
from adapters.cli.peers import parse_peer_address
from adapters.cli.progress import progress_bars
from pipeline.errors import PermanentError

if TYPE_CHECKING:
    from adapters.dicom.network.archive import DicomArchive

experiment = typer.Typer(
    help="Measure label-efficient adaptation.\n\nOn phantoms, on ChestX-ray14, on your own archive.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the group."""
    experiment.command()(fewshot)
    experiment.command()(worklist)
    app.add_typer(experiment, name="experiment")


@experiment.command("nih-to-dicom")
def nih_to_dicom(
    folder: Annotated[Path, typer.Option(help="Folder of ChestX-ray14: pictures, label table, however deep.")],
    out: Annotated[Path, typer.Option(help="Folder for the DICOM files and truth.csv.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N films.")] = None,
    send: Annotated[str, typer.Option(metavar="AE@HOST:PORT", help="Send every object to this archive as well.")] = "",
    size: Annotated[int | None, typer.Option(min=16, help="Longer edge, pixels; larger films are reduced.")] = None,
) -> None:
    """Turn ChestX-ray14 into DX studies.

    The labels go into truth.csv, never into the DICOM files.
    """
    from adapters.datasets.nih_to_dicom import convert
    from adapters.datasets.truth_table import TRUTH_FILE

    archive = _connect_archive(send) if send else None
    with progress_bars() as watch:
        made = convert(folder, out, limit=limit, size=size, archive=archive, on_progress=partial(watch, "films"))
    typer.echo(f"{made.studies} studies in {out}, {made.sent} sent; truth: {out / TRUTH_FILE}")
    left = (
        (made.without_file, "rows without a file"),
        (made.without_row, "files without a row"),
        (len(made.unreadable), "unreadable files"),
    )
    for count, words in left:
        if count:
            typer.echo(f"left out: {count} {words}")


@experiment.command()
def phantoms(
    sheet: Annotated[Path, typer.Option(help="PNG to write: a normal chest and each finding, slight and gross.")],
    site: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="The hospital that is simulated, or a file that describes one.")
    ] = "north",
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same picture.")] = 0,
) -> None:
    """Draw a contact sheet of the simulator's findings."""
    from adapters.simulator.contact_sheet import contact_sheet
    from adapters.simulator.site_file import choose_site

    try:
        contact_sheet(sheet, site=choose_site(site), seed=seed)
    except PermanentError as error:
        raise typer.BadParameter(f"{error}; {error.hint}", param_hint="--site") from error
    typer.echo(f"{sheet}: nobody was X-rayed for this")


@experiment.command("pretrain-demo")
def pretrain_demo(
    out: Annotated[Path, typer.Option(help="Folder for weights and card.")],
    films: Annotated[int, typer.Option(min=100, help="Films of each training site.")] = 4000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the films.")] = 14,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, device and threads: same weights.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that render films.")] = 2,
) -> None:
    """Train the demonstration encoder from scratch.

    Phantom films, captions, contrastive training.
    """
    from adapters.experiment.pretraining import PretrainingPlan, make_encoder
    from adapters.ml.error_translation import translate_model_errors
    from adapters.ml.scorer import choose_device

    plan = PretrainingPlan(films_per_site=films, seed=seed).with_epochs(epochs)
    with progress_bars() as watch, translate_model_errors():
        card = make_encoder(plan, out, device=choose_device(device), workers=workers, progress=watch)
    for site, measures in card["measures"]["zero-shot"].items():
        typer.echo(f"{site}: mean zero-shot AUC {measures['mean_auc']:.3f} on {measures['films']} films")
    typer.echo(f"{out}: {card['weights']['size'] / 1e6:.1f} MB, sha256 {card['weights']['sha256'][:12]}, {card['notice']}")


def _connect_archive(address: str) -> DicomArchive:
    from adapters.dicom.network.archive import ArchiveSettings, DicomArchive

    peer = parse_peer_address(address, option="--send")
    archive = DicomArchive(ArchiveSettings(ae_title=peer.ae_title, host=peer.host, port=peer.port))
    archive.echo()
    return archive
