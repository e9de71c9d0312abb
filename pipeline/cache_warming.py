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
from pipeline.ports.outside import Catalog, Scorer, Transaction

STUDIES = 100
"""Looked at in one turn, at most."""
FILMS = 4
"""Read in one turn, at most: work that arrives meanwhile waits no longer than for these."""
REST = timedelta(hours=1)
"""Between two walks through the archive."""
BUSY = (JobKind.SCORE, JobKind.LEARN)
"""While a job of these kinds waits or runs anywhere, nothing is filled."""


@dataclass(slots=True, kw_only=True)
class Fill:
    """A walk through the archive, a turn at each call. `scorer` gives the loaded serving version."""

    catalog: Catalog
    pixels: ImageReader
    scorer: Callable[[], Scorer]
    chest: rules.ChestPolicy
    _left: Iterator[str] | None = field(default=None, init=False)
    _found: list[StoredInstance] = field(default_factory=list, init=False)
    _unreadable: set[str] = field(default_factory=set, init=False)
    _rests_until: datetime | None = field(default=None, init=False)

    def __call__(self) -> bool:
        """Do a little; say whether there may be more to do at once. NoWeights where no version serves."""
        with self.catalog.read() as tx:
            if not self._due(tx):
                return False
        scorer = self.scorer()
        if not self._found and not self._look(scorer):
            return False
        some, self._found = self._found[:FILMS], self._found[FILMS:]
        self._keep(scorer, scorer.not_kept(some))
        return True

    def of(self, studies: Sequence[str]) -> None:
        """Keep at once what is not kept of the films of these studies, where there is room. NoWeights where no version serves."""
        scorer = self.scorer()
        with self.catalog.read() as tx:
            left = self._wanted(scorer, self._films(tx, studies))
        for start in range(0, len(left), FILMS):
            self._keep(scorer, left[start : start + FILMS])

    def _films(self, tx: Transaction, studies: Sequence[str]) -> list[StoredInstance]:
        return [film for uid in studies for film in rules.choose_images(tx.studies.instances(uid), self.chest).images]

    def _wanted(self, scorer: Scorer, films: Sequence[StoredInstance]) -> list[StoredInstance]:
        return [film for film in scorer.not_kept(films) if film.header.sop_instance_uid not in self._unreadable]

    def _look(self, scorer: Scorer) -> bool:
        """Look at the next studies; False at the end of the walk."""
        with self.catalog.read() as tx:
            if self._left is None:
                self._left = iter(tx.studies.newest(limit=scorer.room))
            studies = list(islice(self._left, STUDIES))
            films = self._films(tx, studies)
            if not studies:
                self._left, self._rests_until = None, tx.now() + REST
                return False
        self._found = self._wanted(scorer, films)
        return True

    def _due(self, tx: Transaction) -> bool:
        if self._rests_until is not None and tx.now() < self._rests_until:
            return False
        counts = tx.jobs.counts()
        return not any(counts.get((kind, state)) for kind in BUSY for state in (JobState.WAITING, JobState.RUNNING))

    def _keep(self, scorer: Scorer, films: Sequence[StoredInstance]) -> None:
        seen = list(zip(films, self.pixels.read_ahead(films, scorer.sight, scorer.land), strict=True))
        read = [(film, found) for film, found in seen if not isinstance(found, PixelsUnreadable)]
        self._unreadable |= {film.header.sop_instance_uid for film, found in seen if isinstance(found, PixelsUnreadable)}
        if read:  # of the others scoring has said so
            scorer.keep([image for _, image in read], [film for film, _ in read])
