"""rescore: another version serves -> the archive is scored again, newest study first, behind whatever arrives."""

from __future__ import annotations

from pipeline.domain import JobKind, JobState
from pipeline.ports import Catalog

PRIORITY = 900
"""Of the score jobs of the archive; those of arriving studies come long before."""
WAITING_AT_MOST = 500
"""Score jobs that wait at a time, so that a promotion does not put the whole archive into the queue."""
RESCORED = "rescored"
"""Key in the payload of such a job: the study has been reported before."""


def rescore(*, catalog: Catalog) -> int:
    """Put score jobs for reported studies that the serving version has not scored; return how many.

    What is to be done follows from the catalog alone: it goes on wherever it was stopped, and begins anew by itself with each
    version that comes to serve. A study that was set aside in quarantine is left there.
    """
    with catalog.begin() as tx:
        serving = tx.versions.serving()
        room = WAITING_AT_MOST - tx.jobs.counts().get((JobKind.SCORE, JobState.WAITING), 0)
        if serving is None or room <= 0:
            return 0
        studies = tx.studies.unscored(serving.number, limit=room)
        for study_instance_uid in studies:
            tx.jobs.put(JobKind.SCORE, study_instance_uid, {RESCORED: True}, priority=PRIORITY)
    return len(studies)
