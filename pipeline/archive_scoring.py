"""blocks: an archive of any size, cut by the numbers of its studies -> each block through the very step of the queue.

Any number of blocks at a time, on any hosts: the jobs of a block are leased like others, so nothing is scored twice, neither by
two blocks nor by a worker of the queue, and what a lost machine had in hand comes free with its lease. What is to be done follows
from the catalog alone: a block that is tried again, or a walk that begins anew, does only what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import rescore, versions
from pipeline.domain import JobKind
from pipeline.ports.services import Catalog
from pipeline.work import WorkerSpec, WorkPolicy, work_once

BLOCK_SIZE = 64
"""Studies of a block, at most."""


@dataclass(frozen=True, slots=True)
class StudyBlock:
    """Studies by number, both ends in it."""

    first: int
    last: int

    @property
    def numbers(self) -> range:
        """Them all, as the catalog is asked for them."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What became of a block: jobs worked off, and jobs that others have in hand, alive or not: it is to be looked at again."""

    jobs: int
    leased_jobs: int


def cut_blocks(*, catalog: Catalog, size: int = BLOCK_SIZE) -> Iterator[StudyBlock]:
    """Cut the catalog into blocks, the newest first."""
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
    """Score what the serving version has not scored of a block; then `fill`, of all of its studies. NoWeights, OutOfResources.

    Studies that wait for their scores have a job; those that another version has scored, and that came to their end, get one.
    """
    with catalog.begin() as tx:
        serving = versions.require_serving(tx)
        subjects = tx.studies.uids_by_number(block.numbers)
        for study_instance_uid in tx.studies.unscored(serving.number, limit=max(1, len(subjects)), numbers=block.numbers):
            tx.jobs.put(JobKind.SCORE, study_instance_uid, {rescore.RESCORE_KEY: True}, priority=rescore.RESCORE_PRIORITY)
    ours = replace(spec, subjects=subjects, idle_task=lambda: False)
    done = 0
    while claimed := work_once(ours, catalog=catalog, worker=worker, policy=policy):
        done += claimed
    warm_cache(subjects)
    with catalog.read() as tx:
        return BlockResult(done, tx.jobs.count_leased(JobKind.SCORE, subjects))
