"""archive_scoring: an archive of any size -> blocks of studies by number -> each block through the score step of the queue.

Any number of blocks run at a time, on any hosts. The jobs of a block are leased as all jobs are, so no study is scored twice,
neither by two blocks nor by a worker of the queue, and the jobs of a lost machine become free when their leases expire. The
remaining work follows from the catalog alone: a block that is tried again scores only the remaining studies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import priorities, rescore, versions
from pipeline.domain import JobKind
from pipeline.ports.services import Catalog
from pipeline.work import WorkerSpec, WorkPolicy, work_once

BLOCK_SIZE = 64
"""Largest number of studies in a block."""


@dataclass(frozen=True, slots=True)
class StudyBlock:
    """The studies with numbers `first` to `last`, both included."""

    first: int
    last: int

    @property
    def numbers(self) -> range:
        """The study numbers."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """The result of a block."""

    jobs: int  # jobs run
    leased_jobs: int  # jobs leased by other workers, alive or dead; above 0: the block must be tried again


def cut_blocks(*, catalog: Catalog, size: int = BLOCK_SIZE) -> Iterator[StudyBlock]:
    """Cut the catalog into blocks of `size` studies, newest first."""
    with catalog.read() as tx:
        last = tx.studies.highest_study_number()
    return (StudyBlock(max(1, end - size + 1), end) for end in range(last, 0, -size))


def score_block(
    block: StudyBlock,
    *,
    spec: WorkerSpec,
    catalog: Catalog,
    worker: str,
    policy: WorkPolicy,
    warm_cache: Callable[[Sequence[str]], object] = lambda _studies: None,
) -> BlockResult:
    """Score the studies of a block that the serving version has not scored, then call `warm_cache` with all of its studies.

    Settled studies have a score job; studies that another version has scored, and that are complete, get one. NoWeights where no
    version serves; OutOfResources.
    """
    with catalog.begin() as tx:
        serving = versions.require_serving(tx)
        subjects = tx.studies.uids_by_number(block.numbers)
        for study_instance_uid in tx.studies.unscored(serving.number, limit=max(1, len(subjects)), numbers=block.numbers):
            tx.jobs.put(JobKind.SCORE, study_instance_uid, {rescore.RESCORE_KEY: True}, priority=priorities.RESCORE)
    block_spec = replace(spec, subjects=subjects, idle_task=lambda: False)
    done = 0
    while claimed := work_once(block_spec, catalog=catalog, worker=worker, policy=policy):
        done += claimed
    warm_cache(subjects)
    with catalog.read() as tx:
        return BlockResult(done, tx.jobs.count_leased(JobKind.SCORE, subjects))
