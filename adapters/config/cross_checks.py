"""Checks of keys against each other, over sections. Each names the key, its place and the remedy."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from adapters.config import file
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from adapters.config.sections import Config


def require_tls_files(config: Config, origin: file.ConfigOrigin) -> None:
    """Refuse a use of TLS without the files of [tls], and a TLS port that is the other port."""
    uses = {"listener.tls_port": config.listener.tls_port, "listener.require_tls": config.listener.require_tls}
    for key, used in (uses | {"archive.tls": config.archive.tls}).items():
        if used and not config.tls.certificate_file:
            raise ConfigurationError(
                f"{origin.location(key)}: {key} needs certificates", hint="set certificate_file, key_file and ca_file in [tls]"
            )
    if config.listener.require_tls and not config.listener.tls_port:
        raise ConfigurationError(
            f"{origin.location('listener.require_tls')}: listener.require_tls = true leaves no port to senders",
            hint="set listener.tls_port, usually 2762",
        )
    if config.listener.tls_port == config.listener.port:
        raise ConfigurationError(
            f"{origin.location('listener.tls_port')}: listener.port and listener.tls_port are both {config.listener.port}",
            hint="TLS needs a port of its own, usually 2762",
        )


def require_safekeeping(config: Config, origin: file.ConfigOrigin) -> None:
    """Refuse retention beside storage commitment for senders, who may delete what this host has committed to keep (PS3.4 J.1)."""
    if config.listener.storage_commitment and config.retention.min_free:
        raise ConfigurationError(
            f"{origin.location('retention.min_free')}: retention would delete what listener.storage_commitment promises to keep",
            hint="set retention.min_free = 0, or listener.storage_commitment = false",
        )


def require_rising_levels(config: Config, origin: file.ConfigOrigin) -> None:
    """Refuse levels of free disk space that do not rise: refuse senders, slow senders, warn, delete. A level of 0 is off."""
    storage, retention = config.storage, config.retention
    levels = {
        "storage.min_free": storage.min_free,
        "storage.slow_free": storage.slow_free,
        "storage.warn_free": storage.warn_free,
        "retention.min_free": retention.min_free,
    }
    used = [(key, size) for key, size in levels.items() if size]
    for (lower, less), (key, more) in pairwise(used):
        if more <= less:
            raise ConfigurationError(
                f"{origin.location(key)}: {key} = {more.human_readable()} is not above {lower} = {less.human_readable()}",
                hint="storage.min_free < storage.slow_free < storage.warn_free < retention.min_free; 0 is off",
            )
