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
    activation_cache_settings,
    chest_policy,
    learn_policy,
    open_archive,
    open_decode_pool,
    open_document_reader,
    open_image_store,
    open_model_store,
    trainer_settings,
    work_policy,
    worker_name,
)
from pipeline import cache_warming, labels, learn, report, score, versions, work
from pipeline.domain import Job, JobKind
from pipeline.pace import ClaimSizer
from pipeline.ports.services import CircuitPolicy, StageCallback
from pipeline.preemption import Preemption
from pipeline.progress import JobProgress, chain_callbacks

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.ml.trainer import ClipTrainer
    from adapters.storage.model_store import ModelStore

log = structlog.get_logger("radclipd.posts")

MAX_BATCHES_PER_CLAIM = 4
"""Score jobs that are taken at once, in batches, at most: while one is scored, films of the next are decoded."""


def build_worker_specs(
    config: Config,
    catalog: SqlCatalog,
    kinds: Collection[str],
    *,
    stop_requested: Callable[[], bool],
    wait: Callable[[float], object] = time.sleep,
) -> list[work.WorkerSpec]:
    """Make the posts of a worker: `score`, `learn`, `report` (which also sends, and reads the documents of others), or several.

    `over` says whether the process was told to stop: long work gives up then. `rest` waits, and wakes when it is told.
    A worker that scores and learns scores between two steps of learning.
    """
    posts = [_build_score_spec(config, catalog)] if "score" in kinds else []
    if "report" in kinds:
        posts += [_build_report_spec(config, catalog), _build_send_spec(config, catalog), _build_label_spec(config, catalog)]
    if "learn" in kinds:
        scoring = posts[0] if "score" in kinds else None
        posts.append(
            _build_learn_spec(
                config, catalog, _build_preemption(config, catalog, scoring, stop_requested=stop_requested, wait=wait)
            )
        )
    return posts


def build_score_spec_and_cache_warming(
    config: Config, catalog: SqlCatalog
) -> tuple[work.WorkerSpec, cache_warming.CacheWarmer | None]:
    """Make the post of scoring, and what makes up for films that were scored before; None where nothing is to be made up for."""
    from adapters.ml.scorer import ClipScorers

    pixels, chest = (
        open_decode_pool(config, processes=config.score.decode_processes or min(os.cpu_count() or 1, 8)),
        chest_policy(config),
    )
    pixels.start()
    scorers = ClipScorers(
        config.model.directory,
        device=config.model.device,
        batch_size=config.score.batch_size,
        threads=config.score.threads,
        precision=config.score.precision,
        cache_settings=activation_cache_settings(config),
    )
    batch = config.score.batch_size
    policy = score.ScorePolicy(
        aggregate=config.score.aggregate,
        chest=chest,
        rescored_studies=config.report.rescored_studies,
        backfill_reports=config.backfill.reports,
        batch_size=batch,
    )
    step = partial(score.score, catalog=catalog, pixels=pixels, scorers=scorers, policy=policy)
    pace = ClaimSizer(target_seconds=config.score.claim_seconds, min_jobs=batch, max_jobs=MAX_BATCHES_PER_CLAIM * batch)
    serving = partial(versions.load_serving, catalog=catalog, scorers=scorers)
    post = work.WorkerSpec(kind=JobKind.SCORE, step=step, claim_sizer=pace, prepare=serving, close=pixels.close, prefer_newest=True)
    if not (config.activation_cache.enabled and config.activation_cache.warm):
        return post, None
    return post, cache_warming.CacheWarmer(catalog=catalog, pixels=pixels, scorer=serving, chest=chest)


def _build_score_spec(config: Config, catalog: SqlCatalog) -> work.WorkerSpec:
    post, spare = build_score_spec_and_cache_warming(config, catalog)
    return replace(post, idle_task=spare) if spare is not None else post


def _build_report_spec(config: Config, catalog: SqlCatalog) -> work.WorkerSpec:
    from adapters.dicom.sr.writer import ReportSettings, SrWriter

    images = open_image_store(config)
    writer = SrWriter(ReportSettings(**config.report.model_dump(exclude={"rescored_studies"})), images)
    step = partial(report.report, catalog=catalog, images=images, writer=writer)
    return work.WorkerSpec(kind=JobKind.REPORT, step=work.per_job_step(step), prefer_newest=True)


def _build_send_spec(config: Config, catalog: SqlCatalog) -> work.WorkerSpec:
    archive = open_archive(config)
    circuit = CircuitPolicy(threshold=config.work.circuit_threshold, open_seconds=config.work.circuit_open_seconds)
    step = partial(report.send, catalog=catalog, images=open_image_store(config), archive=archive, circuit=circuit)

    def admit() -> bool:
        with catalog.begin() as tx:
            return tx.circuits.admit(archive.name, probe_seconds=config.archive.timeout_seconds * 2)

    return work.WorkerSpec(kind=JobKind.SEND, step=work.per_job_step(step), admit=admit)


def _build_label_spec(config: Config, catalog: SqlCatalog) -> work.WorkerSpec:
    step = partial(labels.read_document, catalog=catalog, images=open_image_store(config), documents=open_document_reader(config))
    return work.WorkerSpec(kind=JobKind.LABEL, step=work.per_job_step(step))


def _build_preemption(
    config: Config,
    catalog: SqlCatalog,
    scoring: work.WorkerSpec | None,
    *,
    stop_requested: Callable[[], bool],
    wait: Callable[[float], object],
) -> StageCallback:
    """Learning gives way to scoring by other processes, or does it itself where it has the post for it."""
    name, policy = worker_name("score"), work_policy(config)
    meanwhile = partial(work.work_once, scoring, catalog=catalog, worker=name, policy=policy) if scoring else None
    return Preemption(catalog=catalog, sleep=wait, should_stop=stop_requested, score_batch=meanwhile)


def _build_learn_spec(config: Config, catalog: SqlCatalog, preemption: StageCallback) -> work.WorkerSpec:
    """torch is loaded when the first round begins: a hospital without labels pays nothing for the role."""

    def step(job: Job) -> None:
        store, progress = open_model_store(config), JobProgress(job, catalog=catalog)
        watch = chain_callbacks(progress, preemption)
        with store.lock("learn"), _open_trainer(config, store) as trainer:
            learnt = learn.learn_job(job, catalog=catalog, trainer=trainer, policy=learn_policy(config), on_progress=watch)
        number = learnt.version.number if learnt.version else None
        log.info("learning ended", result=learnt.result.value, reason=learnt.reason, version=number)

    return work.WorkerSpec(kind=JobKind.LEARN, step=work.per_job_step(step))


@contextmanager
def _open_trainer(config: Config, store: ModelStore) -> Iterator[ClipTrainer]:
    from adapters.ml.trainer import ClipTrainer

    with closing(open_decode_pool(config, processes=1)) as pixels:
        yield ClipTrainer(store, pixels, trainer_settings(config))


def learn_now(config: Config, catalog: SqlCatalog, *, watch: StageCallback, again: bool = False) -> learn.LearnOutcome:
    """Learn from the labels, one process at a time, behind whatever arrives. TransientError where another one learns."""
    store, watch = open_model_store(config), chain_callbacks(watch, Preemption(catalog=catalog))
    with store.lock("learn"), _open_trainer(config, store) as trainer:
        return learn.learn(catalog=catalog, trainer=trainer, policy=learn_policy(config), on_progress=watch, relearn=again)
