"""The archive as the source of files that retention has deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.app.backfill import dicomweb_source
from adapters.app.policies import receive_policy
from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from pipeline.fetch import FileFetch

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.config.sections import Config


def make_file_fetch(parts: Parts) -> FileFetch:
    """Make the step. ConfigurationError, PermanentError for a DICOMweb service that cannot be used."""
    config = parts.config
    url = config.retention.dicomweb_url
    source = dicomweb_source(config, None, url) if url else _make_retrieve_source(config)
    return FileFetch(
        source=source,
        catalog=parts.catalog,
        images=parts.images,
        receive_policy=receive_policy(config),
        comparison=parts.comparison,
    )


def _make_retrieve_source(config: Config) -> RetrieveSource:
    """With `retention.fetch = "move"` the archive sends to our listener, which it must know by its AE title."""
    archive = ArchiveSettings(
        ae_title=config.archive.ae_title,
        host=config.archive.host,
        port=config.archive.port,
        calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
        timeout_seconds=config.archive.timeout_seconds,
    )
    destination = config.listener.ae_title if config.retention.fetch == "move" else ""
    return RetrieveSource(archive, RetrieveSettings(modalities=config.backfill.modalities, move_destination=destination))
