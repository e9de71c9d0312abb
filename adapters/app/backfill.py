"""What `radclipd backfill` is made of: a Config and a source in, a run out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.app import compose
from adapters.config import sections as configuration
from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.sources.dicomweb import DicomWebSource, OrthancSource, WebSettings
from adapters.dicom.sources.folder import FolderSource
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from pipeline.backfill import Backfill, BackfillPolicy, Throttle
from pipeline.errors import RadclipdError
from pipeline.ports.backfill import Days, Piece, Source
from pipeline.ports.outside import Watch
from pipeline.preemption import Yielding
from pipeline.progress import both

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config


def folder(config: Config, root: Path, days: Days | None, *, oldest_first: bool) -> FolderSource:
    """A tree of files."""
    return FolderSource(root.absolute(), days=days, other_storage=config.listener.other_storage, oldest_first=oldest_first)


def dicomweb(config: Config, path: Path | None, url: str) -> DicomWebSource:
    """An archive that speaks QIDO-RS and WADO-RS. ConfigurationError."""
    return DicomWebSource(_web_settings(config, path, url))


def orthanc(config: Config, path: Path | None, url: str) -> OrthancSource:
    """An Orthanc, by its own API. ConfigurationError."""
    return OrthancSource(_web_settings(config, path, url))


def _web_settings(config: Config, path: Path | None, url: str) -> WebSettings:
    return WebSettings(
        url=url,
        modalities=config.backfill.modalities,
        other_storage=config.listener.other_storage,
        authorization=configuration.authorization(config, path),
        timeout_seconds=config.backfill.timeout_seconds,
    )


def query_retrieve(config: Config, *, ae_title: str, host: str, port: int, move_to: str) -> RetrieveSource:
    """An archive by C-FIND, and C-GET or C-MOVE."""
    archive = ArchiveSettings(
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
        timeout_seconds=config.backfill.timeout_seconds,
    )
    return RetrieveSource(archive, RetrieveSettings(modalities=config.backfill.modalities, move_to=move_to))


def build(
    config: Config,
    catalog: SqlCatalog,
    source: Source,
    *,
    policy: BackfillPolicy,
    watch: Watch,
    refused: Callable[[Piece, RadclipdError], None],
    over: Callable[[], bool],
    rest: Callable[[float], object],
) -> Backfill:
    """Make a run. What it takes in goes through the same step as what the listener hears, and it gives way to arrivals."""
    wanted = config.backfill
    return Backfill(
        source=source,
        catalog=catalog,
        images=compose.open_image_store(config),
        receiving=compose.receive_policy(config),
        policy=policy,
        watch=both(watch, Yielding(catalog=catalog, rest=rest, over=over, who="the backfill")),
        rest=rest,
        throttle=Throttle(per_minute=wanted.per_minute, bytes_per_second=float(wanted.bytes_per_second), rest=rest),
        refused=refused,
    )
