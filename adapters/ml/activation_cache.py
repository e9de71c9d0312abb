"""The prefix store as scoring and learning use it: it saves time where it can and never stands in the way.

Whatever goes wrong with it is said in one warning, and then it is as if nothing were kept, for a while.
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
"""After trouble the store is left alone for so long."""
REFRESH_SECONDS = 60.0
"""How old the knowledge of what other processes have written or removed may be."""

Answer = TypeVar("Answer")

_log = structlog.get_logger("radclipd.gpu")


@dataclass(frozen=True, kw_only=True)
class ActivationCacheSettings:
    """`[activation_cache]` of the configuration. `max_bytes`, `reserve_bytes`: bytes; `k`: unfrozen blocks behind the activations.

    `rendering`: the number of the way in which a stored file becomes an image.
    """

    directory: Path
    max_bytes: int
    reserve_bytes: int = 0
    k: int = 2
    rendering: int = 1


class ActivationCache:
    """What one base makes of stored files, cut in front of its last blocks. `hits`, `misses`: of all that was read."""

    def __init__(
        self, base: Base, settings: ActivationCacheSettings | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self._identity = _build_identity(base, settings)
        self._store: ActivationStore | None = None
        self._rests_until, self._fresh_until, self._troubled = 0.0, 0.0, False
        self.hits = self.misses = 0

    @property
    def k(self) -> int | None:
        """In front of how many last blocks the encoder is cut; None where nothing can be kept."""
        return None if self._identity is None else self._identity.k

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are not there, in order."""
        return self._call_store(lambda store: self._find_missing(store, keys), list(keys))

    def read(self, keys: Sequence[str]) -> dict[str, SplitActivations]:
        """Return activations float16 [L, W] and features float32 [D] of those keys that are there."""

        def read(store: ActivationStore) -> dict[str, SplitActivations]:
            self._find_missing(store, keys)
            got = store.read(keys)
            return dict(zip(got.keys, map(SplitActivations, *got.split), strict=True))

        nothing: dict[str, SplitActivations] = {}
        found = self._call_store(read, nothing)
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def write(self, keys: Sequence[str], split: SplitActivations) -> None:
        """Keep n images, activations [n, L, W] and features [n, D], under n keys."""
        self._call_store(lambda store: store.write(keys, split), 0)

    def admits(self, instance: StoredInstance) -> bool:
        """Say whether the activations of a film are to be kept: there is room, or older films have it."""
        return self._call_store(lambda store: store.admits(instance.received_at.timestamp()), False)

    @property
    def capacity(self) -> int:
        """Films that there is room for, about; 0 where none are kept."""
        return self._call_store(lambda store: store.capacity, 0)

    def close(self) -> None:
        """Release files and locks."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _find_missing(self, store: ActivationStore, keys: Sequence[str]) -> list[str]:
        """Return the missing ones, after a look at what other processes did where some are."""
        missing = store.missing(keys)
        if missing and self._clock() >= self._fresh_until:
            store.refresh()
            self._fresh_until = self._clock() + REFRESH_SECONDS
            missing = store.missing(keys)
        return missing

    def _call_store(self, call: Callable[[ActivationStore], Answer], default: Answer) -> Answer:
        """Call with the store. Where there is none, it rests, or is in trouble, which ends here: the other answer."""
        if self.k is None or self._clock() < self._rests_until:
            return default
        try:
            answer = call(self._open_store())
        except (OSError, OutOfResources, ConfigurationError) as error:
            self._rests_until = self._clock() + BACKOFF_SECONDS
            self.close()
            if not self._troubled:
                hint = getattr(error, "hint", "") or "see [activation_cache] of the configuration"
                _log.warning("the prefix store cannot be used", error=str(error), hint=hint)
            self._troubled = True
            return default
        self._troubled = False
        return answer

    def _open_store(self) -> ActivationStore:
        """Only where there are settings, and an identity."""
        if self._store is None:
            assert self._settings is not None
            assert self._identity is not None
            settings = self._settings
            self._store = ActivationStore(
                settings.directory, self._identity, max_bytes=settings.max_bytes, reserve_bytes=settings.reserve_bytes
            )
            self._fresh_until = self._clock() + REFRESH_SECONDS
        return self._store


def _build_identity(base: Base, settings: ActivationCacheSettings | None) -> ActivationIdentity | None:
    if settings is None:
        return None
    try:
        return ActivationIdentity.of_base(base, k=settings.k, rendering=settings.rendering)
    except CannotPartition as error:
        _log.warning("no activations are kept", reason=str(error))
        return None


def activation_key(instance: StoredInstance) -> str:
    """Return the key of a film as it is: that of its file's content."""
    return instance.file.sha256
