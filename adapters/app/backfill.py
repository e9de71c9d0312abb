"""The parts of `radclipd backfill`: its source and its run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapters.app.compose import make_tls_endpoint
from adapters.app.policies import receive_policy
from adapters.config import sections as configuration
from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.sources.dicomweb import DicomWebSource, OrthancSource, WebSettings
from adapters.dicom.sources.folder import FolderSource
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from pipeline.backfill import Backfill, BackfillPolicy, Throttle
from pipeline.errors import PermanentError, RadclipdError
from pipeline.ports.backfill import BackfillObject, BackfillSource, DateRange
from pipeline.ports.services import StageCallback
from pipeline.preemption import Preemption
from pipeline.progress import chain_callbacks

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.config.sections import Config


def folder_source(config: Config, root: Path, days: DateRange | None, *, oldest_first: bool) -> FolderSource:
    """Make the source of a folder of DICOM files, in any depth. PermanentError where it holds no file or cannot be read."""
    source = FolderSource(root.absolute(), days=days, other_storage=config.listener.other_storage, oldest_first=oldest_first)
    source.require_files()
    return source


def dicomweb_source(config: Config, path: Path | None, url: str) -> DicomWebSource:
    """Make the source of an archive with QIDO-RS and WADO-RS (PS3.18). ConfigurationError, PermanentError for an unknown host."""
    _require_host(urlsplit(url).hostname or "")
    return make_dicomweb_source(config, path, url)


def make_dicomweb_source(config: Config, path: Path | None, url: str) -> DicomWebSource:
    """Make the same of a host that may be out of reach now. ConfigurationError."""
    return DicomWebSource(_make_web_settings(config, path, url))


def orthanc_source(config: Config, path: Path | None, url: str) -> OrthancSource:
    """Make the source of an Orthanc, by its REST API. ConfigurationError, PermanentError for an unknown host."""
    _require_host(urlsplit(url).hostname or "")
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
    """Make the source of an archive with C-FIND, and C-GET or C-MOVE (PS3.4 C). PermanentError for an unknown host."""
    _require_host(host)
    return make_retrieve_source(config, ae_title=ae_title, host=host, port=port, move_to=move_to)


def make_retrieve_source(config: Config, *, ae_title: str, host: str, port: int, move_to: str) -> RetrieveSource:
    """Make the same of a host that may be out of reach now; over TLS where it is [archive], and that has `archive.tls`."""
    archive = ArchiveSettings(
        ae_title=ae_title,
        host=host,
        port=port,
        calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
        timeout_seconds=config.backfill.timeout_seconds,
    )
    is_own_archive = (host, port) == (config.archive.host, config.archive.port)
    return RetrieveSource(
        archive,
        RetrieveSettings(modalities=config.backfill.modalities, move_destination=move_to),
        make_tls_endpoint(config) if config.archive.tls and is_own_archive else None,
    )


def _require_host(host: str) -> None:
    """Raise PermanentError at once for a host name that does not resolve. "": a URL without a host, which its source refuses."""
    try:
        socket.getaddrinfo(host or "localhost", None)
    except (OSError, UnicodeError) as error:
        raise PermanentError(
            f"{host!r} is no address, and no name that this host resolves", hint="correct it, or the DNS"
        ) from error


def build_backfill(
    parts: Parts,
    source: BackfillSource,
    *,
    policy: BackfillPolicy,
    watch: StageCallback,
    on_refused: Callable[[BackfillObject, RadclipdError], None],
    stop_requested: Callable[[], bool],
    wait: Callable[[float], object],
) -> Backfill:
    """Make a run. Its instances go through the same step as those of the listener, and arrivals preempt it."""
    wanted = parts.config.backfill
    return Backfill(
        source=source,
        catalog=parts.catalog,
        images=parts.images,
        receive_policy=receive_policy(parts.config),
        comparison=parts.comparison,
        policy=policy,
        on_progress=chain_callbacks(
            watch, Preemption(catalog=parts.catalog, sleep=wait, should_stop=stop_requested, activity="the backfill")
        ),
        sleep=wait,
        throttle=Throttle(
            max_instances_per_minute=wanted.max_instances_per_minute,
            max_bytes_per_second=float(wanted.max_bytes_per_second),
            sleep=wait,
        ),
        on_refused=on_refused,
    )
