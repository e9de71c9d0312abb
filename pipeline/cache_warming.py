"""cache_warming: the archive -> activations in the cache for images that arrived before it, or that it has lost.

A later version scores cached images without decoding them. Warming runs only while no other work waits, a few images per turn,
newest study first, and never evicts cached activations. The remaining work follows from the catalog and the cache, so warming
resumes after a stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from pipeline import rules
from pipeline.domain import JobKind, JobState, StoredInstance
from pipeline.errors import PixelsUnreadable
from pipeline.ports.images import ImageReader, ModelInput
from pipeline.ports.services import Catalog, Scorer, Transaction

STUDIES_PER_TURN = 100
"""Largest number of studies compared with the cache in one turn."""
INSTANCES_PER_TURN = 4
"""Largest number of images decoded in one turn: a new job waits no longer than for these."""
PASS_INTERVAL = timedelta(hours=1)
"""Time between two passes over the archive."""
BLOCKING_KINDS = (JobKind.SCORE, JobKind.LEARN)
"""No warming while a job of these kinds waits or runs anywhere."""


@dataclass(slots=True, kw_only=True)
class CacheWarmer:
    """Passes over the archive, one turn per call. `scorer` returns the loaded serving version."""

    catalog: Catalog
    pixels: ImageReader
    scorer: Callable[[], Scorer]
    chest: rules.ChestPolicy
    _remaining_studies: Iterator[str] | None = field(default=None, init=False)
    _pending_instances: list[StoredInstance] = field(default_factory=list, init=False)
    _unreadable: set[str] = field(default_factory=set, init=False)
    _next_pass_at: datetime | None = field(default=None, init=False)

    def __call__(self) -> bool:
        """Run one turn; return whether another turn may follow at once. NoWeights where no version serves."""
        with self.catalog.read() as tx:
            if not self._is_due(tx):
                return False
        scorer = self.scorer()
        if not self._pending_instances and not self._scan_studies(scorer):
            return False
        turn, self._pending_instances = self._pending_instances[:INSTANCES_PER_TURN], self._pending_instances[INSTANCES_PER_TURN:]
        self._cache_instances(scorer, scorer.uncached(turn))
        return True

    def warm_studies(self, studies: Sequence[str]) -> None:
        """Cache the images of these studies at once, as far as there is room. NoWeights where no version serves."""
        scorer = self.scorer()
        with self.catalog.read() as tx:
            uncached = self._select_uncached(scorer, self._choose_instances(tx, studies))
        for start in range(0, len(uncached), INSTANCES_PER_TURN):
            self._cache_instances(scorer, uncached[start : start + INSTANCES_PER_TURN])

    def _choose_instances(self, tx: Transaction, studies: Sequence[str]) -> list[StoredInstance]:
        return [image for uid in studies for image in rules.choose_images(tx.studies.instances(uid), self.chest).images]

    def _select_uncached(self, scorer: Scorer, instances: Sequence[StoredInstance]) -> list[StoredInstance]:
        uncached = scorer.uncached(instances)
        return [instance for instance in uncached if instance.header.sop_instance_uid not in self._unreadable]

    def _scan_studies(self, scorer: Scorer) -> bool:
        """Find the uncached images of the next studies; False at the end of the pass."""
        with self.catalog.read() as tx:
            if self._remaining_studies is None:
                self._remaining_studies = iter(tx.studies.newest_complete(limit=scorer.cache_capacity))
            studies = list(islice(self._remaining_studies, STUDIES_PER_TURN))
            instances = self._choose_instances(tx, studies)
            if not studies:
                self._remaining_studies, self._next_pass_at = None, tx.now() + PASS_INTERVAL
                return False
        self._pending_instances = self._select_uncached(scorer, instances)
        return True

    def _is_due(self, tx: Transaction) -> bool:
        if self._next_pass_at is not None and tx.now() < self._next_pass_at:
            return False
        counts = tx.jobs.count_by_state()
        return not any(counts.get((kind, state)) for kind in BLOCKING_KINDS for state in (JobState.WAITING, JobState.RUNNING))

    def _cache_instances(self, scorer: Scorer, instances: Sequence[StoredInstance]) -> None:
        model_inputs = self.pixels.read_ahead(instances, scorer.input_transform)
        readable: list[tuple[StoredInstance, ModelInput]] = []
        for instance, model_input in zip(instances, model_inputs, strict=True):
            if isinstance(model_input, PixelsUnreadable):  # not reported here: scoring has reported it
                self._unreadable.add(instance.header.sop_instance_uid)
            else:
                readable.append((instance, model_input))
        if readable:
            scorer.cache_activations([model_input for _, model_input in readable], [instance for instance, _ in readable])
