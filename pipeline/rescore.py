"""rescore: another version serves -> the archive is scored again, newest study first, behind whatever arrives."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.domain import JobKind
from pipeline.ports.services import Catalog

RESCORE_PRIORITY = 900
"""Of the score jobs of the archive; those of arriving studies come long before."""
MAX_WAITING_JOBS = 4_000
"""Score jobs that wait at a time, so that a promotion does not put the whole archive into the queue."""
JOBS_PER_TRANSACTION = 500
"""Jobs put in one transaction."""
STUDIES_PER_SPAN, SPANS_PER_ROUND = 10_000, 4
"""Studies looked at in one reading, and readings in one round: what a round costs does not grow with the archive."""
RESCORE_KEY = "rescored"
"""Key in the payload of such a job: the study has been reported before."""


@dataclass(slots=True)
class RescoreCursor:
    """How far down the archive has been looked, for which version: below study number `high` it is not known what is left.

    Kept in memory alone: whoever starts again looks from the newest study on, and finds what is left.
    """

    version: int = 0
    upper_bound: int = 0

    def next_numbers(self) -> range:
        """Return the numbers to look at next."""
        return range(max(1, self.upper_bound - STUDIES_PER_SPAN), self.upper_bound)


def rescore(*, catalog: Catalog, cursor: RescoreCursor | None = None) -> int:
    """Put score jobs for reported studies that the serving version has not scored; return how many.

    What is to be done follows from the catalog alone: it goes on wherever it was stopped, and begins anew by itself with each
    version that comes to serve. A study that was set aside in quarantine is left there. With the `walk` of the last round it goes
    on where that ended, and at the oldest study it begins anew, for one may have been reported meanwhile.
    """
    cursor = cursor or RescoreCursor()
    with catalog.read() as tx:
        serving = tx.versions.serving()
        room = MAX_WAITING_JOBS - tx.jobs.count_waiting(JobKind.SCORE, at_most=MAX_WAITING_JOBS)
        highest = tx.studies.highest_study_number()
    if serving is None:
        return 0
    if cursor.version != serving.number or cursor.upper_bound <= 1:
        cursor.version, cursor.upper_bound = serving.number, highest + 1
    queued = 0
    for _ in range(SPANS_PER_ROUND):
        queued += _enqueue_span(cursor, room - queued, catalog)
    return queued


def _enqueue_span(cursor: RescoreCursor, room: int, catalog: Catalog) -> int:
    """Look at one span and put what is left in it, at most `room`, into the queue; go on where nothing more is left in it."""
    queued = 0
    while queued < room and cursor.upper_bound > 1:
        limit = min(JOBS_PER_TRANSACTION, room - queued)
        with catalog.read() as tx:
            studies = tx.studies.unscored(cursor.version, limit=limit, numbers=cursor.next_numbers())
        if studies:
            with catalog.begin() as tx:
                for study_instance_uid in studies:
                    tx.jobs.put(JobKind.SCORE, study_instance_uid, {RESCORE_KEY: True}, priority=RESCORE_PRIORITY)
        queued += len(studies)
        if len(studies) < limit:
            cursor.upper_bound -= STUDIES_PER_SPAN
            break
    return queued
