"""housekeeping: what the clock runs now and then. Nothing here is needed for a result; it keeps the catalog small."""

from __future__ import annotations

from pipeline.ports.services import Catalog

JOBS_PER_PURGE = 5_000
"""Jobs deleted in one transaction: whoever writes meanwhile waits for some tenths of a second at most."""


def purge_done_jobs(*, catalog: Catalog, keep_days: float) -> int:
    """Delete jobs done more than `keep_days` ago; return how many. Quarantined ones stay until a person decides."""
    purged = 0
    while True:
        with catalog.begin() as tx:
            some = tx.jobs.purge_done(older_than_days=keep_days, limit=JOBS_PER_PURGE)
        purged += some
        if some < JOBS_PER_PURGE:
            return purged
