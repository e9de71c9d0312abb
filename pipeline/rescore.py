"""rescore: another version serves -> score jobs for the archive, newest study first, behind arrivals."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import priorities
from pipeline.domain import JobKind
from pipeline.ports.services import Catalog

MAX_WAITING_JOBS = 4_000
"""Score jobs that wait at any time: a promotion does not put the whole archive into the queue."""
JOBS_PER_TRANSACTION = 500
"""Jobs put in one transaction."""
STUDIES_PER_SPAN, SPANS_PER_ROUND = 10_000, 4
"""Studies in one query, and queries in one round: the cost of a round does not grow with the archive."""
RESCORE_KEY = "rescored"
"""Payload key of such a job: the study has been scored before, by another version."""


@dataclass(slots=True)
class RescoreCursor:
    """Position of the walk through the archive, from the newest study to the oldest. Kept in memory only: after a restart the walk
    begins at the newest study and skips studies that are done."""

    version: int = 0  # number of the version that the walk is for; 0: not begun
    upper_bound: int = 0  # studies with this number or a higher one have been visited

    def next_numbers(self) -> range:
        """Return the study numbers of the next span."""
        return range(max(1, self.upper_bound - STUDIES_PER_SPAN), self.upper_bound)


def rescore(*, catalog: Catalog, cursor: RescoreCursor | None = None) -> int:
    """Enqueue score jobs for reported studies that the serving version has not scored; return their number.

    The remaining work follows from the catalog alone, so re-scoring resumes after a stop, and restarts with each promotion.
    Quarantined studies stay in quarantine. With the `cursor` of the last round the walk resumes there; after the oldest study it
    restarts at the newest, because further studies may have been reported meanwhile.
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
    """Enqueue the remaining studies of one span, at most `room`; advance the cursor when the span is done. Return the number."""
    queued = 0
    while queued < room and cursor.upper_bound > 1:
        limit = min(JOBS_PER_TRANSACTION, room - queued)
        with catalog.read() as tx:
            studies = tx.studies.unscored(cursor.version, limit=limit, numbers=cursor.next_numbers())
        if studies:
            with catalog.begin() as tx:
                for study_instance_uid in studies:
                    tx.jobs.put(JobKind.SCORE, study_instance_uid, {RESCORE_KEY: True}, priority=priorities.RESCORE)
        queued += len(studies)
        if len(studies) < limit:
            cursor.upper_bound -= STUDIES_PER_SPAN
            break
    return queued
