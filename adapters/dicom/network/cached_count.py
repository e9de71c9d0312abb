"""Asking an archive no more often than it can be asked: the dispatcher looks at its studies twice a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.ports.services import Archive


class CachedInstanceCounter:
    """The counting half of ports.Archive, with a rest of `seconds` between two questions about the same study."""

    def __init__(self, archive: Archive, *, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._archive, self._seconds, self._clock = archive, max_age_seconds, clock
        self._asked: dict[str, tuple[float, int | None]] = {}

    def count_instances(self, study_instance_uid: str) -> int | None:
        """Return what the archive said of this study, at most `seconds` ago."""
        now = self._clock()
        self._asked = {study: said for study, said in self._asked.items() if now - said[0] < self._seconds}
        if study_instance_uid not in self._asked:
            self._asked[study_instance_uid] = (now, self._archive.count_instances(study_instance_uid))
        return self._asked[study_instance_uid][1]
