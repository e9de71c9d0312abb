"""The sources of the metrics: the catalog's figures, the disks, and the server for scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pipeline.errors import TransientError
from pipeline.figures import ArchiveFigures, QueueFigures

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.storage.image_store import FileImageStore

log = structlog.get_logger("radclipd.metrics")


@contextmanager
def open_metrics(config: Config, catalog: SqlCatalog, images: FileImageStore) -> Iterator[int]:
    """Answer scrapes while the context is open; give the port.

    0 where `[metrics]` is off, or where the port is taken: that is an error in the log, and no reason to leave studies unsettled.
    """
    with ExitStack() as serving:
        port = 0
        if config.metrics.enabled:
            try:
                port = serving.enter_context(_serve_metrics(config, catalog, images))
            except TransientError as error:
                log.error("no metrics", error=str(error), hint=error.hint)
        yield port


def _serve_metrics(config: Config, catalog: SqlCatalog, images: FileImageStore) -> AbstractContextManager[int]:
    from adapters.catalog import schema
    from adapters.service.prometheus import MetricSources, serve_metrics

    def queue_figures() -> QueueFigures:
        with catalog.read() as tx:
            return tx.figures.current_figures()

    def archive_figures() -> ArchiveFigures:
        with catalog.read() as tx:
            return tx.figures.archive_figures()

    sources = MetricSources(
        queue_figures=queue_figures,
        archive_figures=archive_figures,
        disk_usage=partial(disk_usage, config, images),
        schema=schema.head(),
    )
    return serve_metrics(sources, address=config.metrics.address, port=config.metrics.port)


def disk_usage(config: Config, images: FileImageStore) -> dict[str, int]:
    """Return the free disk space, its guard, and the size and limit of the activation cache: bytes by name. OutOfResources."""
    usage = {"storage_free": images.free_bytes(), "storage_min_free": int(config.storage.min_free)}
    if config.activation_cache.enabled:
        usage |= {
            "activation_cache": activation_cache_bytes(config),
            "activation_cache_limit": int(config.activation_cache.max_size),
        }
    return usage


def activation_cache_bytes(config: Config) -> int:
    """Return the size of the activation cache on this host, bytes."""
    total = 0
    for path in config.activation_cache.directory.rglob("*"):
        with suppress(FileNotFoundError):  # the rollback journal is deleted after each transaction
            total += path.stat().st_size if path.is_file() else 0
    return total
