"""housekeeping: what the clock runs now and then. Nothing here is needed for a result; it keeps the catalog small."""

from __future__ import annotations

from pipeline.ports import Catalog


def purge_done_jobs(*, catalog: Catalog, keep_days: float) -> int:
    """Delete jobs done more than `keep_days` ago; return how many. Quarantined ones stay until a person decides."""
    with catalog.begin() as tx:
        return tx.jobs.purge_done(older_than_days=keep_days)
