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
from pipeline.ports.backfill import BackfillObject, BackfillSource, DateRange
from pipeline.ports.services import StageCallback
from pipeline.preemption import Preemption
from pipeline.progress import chain_callbacks

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config


def folder_source(config: Config, root: Path, days: DateRange | None, *, oldest_first: bool) -> FolderSource:
    """A tree of files."""
    return FolderSource(root.absolute(), days=days, other_storage=config.listener.other_storage, oldest_first=oldest_first)


def dicomweb_source(config: Config, path: Path | None, url: str) -> DicomWebSource:
    """An archive that speaks QIDO-RS and WADO-RS. ConfigurationError."""
    return DicomWebSource(_make_web_settings(config, path, url))


def orthanc_source(config: Config, path: Path | None, url: str) -> OrthancSource:
    """An Orthanc, by its own API. ConfigurationError."""
    return OrthancSource(_make_web_settings(config, path, url))


def _make_web_settings(config: Config, path: Path | None, url: str) -> WebSettings:
    return WebSettings(
        url=url,
        modalities=config.backfill.modalities,
        other_storage=config.listener.other_storage,
        authorization=configuration.read_authorization(config, path),
        timeout_seconds=config.backfill.timeout_seconds,
    )


def query_retrieve_source(config: Config, *, ae_title: str, host: str, port: int, move_to: str) -> RetrieveSource:
    """An archive by C-FIND, and C-GET or C-MOVE."""
    archive = ArchiveSettings(
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
        timeout_seconds=config.backfill.timeout_seconds,
    )
    return RetrieveSource(archive, RetrieveSettings(modalities=config.backfill.modalities, move_destination=move_to))


def build_backfill(
    config: Config,
    catalog: SqlCatalog,
    source: BackfillSource,
    *,
    policy: BackfillPolicy,
    watch: StageCallback,
    on_refused: Callable[[BackfillObject, RadclipdError], None],
    stop_requested: Callable[[], bool],
    wait: Callable[[float], object],
) -> Backfill:
    """Make a run. What it takes in goes through the same step as what the listener hears, and it gives way to arrivals."""
    wanted = config.backfill
    return Backfill(
        source=source,
        catalog=catalog,
        images=compose.open_image_store(config),
        receive_policy=compose.receive_policy(config),
        policy=policy,
        on_progress=chain_callbacks(
            watch, Preemption(catalog=catalog, sleep=wait, should_stop=stop_requested, activity="the backfill")
        ),
        sleep=wait,
        throttle=Throttle(
            max_instances_per_minute=wanted.max_instances_per_minute,
            max_bytes_per_second=float(wanted.max_bytes_per_second),
            sleep=wait,
        ),
        on_refused=on_refused,
    )
