"""The workers at the queue, as a Config has them: the step of each kind of job, and its parts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app.policies import chest_policy, circuit_policy, learn_policy, work_policy
from adapters.app.report_policies import report_policy, score_policy
from pipeline import cache_warming, labels, learn, reader_documents, report, score, versions, work
from pipeline.domain import Job, JobKind, VisibleKind
from pipeline.ports.services import StageCallback
from pipeline.preemption import Preemption
from pipeline.progress import JobProgress, chain_callbacks

if TYPE_CHECKING:
    from adapters.app.compose import Parts
    from adapters.ml.trainer import ClipTrainer

log = structlog.get_logger("radclipd.workers")

MAX_BATCHES_PER_CLAIM = 4
"""Most batches of score jobs in one claim: while one batch is scored, images of the next are decoded."""


def build_worker_specs(
    parts: Parts, kinds: Collection[str], *, stop_requested: Callable[[], bool], wait: Callable[[float], object] = time.sleep
) -> list[work.WorkerSpec]:
    """Make the specifications of a worker: `score`, `learn`, `report` (which also sends), `label`, or several.

    Long work gives up once `stop_requested` is true. `wait` sleeps for the seconds given, and returns early on a signal.
    A worker that scores and learns scores between two steps of learning.
    """
    scoring = _build_score_spec(parts) if "score" in kinds else None
    specs = [scoring] if scoring is not None else []
    if "report" in kinds:
        specs += [_build_report_spec(parts), _build_send_spec(parts)]
    if "label" in kinds:
        specs.append(_build_label_spec(parts))
    if "learn" in kinds:
        specs.append(_build_learn_spec(parts, _build_preemption(parts, scoring, stop_requested=stop_requested, wait=wait)))
    return specs


def worker_name(kind: str) -> str:
    """Name this worker for the jobs that it holds: host, process, kind. For people; leases are fenced by token."""
    return f"{socket.gethostname()}:{os.getpid()}:{kind}"


def build_score_spec_and_cache_warming(parts: Parts) -> tuple[work.WorkerSpec, cache_warming.CacheWarmer | None]:
    """Make the specification of scoring and the warming of the activation cache; None where the cache is off or is not warmed."""
    from adapters.app.ml_settings import activation_cache_settings
    from adapters.ml.scorer import ClipScorers

    config, catalog, pixels = parts.config, parts.catalog, parts.decoders
    pixels.start()
    batch = config.score.batch_size
    scorers = ClipScorers(
        config.model.directory,
        device=config.model.device,
        batch_size=batch,
        threads=config.score.threads,
        precision=config.score.precision,
        cache_settings=activation_cache_settings(config),
    )
    policy = score_policy(config)
    load_serving = partial(versions.load_serving, catalog=catalog, scorers=scorers)
    spec = work.WorkerSpec(
        kind=JobKind.SCORE,
        step=partial(score.score, catalog=catalog, pixels=pixels, scorers=scorers, policy=policy),
        claim_sizer=work.ClaimSizer(
            target_seconds=config.score.claim_seconds, min_jobs=batch, max_jobs=MAX_BATCHES_PER_CLAIM * batch
        ),
        prepare=load_serving,
        prefer_newest=True,
    )
    if not (config.activation_cache.enabled and config.activation_cache.warm):
        return spec, None
    return spec, cache_warming.CacheWarmer(catalog=catalog, pixels=pixels, scorer=load_serving, chest=policy.chest)


def _build_score_spec(parts: Parts) -> work.WorkerSpec:
    spec, warming = build_score_spec_and_cache_warming(parts)
    return replace(spec, idle_task=warming) if warming is not None else spec


def _build_report_spec(parts: Parts) -> work.WorkerSpec:
    from adapters.app.report_policies import report_settings
    from adapters.dicom.sr.reader_document import ReaderSrWriter
    from adapters.dicom.sr.writer import SrWriter

    settings = report_settings(parts.config)
    writer = SrWriter(settings, parts.images, parts.thumbnail_decoder if VisibleKind.CARD in settings.visible else None)
    build_report = partial(
        report.report, catalog=parts.catalog, images=parts.images, writer=writer, policy=report_policy(parts.config)
    )
    build_document = partial(
        reader_documents.build_document,
        catalog=parts.catalog,
        images=parts.images,
        writer=ReaderSrWriter(settings, parts.images),
        chest=chest_policy(parts.config),
    )

    def build(job: Job) -> None:
        (build_document if reader_documents.is_of_document(job) else build_report)(job)

    return work.WorkerSpec(kind=JobKind.REPORT, step=work.per_job_step(build), prefer_newest=True)


def _build_send_spec(parts: Parts) -> work.WorkerSpec:
    config, catalog, archive, circuit = parts.config, parts.catalog, parts.archive, circuit_policy(parts.config)

    def send(job: Job) -> None:
        if reader_documents.is_of_document(job):
            reader_documents.send_document(job, catalog=catalog, images=parts.images, archive=archive, circuit=circuit)
        else:
            deliver = config.report.deliver
            report.send(job, catalog=catalog, images=parts.images, archive=archive, circuit=circuit, deliver=deliver)

    def admit() -> bool:
        with catalog.begin() as tx:
            return tx.circuits.admit(archive.name, probe_seconds=config.archive.timeout_seconds * 2)

    return work.WorkerSpec(kind=JobKind.SEND, step=work.per_job_step(send), admit=admit)


def _build_label_spec(parts: Parts) -> work.WorkerSpec:
    step = partial(labels.read_document, catalog=parts.catalog, images=parts.images, documents=parts.documents)
    return work.WorkerSpec(kind=JobKind.LABEL, step=work.per_job_step(step))


def _build_preemption(
    parts: Parts, scoring: work.WorkerSpec | None, *, stop_requested: Callable[[], bool], wait: Callable[[float], object]
) -> StageCallback:
    """Learning yields to scoring by other processes, or scores itself where this worker has the specification for it."""
    name, policy = worker_name("score"), work_policy(parts.config)
    score_batch = partial(work.work_once, scoring, catalog=parts.catalog, worker=name, policy=policy) if scoring else None
    return Preemption(catalog=parts.catalog, sleep=wait, should_stop=stop_requested, score_batch=score_batch)


def _build_learn_spec(parts: Parts, preemption: StageCallback) -> work.WorkerSpec:
    """torch is loaded when the first round begins: an installation without labels pays nothing for the role."""

    def step(job: Job) -> None:
        watch = chain_callbacks(JobProgress(job, catalog=parts.catalog), preemption)
        with _open_trainer(parts) as trainer:
            learnt = learn.learn_job(
                job, catalog=parts.catalog, trainer=trainer, policy=learn_policy(parts.config), on_progress=watch
            )
        number = learnt.version.number if learnt.version else None
        log.info("learning ended", result=learnt.result.value, reason=learnt.reason, version=number)

    return work.WorkerSpec(kind=JobKind.LEARN, step=work.per_job_step(step))


@contextmanager
def _open_trainer(parts: Parts) -> Iterator[ClipTrainer]:
    """Give the trainer while holding the lock on learning. TransientError where another process holds it."""
    with parts.models.lock("learn"):
        from adapters.app.ml_settings import trainer_settings
        from adapters.ml.trainer import ClipTrainer

        with closing(parts.new_decode_pool(processes=1)) as pixels:
            yield ClipTrainer(parts.models, pixels, trainer_settings(parts.config))


def learn_now(parts: Parts, *, watch: StageCallback, again: bool = False) -> learn.LearnOutcome:
    """Learn from the labels, one process at a time, preempted by arrivals. TransientError where another process learns."""
    watch = chain_callbacks(watch, Preemption(catalog=parts.catalog))
    with _open_trainer(parts) as trainer:
        return learn.learn(
            catalog=parts.catalog, trainer=trainer, policy=learn_policy(parts.config), on_progress=watch, relearn=again
        )
