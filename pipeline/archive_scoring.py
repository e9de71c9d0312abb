"""blocks: an archive of any size, cut by the numbers of its studies -> each block through the very step of the queue.

Any number of blocks at a time, on any hosts: the jobs of a block are leased like others, so nothing is scored twice, neither by
two blocks nor by a worker of the queue, and what a lost machine had in hand comes free with its lease. What is to be done follows
from the catalog alone: a block that is tried again, or a walk that begins anew, does only what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline import rescore
from pipeline.domain import JobKind
from pipeline.errors import NoWeights
from pipeline.ports.outside import Catalog
from pipeline.work import Post, WorkPolicy, work_once

SIZE = 64
"""Studies of a block, at most."""


@dataclass(frozen=True, slots=True)
class Block:
    """Studies by number, both ends in it."""

    first: int
    last: int

    @property
    def numbers(self) -> range:
        """Them all, as the catalog is asked for them."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a block: jobs worked off, and jobs that others have in hand, alive or not: it is to be looked at again."""

    jobs: int
    left: int


def cut(*, catalog: Catalog, size: int = SIZE) -> Iterator[Block]:
    """Cut the catalog into blocks, the newest first."""
    with catalog.read() as tx:
        last = tx.studies.highest()
    return (Block(max(1, end - size + 1), end) for end in range(last, 0, -size))


def score_block(
    block: Block,
    *,
    post: Post,
    catalog: Catalog,
    worker: str,
    policy: WorkPolicy,
    fill: Callable[[Sequence[str]], object] = lambda _studies: None,
) -> Done:
    """Score what the serving version has not scored of a block; then `fill`, of all of its studies. NoWeights, OutOfResources.

    Studies that wait for their scores have a job; those that another version has scored, and that came to their end, get one.
    """
    with catalog.begin() as tx:
        serving = tx.versions.serving()
        if serving is None:
            raise NoWeights("no model version serves", hint="radclipd model import FILE, or radclipd model fetch TAG")
        subjects = tx.studies.numbered(block.numbers)
        for study_instance_uid in tx.studies.unscored(serving.number, limit=max(1, len(subjects)), numbers=block.numbers):
            tx.jobs.put(JobKind.SCORE, study_instance_uid, {rescore.RESCORED: True}, priority=rescore.PRIORITY)
    ours = replace(post, subjects=subjects, spare=lambda: False)
    done = 0
    while claimed := work_once(ours, catalog=catalog, worker=worker, policy=policy):
        done += claimed
    fill(subjects)
    with catalog.read() as tx:
        return Done(done, tx.jobs.in_hand(JobKind.SCORE, subjects))
