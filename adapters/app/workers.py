"""The places at the queue, as a Config has them: what a worker does for each kind of job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app.compose import (
    chest_policy,
    kept_settings,
    learn_policy,
    open_archive,
    open_decoders,
    open_documents,
    open_image_store,
    open_model_store,
    trainer_settings,
    work_policy,
    worker_name,
)
from pipeline import cache_warming, labels, learn, report, score, versions, work
from pipeline.domain import Job, JobKind
from pipeline.pace import Pace
from pipeline.ports.outside import CircuitPolicy, Watch
from pipeline.preemption import Yielding
from pipeline.progress import Progress, both

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.ml.trainer import ClipTrainer
    from adapters.storage.model_store import ModelStore

log = structlog.get_logger("radclipd.posts")

BATCHES_A_TURN = 4
"""Score jobs that are taken at once, in batches, at most: while one is scored, films of the next are decoded."""


def build_posts(
    config: Config,
    catalog: SqlCatalog,
    kinds: Collection[str],
    *,
    over: Callable[[], bool],
    rest: Callable[[float], object] = time.sleep,
) -> list[work.Post]:
    """Make the posts of a worker: `score`, `learn`, `report` (which also sends, and reads the documents of others), or several.

    `over` says whether the process was told to stop: long work gives up then. `rest` waits, and wakes when it is told.
    A worker that scores and learns scores between two steps of learning.
    """
    posts = [_score_post(config, catalog)] if "score" in kinds else []
    if "report" in kinds:
        posts += [_report_post(config, catalog), _send_post(config, catalog), _label_post(config, catalog)]
    if "learn" in kinds:
        scoring = posts[0] if "score" in kinds else None
        posts.append(_learn_post(config, catalog, _yielding(config, catalog, scoring, over=over, rest=rest)))
    return posts


def score_post_and_fill(config: Config, catalog: SqlCatalog) -> tuple[work.Post, cache_warming.Fill | None]:
    """Make the post of scoring, and what makes up for films that were scored before; None where nothing is to be made up for."""
    from adapters.ml.scorer import ClipScorers

    pixels, chest = (
        open_decoders(config, processes=config.score.decode_processes or min(os.cpu_count() or 1, 8)),
        chest_policy(config),
    )
    pixels.start()
    scorers = ClipScorers(
        config.model.directory,
        device=config.model.device,
        batch_size=config.score.batch_size,
        threads=config.score.threads,
        precision=config.score.precision,
        kept=kept_settings(config),
    )
    batch = config.score.batch_size
    policy = score.ScorePolicy(
        combine=config.score.combine,
        chest=chest,
        rescored=config.report.rescored,
        backfilled=config.backfill.report,
        batch=batch,
    )
    step = partial(score.score, catalog=catalog, pixels=pixels, scorers=scorers, policy=policy)
    pace = Pace(seconds=config.score.turn_seconds, least=batch, most=BATCHES_A_TURN * batch)
    serving = partial(versions.load_serving, catalog=catalog, scorers=scorers)
    post = work.Post(kind=JobKind.SCORE, step=step, pace=pace, prepare=serving, close=pixels.close, fresh=True)
    if not (config.prefix.keep and config.prefix.fill):
        return post, None
    return post, cache_warming.Fill(catalog=catalog, pixels=pixels, scorer=serving, chest=chest)


def _score_post(config: Config, catalog: SqlCatalog) -> work.Post:
    post, spare = score_post_and_fill(config, catalog)
    return replace(post, spare=spare) if spare is not None else post


def _report_post(config: Config, catalog: SqlCatalog) -> work.Post:
    from adapters.dicom.sr.writer import ReportSettings, SrWriter

    images = open_image_store(config)
    writer = SrWriter(ReportSettings(**config.report.model_dump(exclude={"rescored"})), images)
    step = partial(report.report, catalog=catalog, images=images, writer=writer)
    return work.Post(kind=JobKind.REPORT, step=work.one_by_one(step), fresh=True)


def _send_post(config: Config, catalog: SqlCatalog) -> work.Post:
    archive = open_archive(config)
    circuit = CircuitPolicy(threshold=config.work.circuit_threshold, rest_seconds=config.work.circuit_rest_seconds)
    step = partial(report.send, catalog=catalog, images=open_image_store(config), archive=archive, circuit=circuit)

    def admit() -> bool:
        with catalog.begin() as tx:
            return tx.circuits.admit(archive.name, probe_seconds=config.archive.timeout_seconds * 2)

    return work.Post(kind=JobKind.SEND, step=work.one_by_one(step), admit=admit)


def _label_post(config: Config, catalog: SqlCatalog) -> work.Post:
    step = partial(labels.read_document, catalog=catalog, images=open_image_store(config), documents=open_documents(config))
    return work.Post(kind=JobKind.LABEL, step=work.one_by_one(step))


def _yielding(
    config: Config,
    catalog: SqlCatalog,
    scoring: work.Post | None,
    *,
    over: Callable[[], bool],
    rest: Callable[[float], object],
) -> Watch:
    """Learning gives way to scoring by other processes, or does it itself where it has the post for it."""
    name, policy = worker_name("score"), work_policy(config)
    meanwhile = partial(work.work_once, scoring, catalog=catalog, worker=name, policy=policy) if scoring else None
    return Yielding(catalog=catalog, rest=rest, over=over, meanwhile=meanwhile)


def _learn_post(config: Config, catalog: SqlCatalog, give_way: Watch) -> work.Post:
    """torch is loaded when the first round begins: a hospital without labels pays nothing for the role."""

    def step(job: Job) -> None:
        store, progress = open_model_store(config), Progress(job, catalog=catalog)
        watch = both(progress, give_way)
        with store.alone("learn"), _trainer(config, store) as trainer:
            learnt = learn.learn_job(job, catalog=catalog, trainer=trainer, policy=learn_policy(config), watch=watch)
        number = learnt.version.number if learnt.version else None
        log.info("learning ended", result=learnt.result.value, reason=learnt.reason, version=number)

    return work.Post(kind=JobKind.LEARN, step=work.one_by_one(step))


@contextmanager
def _trainer(config: Config, store: ModelStore) -> Iterator[ClipTrainer]:
    from adapters.ml.trainer import ClipTrainer

    with closing(open_decoders(config, processes=1)) as pixels:
        yield ClipTrainer(store, pixels, trainer_settings(config))


def learn_now(config: Config, catalog: SqlCatalog, *, watch: Watch, again: bool = False) -> learn.Learnt:
    """Learn from the labels, one process at a time, behind whatever arrives. TryAgain where another one learns."""
    store, watch = open_model_store(config), both(watch, Yielding(catalog=catalog))
    with store.alone("learn"), _trainer(config, store) as trainer:
        return learn.learn(catalog=catalog, trainer=trainer, policy=learn_policy(config), watch=watch, again=again)
