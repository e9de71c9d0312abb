"""Where the metrics come from: the part of the composition root that joins catalog, disks and the server for scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app import compose
from pipeline.errors import TryAgain
from pipeline.figures import Archive, Line

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
                port = open_until_then.enter_context(_served(config, catalog))
            except TryAgain as error:
                log.error("no metrics", error=str(error), hint=error.hint)
        yield port


def _served(config: Config, catalog: SqlCatalog) -> AbstractContextManager[int]:
    from adapters.catalog import schema
    from adapters.service.prometheus import Sources, served

    def line() -> Line:
        with catalog.read() as tx:
            return tx.standing.line()

    def archive() -> Archive:
        with catalog.read() as tx:
            return tx.standing.archive()

    sources = Sources(line=line, archive=archive, room=partial(room_of, config), schema=schema.head())
    return served(sources, address=config.metrics.address, port=config.metrics.port)


def room_of(config: Config) -> dict[str, int]:
    """Return how much disk is free, and how much the prefix store takes, bytes by name. OutOfResources."""
    room = {
        "storage_free": compose.open_image_store(config).free_bytes(),
        "storage_minimum_free": int(config.storage.minimum_free),
    }
    if config.prefix.keep:
        room |= {"prefix_store": prefix_bytes(config), "prefix_store_limit": int(config.prefix.limit)}
    return room


def prefix_bytes(config: Config) -> int:
    """Return what the prefix store takes on this host."""
    taken = 0
    for path in config.prefix.directory.glob("*/*"):
        with suppress(FileNotFoundError):  # the oldest give way at any time
            taken += path.stat().st_size
    return taken
