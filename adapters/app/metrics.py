"""Where the metrics come from: the part of the composition root that joins catalog, disks and the server for scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app import compose
from pipeline.errors import TransientError
from pipeline.figures import ArchiveFigures, QueueFigures

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config

log = structlog.get_logger("radclipd.metrics")


@contextmanager
def open_metrics(config: Config, catalog: SqlCatalog) -> Iterator[int]:
    """Answer scrapes while the context is open; give the port.

    0 where `[metrics]` is off, or where the port is taken: that is an error in the log, and no reason to leave studies lying.
    """
    with ExitStack() as open_until_then:
        port = 0
        if config.metrics.enabled:
            try:
                port = open_until_then.enter_context(_serve_metrics(config, catalog))
            except TransientError as error:
                log.error("no metrics", error=str(error), hint=error.hint)
        yield port


def _serve_metrics(config: Config, catalog: SqlCatalog) -> AbstractContextManager[int]:
    from adapters.catalog import schema
    from adapters.service.prometheus import MetricSources, serve_metrics

    def line() -> QueueFigures:
        with catalog.read() as tx:
            return tx.figures.current_figures()

    def archive() -> ArchiveFigures:
        with catalog.read() as tx:
            return tx.figures.archive_figures()

    sources = MetricSources(
        queue_figures=line, archive_figures=archive, disk_usage=partial(disk_usage, config), schema=schema.head()
    )
    return serve_metrics(sources, address=config.metrics.address, port=config.metrics.port)


def disk_usage(config: Config) -> dict[str, int]:
    """Return how much disk is free, and how much the prefix store takes, bytes by name. OutOfResources."""
    room = {
        "storage_free": compose.open_image_store(config).free_bytes(),
        "storage_min_free": int(config.storage.min_free),
    }
    if config.activation_cache.enabled:
        room |= {"prefix_store": activation_cache_bytes(config), "prefix_store_limit": int(config.activation_cache.max_size)}
    return room


def activation_cache_bytes(config: Config) -> int:
    """Return what the prefix store takes on this host."""
    taken = 0
    for path in config.activation_cache.directory.glob("*/*"):
        with suppress(FileNotFoundError):  # the oldest give way at any time
            taken += path.stat().st_size
    return taken
