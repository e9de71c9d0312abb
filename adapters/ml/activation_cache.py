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

from adapters.ml.activation_store import Identity, PrefixStore
from models.encoder.activations import Cut
from models.encoder.base import Base
from models.errors import CannotPartition
from pipeline.domain import StoredInstance
from pipeline.errors import ConfigurationError, OutOfResources

REST_SECONDS = 600.0
"""After trouble the store is left alone for so long."""
REFRESH_SECONDS = 60.0
"""How old the knowledge of what other processes have written or removed may be."""

Answer = TypeVar("Answer")

_log = structlog.get_logger("radclipd.gpu")


@dataclass(frozen=True, kw_only=True)
class KeptSettings:
    """`[prefix]` of the configuration. `limit`, `reserve`: bytes; `k`: in front of how many last blocks the encoder is cut.

    `rendering`: the number of the way in which a stored file becomes an image.
    """

    directory: Path
    limit: int
    reserve: int = 0
    k: int = 2
    rendering: int = 1


class Kept:
    """What one base makes of stored files, cut in front of its last blocks. `hits`, `misses`: of all that was read."""

    def __init__(self, base: Base, settings: KeptSettings | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._identity = _identity(base, settings)
        self._store: PrefixStore | None = None
        self._rests_until, self._fresh_until, self._troubled = 0.0, 0.0, False
        self.hits = self.misses = 0

    @property
    def k(self) -> int | None:
        """In front of how many last blocks the encoder is cut; None where nothing can be kept."""
        return None if self._identity is None else self._identity.k

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are not there, in order."""
        return self._quietly(lambda store: self._looked_up(store, keys), list(keys))

    def read(self, keys: Sequence[str]) -> dict[str, Cut]:
        """Return activations float16 [L, W] and features float32 [D] of those keys that are there."""

        def read(store: PrefixStore) -> dict[str, Cut]:
            self._looked_up(store, keys)
            got = store.read(keys)
            return dict(zip(got.keys, map(Cut, *got.images), strict=True))

        nothing: dict[str, Cut] = {}
        found = self._quietly(read, nothing)
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def write(self, keys: Sequence[str], images: Cut) -> None:
        """Keep n images, activations [n, L, W] and features [n, D], under n keys."""
        self._quietly(lambda store: store.write(keys, images), 0)

    def admits(self, film: StoredInstance) -> bool:
        """Say whether the activations of a film are to be kept: there is room, or older films have it."""
        return self._quietly(lambda store: store.admits(film.received_at.timestamp()), False)

    @property
    def capacity(self) -> int:
        """Films that there is room for, about; 0 where none are kept."""
        return self._quietly(lambda store: store.capacity, 0)

    def close(self) -> None:
        """Release files and locks."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _looked_up(self, store: PrefixStore, keys: Sequence[str]) -> list[str]:
        """Return the missing ones, after a look at what other processes did where some are."""
        missing = store.missing(keys)
        if missing and self._clock() >= self._fresh_until:
            store.refresh()
            self._fresh_until = self._clock() + REFRESH_SECONDS
            missing = store.missing(keys)
        return missing

    def _quietly(self, call: Callable[[PrefixStore], Answer], otherwise: Answer) -> Answer:
        """Call with the store. Where there is none, it rests, or is in trouble, which ends here: the other answer."""
        if self.k is None or self._clock() < self._rests_until:
            return otherwise
        try:
            answer = call(self._opened())
        except (OSError, OutOfResources, ConfigurationError) as error:
            self._rests_until = self._clock() + REST_SECONDS
            self.close()
            if not self._troubled:
                hint = getattr(error, "hint", "") or "see [prefix] of the configuration"
                _log.warning("the prefix store cannot be used", error=str(error), hint=hint)
            self._troubled = True
            return otherwise
        self._troubled = False
        return answer

    def _opened(self) -> PrefixStore:
        """Only where there are settings, and an identity."""
        if self._store is None:
            assert self._settings is not None
            assert self._identity is not None
            settings = self._settings
            self._store = PrefixStore(settings.directory, self._identity, limit=settings.limit, reserve=settings.reserve)
            self._fresh_until = self._clock() + REFRESH_SECONDS
        return self._store


def _identity(base: Base, settings: KeptSettings | None) -> Identity | None:
    if settings is None:
        return None
    try:
        return Identity.of(base, k=settings.k, rendering=settings.rendering)
    except CannotPartition as error:
        _log.warning("no activations are kept", reason=str(error))
        return None


def key_of(film: StoredInstance) -> str:
    """Return the key of a film as it is: that of its file's content."""
    return film.file.sha256
