"""The archive as the source of files that retention has deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters.app.backfill import make_dicomweb_source, make_retrieve_source
from adapters.app.policies import receive_policy
from pipeline.fetch import FileFetch

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.config.sections import Config
    from pipeline.ports.backfill import BackfillSource


def make_file_fetch(parts: Parts) -> FileFetch:
    """Make the step. The archive may be out of reach: each fetch asks for it anew. ConfigurationError."""
    return FileFetch(
        source=_make_source(parts.config),
        catalog=parts.catalog,
        images=parts.images,
        receive_policy=receive_policy(parts.config),
        comparison=parts.comparison,
    )


def _make_source(config: Config) -> BackfillSource:
    """With `retention.fetch = "move"` the archive sends to our listener, which it must know by its AE title."""
    archive, wanted = config.archive, config.retention
    if wanted.dicomweb_url:
        return make_dicomweb_source(config, None, wanted.dicomweb_url)
    move_to = config.listener.ae_title if wanted.fetch == "move" else ""
    return make_retrieve_source(config, ae_title=archive.ae_title, host=archive.host, port=archive.port, move_to=move_to)
