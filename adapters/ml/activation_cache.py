"""The activation cache of scoring and training: it saves time and never causes a failure.

A failure of its store is one warning; during the back-off after it the cache is empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from adapters.ml.activation_store import ActivationIdentity, ActivationStore
from models.encoder.activations import SplitActivations
from models.encoder.base import Base
from models.errors import CannotPartition
from pipeline.domain import StoredInstance
from pipeline.errors import ConfigurationError, OutOfResources

BACKOFF_SECONDS = 600.0
"""Time without access to the store after a failure."""

Answer = TypeVar("Answer")

_log = structlog.get_logger("radclipd.ml")


@dataclass(frozen=True, kw_only=True)
class ActivationCacheSettings:
    """`[activation_cache]` of the configuration. `k`: number of last blocks that the activations enter.

    `rendering`: version of the rendering of stored files to images.
    """

    directory: Path
    max_bytes: int
    reserve_bytes: int = 0
    k: int = 2
    rendering: int = 1


class ActivationCache:
    """Activations and features of stored files by one base. `hits`, `misses`: counts over all reads."""

    def __init__(
        self, base: Base, settings: ActivationCacheSettings | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self._identity = _build_identity(base, settings)
        self._store: ActivationStore | None = None
        self._backoff_until, self._failed = 0.0, False
        self.hits = self.misses = 0

    @property
    def k(self) -> int | None:
        """Number of last blocks that the activations enter; None where nothing can be cached."""
        return None if self._identity is None else self._identity.k

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the keys without an entry, in order."""
        return self._call_store(lambda store: store.missing(keys), list(keys))

    def read(self, keys: Sequence[str]) -> dict[str, SplitActivations]:
        """Return activations float16 [L, W] and features float32 [D] of the keys that have an entry."""

        def read(store: ActivationStore) -> dict[str, SplitActivations]:
            got = store.read(keys)
            return dict(zip(got.keys, map(SplitActivations, *got.split), strict=True))

        nothing: dict[str, SplitActivations] = {}
        found = self._call_store(read, nothing)
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def write(self, keys: Sequence[str], split: SplitActivations) -> None:
        """Write activations [n, L, W] and features [n, D] under n keys."""
        self._call_store(lambda store: store.write(keys, split), 0)

    def admits(self, instance: StoredInstance) -> bool:
        """Return whether to cache the activations of an instance: there is room, or entries of older instances to delete."""
        return self._call_store(lambda store: store.admits(instance.received_at.timestamp()), False)

    @property
    def capacity(self) -> int:
        """Approximate number of entries that fit; 0 where nothing is cached."""
        return self._call_store(lambda store: store.capacity, 0)

    def close(self) -> None:
        """Close the store's connections."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _call_store(self, call: Callable[[ActivationStore], Answer], default: Answer) -> Answer:
        """Call with the store. Return `default` without a store, during the back-off, and where the call fails."""
        if self.k is None or self._clock() < self._backoff_until:
            return default
        try:
            answer = call(self._open_store())
        except (OSError, OutOfResources, ConfigurationError) as error:
            self._backoff_until = self._clock() + BACKOFF_SECONDS
            self.close()
            if not self._failed:
                hint = getattr(error, "hint", "") or "see [activation_cache] of the configuration"
                _log.warning("the activation cache cannot be used", error=str(error), hint=hint)
            self._failed = True
            return default
        self._failed = False
        return answer

    def _open_store(self) -> ActivationStore:
        """Open the store once. Needs settings and an identity."""
        if self._store is None:
            assert self._settings is not None
            assert self._identity is not None
            settings = self._settings
            self._store = ActivationStore(
                settings.directory, self._identity, max_bytes=settings.max_bytes, reserve_bytes=settings.reserve_bytes
            )
        return self._store


def _build_identity(base: Base, settings: ActivationCacheSettings | None) -> ActivationIdentity | None:
    if settings is None:
        return None
    try:
        return ActivationIdentity.of_base(base, k=settings.k, rendering=settings.rendering)
    except CannotPartition as error:
        _log.warning("no activations are cached", reason=str(error))
        return None


def activation_key(instance: StoredInstance) -> str:
    """Return the key of an instance without augmentation: the SHA-256 of its file."""
    return instance.file.sha256
