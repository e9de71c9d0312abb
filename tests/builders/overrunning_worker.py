"""A worker whose step never ends. Arguments: URL of the catalog; python, c, transaction or batch: where it loops."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from adapters.catalog.catalog import SqlCatalog
from adapters.service.overrun_guard import ForkedOverrunGuard
from pipeline import work
from pipeline.domain import Job, JobKind

POLICY = work.WorkPolicy(lease_seconds=0.9, max_seconds={JobKind.LABEL: 1.0})


def record(url: str, jobs: Sequence[Job], seconds: float) -> None:
    """Record an overrun in a catalog of the guard's own."""
    catalog = SqlCatalog.open(url, busy_timeout_seconds=1, wake=lambda _kinds: None)
    work.end_overrun(jobs, seconds, catalog=catalog, policy=POLICY)
    catalog.dispose()


def loop(kind: str, catalog: SqlCatalog, jobs: Sequence[Job]) -> Iterator[work.JobOutcome]:
    """Take the jobs called "quick", then never return."""
    for job in jobs:
        if job.subject == "quick":
            with catalog.begin() as tx:
                tx.jobs.finish(job)
            yield work.JobOutcome(job, None)
    if kind == "c":
        re.match(r"(a+)+$", "a" * 64 + "b")  # centuries in one call, which keeps the interpreter lock
    if kind == "transaction":
        with catalog.begin() as tx:
            tx.jobs.put(JobKind.LABEL, "never committed")
            while True:
                pass
    while True:
        pass


def main(url: str, kind: str) -> None:
    """Work off one batch."""
    with ForkedOverrunGuard(partial(record, url)) as guard:
        catalog = SqlCatalog.open(url, busy_timeout_seconds=5, wake=lambda _kinds: None)
        sizer = work.ClaimSizer(target_seconds=0.0, min_jobs=10 if kind == "batch" else 1, max_jobs=10)
        spec = work.WorkerSpec(kind=JobKind.LABEL, step=partial(loop, kind, catalog), claim_sizer=sizer)
        work.work_once(spec, catalog=catalog, worker="w", policy=POLICY, guard=guard)


if __name__ == "__main__":
    main(*sys.argv[1:])
