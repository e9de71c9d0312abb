"""rescore: another version serves -> the archive is scored again, newest study first, behind whatever arrives."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.domain import JobKind
from pipeline.ports.outside import Catalog

PRIORITY = 900
"""Of the score jobs of the archive; those of arriving studies come long before."""
WAITING_AT_MOST = 4_000
"""Score jobs that wait at a time, so that a promotion does not put the whole archive into the queue."""
AT_A_TIME = 500
"""Jobs put in one transaction."""
SPAN, SPANS = 10_000, 4
"""Studies looked at in one reading, and readings in one round: what a round costs does not grow with the archive."""
RESCORED = "rescored"
"""Key in the payload of such a job: the study has been reported before."""


@dataclass(slots=True)
class Walk:
    """How far down the archive has been looked, for which version: below study number `high` it is not known what is left.

    Kept in memory alone: whoever starts again looks from the newest study on, and finds what is left.
    """

    version: int = 0
    high: int = 0

    def span(self) -> range:
        """Return the numbers to look at next."""
        return range(max(1, self.high - SPAN), self.high)


def rescore(*, catalog: Catalog, walk: Walk | None = None) -> int:
    """Put score jobs for reported studies that the serving version has not scored; return how many.

    What is to be done follows from the catalog alone: it goes on wherever it was stopped, and begins anew by itself with each
    version that comes to serve. A study that was set aside in quarantine is left there. With the `walk` of the last round it goes
    on where that ended, and at the oldest study it begins anew, for one may have been reported meanwhile.
    """
    walk = walk or Walk()
    with catalog.read() as tx:
        serving = tx.versions.serving()
        room = WAITING_AT_MOST - tx.jobs.waiting(JobKind.SCORE, at_most=WAITING_AT_MOST)
        highest = tx.studies.highest()
    if serving is None:
        return 0
    if walk.version != serving.number or walk.high <= 1:
        walk.version, walk.high = serving.number, highest + 1
    queued = 0
    for _ in range(SPANS):
        queued += _look(walk, room - queued, catalog)
    return queued


def _look(walk: Walk, room: int, catalog: Catalog) -> int:
    """Look at one span and put what is left in it, at most `room`, into the queue; go on where nothing more is left in it."""
    queued = 0
    while queued < room and walk.high > 1:
        limit = min(AT_A_TIME, room - queued)
        with catalog.read() as tx:
            studies = tx.studies.unscored(walk.version, limit=limit, numbers=walk.span())
        if studies:
            with catalog.begin() as tx:
                for study_instance_uid in studies:
                    tx.jobs.put(JobKind.SCORE, study_instance_uid, {RESCORED: True}, priority=PRIORITY)
        queued += len(studies)
        if len(studies) < limit:
            walk.high -= SPAN
            break
    return queued
