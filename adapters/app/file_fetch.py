"""The archive as the source of files that retention has deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.app.policies import receive_policy
from adapters.dicom.network.archive import ArchiveSettings
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource
from pipeline.fetch import FileFetch

if TYPE_CHECKING:
    from adapters.app.compose import Parts


def make_file_fetch(parts: Parts) -> FileFetch:
    """Make the step. With `retention.fetch = "move"` the archive sends to our listener, which it must know by its AE title."""
    config = parts.config
    archive = ArchiveSettings(
        ae_title=config.archive.ae_title,
        host=config.archive.host,
        port=config.archive.port,
        calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
        timeout_seconds=config.archive.timeout_seconds,
    )
    destination = config.listener.ae_title if config.retention.fetch == "move" else ""
    source = RetrieveSource(archive, RetrieveSettings(modalities=config.backfill.modalities, move_destination=destination))
    return FileFetch(
        source=source,
        catalog=parts.catalog,
        images=parts.images,
        receive_policy=receive_policy(config),
        comparison=parts.comparison,
    )
