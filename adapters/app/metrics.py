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
        certificate_ends=partial(certificate_ends, config),
        schema=schema.head(),
    )
    return serve_metrics(sources, address=config.metrics.address, port=config.metrics.port)


def certificate_ends(config: Config) -> dict[tuple[str, str], float]:
    """Return the ends of the certificates of `[tls]`, seconds since 1970, by key of the file and subject. ConfigurationError."""
    from adapters.app.compose import make_tls_endpoint
    from adapters.dicom.network.certificates import read_certificates

    endpoint = make_tls_endpoint(config)
    if endpoint is None:
        return {}
    files = {"certificate_file": endpoint.settings.certificate_file, "ca_file": endpoint.settings.ca_file}
    return {(key, one.subject): one.not_after.timestamp() for key, path in files.items() for one in read_certificates(path)}


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
