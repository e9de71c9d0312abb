"""fill: what was kept of the newest films lets a later version score them fast -> the same for films that came before, or lost it.

Only where nothing else is to be done, a few films a turn, the newest first, and never in the place of what is kept already. What
is to be done follows from the catalog and from what is kept: it goes on wherever it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from pipeline import rules
from pipeline.domain import JobKind, JobState, StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader
from pipeline.ports.services import Catalog, Scorer, Transaction

STUDIES_PER_TURN = 100
"""Looked at in one turn, at most."""
INSTANCES_PER_TURN = 4
"""Read in one turn, at most: work that arrives meanwhile waits no longer than for these."""
PASS_INTERVAL = timedelta(hours=1)
"""Between two walks through the archive."""
BLOCKING_KINDS = (JobKind.SCORE, JobKind.LEARN)
"""While a job of these kinds waits or runs anywhere, nothing is filled."""


@dataclass(slots=True, kw_only=True)
class CacheWarmer:
    """A walk through the archive, a turn at each call. `scorer` gives the loaded serving version."""

    catalog: Catalog
    pixels: ImageReader
    scorer: Callable[[], Scorer]
    chest: rules.ChestPolicy
    _remaining_studies: Iterator[str] | None = field(default=None, init=False)
    _pending_instances: list[StoredInstance] = field(default_factory=list, init=False)
    _unreadable: set[str] = field(default_factory=set, init=False)
    _next_pass_at: datetime | None = field(default=None, init=False)

    def __call__(self) -> bool:
        """Do a little; say whether there may be more to do at once. NoWeights where no version serves."""
        with self.catalog.read() as tx:
            if not self._is_due(tx):
                return False
        scorer = self.scorer()
        if not self._pending_instances and not self._scan_studies(scorer):
            return False
        some, self._pending_instances = self._pending_instances[:INSTANCES_PER_TURN], self._pending_instances[INSTANCES_PER_TURN:]
        self._cache_instances(scorer, scorer.uncached(some))
        return True

    def warm_studies(self, studies: Sequence[str]) -> None:
        """Keep at once what is not kept of the films of these studies, where there is room. NoWeights where no version serves."""
        scorer = self.scorer()
        with self.catalog.read() as tx:
            left = self._select_uncached(scorer, self._choose_instances(tx, studies))
        for start in range(0, len(left), INSTANCES_PER_TURN):
            self._cache_instances(scorer, left[start : start + INSTANCES_PER_TURN])

    def _choose_instances(self, tx: Transaction, studies: Sequence[str]) -> list[StoredInstance]:
        return [film for uid in studies for film in rules.choose_images(tx.studies.instances(uid), self.chest).images]

    def _select_uncached(self, scorer: Scorer, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        return [film for film in scorer.uncached(instances) if film.header.sop_instance_uid not in self._unreadable]

    def _scan_studies(self, scorer: Scorer) -> bool:
        """Look at the next studies; False at the end of the walk."""
        with self.catalog.read() as tx:
            if self._remaining_studies is None:
                self._remaining_studies = iter(tx.studies.newest_complete(limit=scorer.cache_capacity))
            studies = list(islice(self._remaining_studies, STUDIES_PER_TURN))
            films = self._choose_instances(tx, studies)
            if not studies:
                self._remaining_studies, self._next_pass_at = None, tx.now() + PASS_INTERVAL
                return False
        self._pending_instances = self._select_uncached(scorer, films)
        return True

    def _is_due(self, tx: Transaction) -> bool:
        if self._next_pass_at is not None and tx.now() < self._next_pass_at:
            return False
        counts = tx.jobs.count_by_state()
        return not any(counts.get((kind, state)) for kind in BLOCKING_KINDS for state in (JobState.WAITING, JobState.RUNNING))

    def _cache_instances(self, scorer: Scorer, instances: Sequence[StoredInstance]) -> None:
        seen = list(zip(instances, self.pixels.read_ahead(instances, scorer.input_transform), strict=True))
        read = [(film, found) for film, found in seen if not isinstance(found, PixelsUnreadable)]
        self._unreadable |= {film.header.sop_instance_uid for film, found in seen if isinstance(found, PixelsUnreadable)}
        if read:  # of the others scoring has said so
            scorer.cache_activations([image for _, image in read], [film for film, _ in read])
