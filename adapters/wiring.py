"""The composition root: a Config in, the parts of the daemon out. Each process imports its own parts only."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from pipeline import (
    fill,
    housekeeping,
    labels,
    learn,
    receive,
    report,
    resolve,
    rules,
    score,
    selection,
    settle,
    versions,
    work,
    worklist,
)
from pipeline.domain import AuditEvent, Job, JobKind, JobState, ModelVersion
from pipeline.errors import NoWeights
from pipeline.findings import findings_said
from pipeline.ports import CircuitPolicy, Watch
from pipeline.progress import Progress
from pipeline.yielding import Yielding

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.dicom.archive import DicomArchive
    from adapters.dicom.labels import DicomDocuments
    from adapters.dicom.listener import Listener
    from adapters.dicom.places import Places
    from adapters.gpu.kept import KeptSettings
    from adapters.gpu.trainer import ClipTrainer, TrainerSettings
    from adapters.host.config import Config
    from adapters.host.image_store import FileImageStore
    from adapters.host.model_store import ModelStore

log = structlog.get_logger("radclipd.wiring")

CACHE_RESERVE = 2
"""The prefix store leaves so many times `storage.minimum_free` free: a cache never makes senders wait."""
ASK_AGAIN_SECONDS = 5.0
"""Between two questions to the archive about one arriving study."""


def open_catalog(config: Config) -> SqlCatalog:
    """Open the catalog. OutOfResources where it cannot be reached, SchemaMismatch where it is not this release's."""
    from adapters.catalog import schema
    from adapters.catalog.catalog import SqlCatalog

    schema.verify(config.catalog.url)
    return SqlCatalog(config.catalog.url, busy_timeout_seconds=config.catalog.busy_timeout_seconds)


def tidy(config: Config, catalog: SqlCatalog) -> int:
    """Forget jobs that were done long ago and let the database count anew what its planner goes by; return how many jobs."""
    purged = housekeeping.purge_done_jobs(catalog=catalog, keep_days=config.work.keep_done_days)
    catalog.tidy()
    return purged


def open_image_store(config: Config) -> FileImageStore:
    """Open the image store."""
    from adapters.host.image_store import FileImageStore

    return FileImageStore(config.storage.directory)


def open_model_store(config: Config) -> ModelStore:
    """Open the model store."""
    from adapters.host.model_store import ModelStore

    return ModelStore(config.model.directory)


def open_archive(config: Config) -> DicomArchive:
    """Make the archive's client; nothing is connected yet."""
    from adapters.dicom.archive import ArchiveSettings, DicomArchive

    return DicomArchive(
        ArchiveSettings(
            ae_title=config.archive.ae_title,
            host=config.archive.host,
            port=config.archive.port,
            calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
            timeout_seconds=config.archive.timeout_seconds,
        )
    )


def build_listener(config: Config, catalog: SqlCatalog, places: Places | None = None) -> Listener:
    """Make the DICOM listener: what arrives goes through pipeline.receive. `places`: where processes share the limit."""
    from adapters.dicom.listener import Listener, ListenerSettings

    receiving = receive.Receiving(catalog=catalog, images=open_image_store(config), policy=receive_policy(config))

    def released(study_instance_uids: Sequence[str]) -> None:
        with catalog.begin() as tx:
            tx.studies.release(study_instance_uids)

    def audit(event: AuditEvent) -> None:
        with catalog.begin() as tx:
            tx.audit(event)

    settings = ListenerSettings(**config.listener.model_dump(exclude={"drain_seconds", "processes"}))
    return Listener(settings, begin=receiving.begin, receive=receiving.receive, released=released, audit=audit, places=places)


def receive_policy(config: Config) -> receive.ReceivePolicy:
    """`[storage]` as the step reads it."""
    return receive.ReceivePolicy(minimum_free_bytes=int(config.storage.minimum_free), read_documents=reads_documents(config))


def chest_policy(config: Config) -> rules.ChestPolicy:
    """`[study]` as the rules read it."""
    return rules.ChestPolicy(
        no_view_position=config.study.no_view_position,
        no_body_part=config.study.no_body_part,
        for_processing=config.study.for_processing,
    )


def build_settle(config: Config, catalog: SqlCatalog) -> Callable[[], list[settle.Settled]]:
    """Make the dispatcher's step."""
    from adapters.dicom.sparing import SparingCounter

    policy = settle.SettlePolicy(
        quiet_seconds=config.study.quiet_seconds,
        settle_on_release=config.study.settle_on_release,
        chest=chest_policy(config),
    )
    archive = SparingCounter(open_archive(config), seconds=ASK_AGAIN_SECONDS) if config.study.ask_archive else None
    return partial(settle.settle, catalog=catalog, archive=archive, policy=policy)


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


def score_post_and_fill(config: Config, catalog: SqlCatalog) -> tuple[work.Post, fill.Fill | None]:
    """Make the post of scoring, and what makes up for films that were scored before; None where nothing is to be made up for."""
    from adapters.dicom.pixels import DicomImageReader
    from adapters.gpu.scorer import ClipScorers

    pixels, chest = DicomImageReader(open_image_store(config)), chest_policy(config)
    scorers = ClipScorers(
        config.model.directory,
        device=config.model.device,
        batch_size=config.score.batch_size,
        threads=config.score.threads,
        kept=kept_settings(config),
    )
    policy = score.ScorePolicy(
        combine=config.score.combine, chest=chest, rescored=config.report.rescored, backfilled=config.backfill.report
    )
    step = partial(score.score, catalog=catalog, pixels=pixels, scorers=scorers, policy=policy)
    post = work.Post(kind=JobKind.SCORE, step=step, batch=config.score.batch_size)
    if not (config.prefix.keep and config.prefix.fill):
        return post, None
    serving = partial(versions.load_serving, catalog=catalog, scorers=scorers)
    return post, fill.Fill(catalog=catalog, pixels=pixels, scorer=serving, chest=chest)


def _score_post(config: Config, catalog: SqlCatalog) -> work.Post:
    post, spare = score_post_and_fill(config, catalog)
    return replace(post, spare=spare) if spare is not None else post


def kept_settings(config: Config) -> KeptSettings | None:
    """`[prefix]` as scoring and learning read it; None where nothing is to be kept."""
    from adapters.dicom.pixels import RENDERING
    from adapters.gpu.kept import KeptSettings

    if not config.prefix.keep:
        return None
    return KeptSettings(
        directory=config.prefix.directory,
        limit=int(config.prefix.limit),
        reserve=CACHE_RESERVE * int(config.storage.minimum_free),
        k=config.learn.blocks,
        rendering=RENDERING,
    )


def _report_post(config: Config, catalog: SqlCatalog) -> work.Post:
    from adapters.dicom.report import ReportSettings, SrWriter

    images = open_image_store(config)
    writer = SrWriter(ReportSettings(**config.report.model_dump(exclude={"rescored"})), images)
    step = partial(report.report, catalog=catalog, images=images, writer=writer)
    return work.Post(kind=JobKind.REPORT, step=work.one_by_one(step))


def _send_post(config: Config, catalog: SqlCatalog) -> work.Post:
    archive = open_archive(config)
    circuit = CircuitPolicy(threshold=config.work.circuit_threshold, rest_seconds=config.work.circuit_rest_seconds)
    step = partial(report.send, catalog=catalog, images=open_image_store(config), archive=archive, circuit=circuit)

    def admit() -> bool:
        with catalog.begin() as tx:
            return tx.circuits.admit(archive.name, probe_seconds=config.archive.timeout_seconds * 2)

    return work.Post(kind=JobKind.SEND, step=work.one_by_one(step), admit=admit)


def reads_documents(config: Config) -> bool:
    """Say whether any SR or KOS that comes in may be read for labels."""
    return config.labels.accept_sr != "none" or bool(config.labels.key_object_titles)


def label_policy(config: Config) -> resolve.LabelPolicy:
    """`[labels]` as the resolver reads it."""
    return resolve.LabelPolicy(policy=config.labels.policy, adjudicators=config.labels.adjudicators)


def open_documents(config: Config) -> DicomDocuments:
    """Make the reader of SRs and KOSs."""
    from adapters.dicom.labels import DicomDocuments, DocumentSettings

    titles = {title: findings_said(said.split(",")) for title, said in config.labels.key_object_titles.items()}
    return DicomDocuments(DocumentSettings(accept_sr=config.labels.accept_sr, key_object_titles=titles))


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
        with store.alone("learn"):
            learnt = learn.learn_job(
                job, catalog=catalog, trainer=_trainer(config, store), policy=learn_policy(config), watch=watch
            )
        number = learnt.version.number if learnt.version else None
        log.info("learning ended", result=learnt.result.value, reason=learnt.reason, version=number)

    return work.Post(kind=JobKind.LEARN, step=work.one_by_one(step))


def both(first: Watch, second: Watch) -> Watch:
    """Tell both, in this order."""

    def watch(what: str, done: int, total: int) -> None:
        first(what, done, total)
        second(what, done, total)

    return watch


def build_call_to_learn(config: Config, catalog: SqlCatalog) -> Callable[[], bool]:
    """Make the scheduler's step: it only enqueues."""
    return partial(learn.call, catalog=catalog, minimum_labels=config.learn.min_new_labels)


def _trainer(config: Config, store: ModelStore) -> ClipTrainer:
    from adapters.dicom.pixels import DicomImageReader
    from adapters.gpu.trainer import ClipTrainer

    return ClipTrainer(store, DicomImageReader(open_image_store(config)), trainer_settings(config))


def learn_now(config: Config, catalog: SqlCatalog, *, watch: Watch, again: bool = False) -> learn.Learnt:
    """Learn from the labels, one process at a time, behind whatever arrives. TryAgain where another one learns."""
    store, watch = open_model_store(config), both(watch, Yielding(catalog=catalog))
    with store.alone("learn"):
        return learn.learn(catalog=catalog, trainer=_trainer(config, store), policy=learn_policy(config), watch=watch, again=again)


def trainer_settings(config: Config) -> TrainerSettings:
    """`[learn]` as the trainer reads it."""
    from adapters.gpu.trainer import TrainerSettings
    from models.recipe import Recipe
    from models.teach import Plan

    wanted = config.learn
    return TrainerSettings(
        plan=Plan(method=wanted.method, recipe=Recipe(k=wanted.blocks), folds=wanted.folds, seed=wanted.seed),
        minimum_positives=wanted.minimum_positives,
        band=config.score.band,
        device=config.model.device,
        threads=config.score.threads,
        kept=kept_settings(config),
    )


def learn_policy(config: Config) -> learn.LearnPolicy:
    """`[learn]` as the step reads it."""
    wanted = config.learn
    return learn.LearnPolicy(
        labels=label_policy(config),
        chest=chest_policy(config),
        gate=rules.GatePolicy(minimum_patients=wanted.gate_patients, confidence=wanted.gate_confidence, promote=wanted.promote),
        minimum_positives=wanted.minimum_positives,
        background=wanted.background,
    )


def worklist_policy(config: Config) -> worklist.WorklistPolicy:
    """`[worklist]` as the step reads it."""
    wanted = config.worklist
    shares = wanted.model_dump(include={reason.value for reason in selection.Reason})
    return worklist.WorklistPolicy(
        selection=selection.SelectionPolicy(**shares),
        labels=label_policy(config),
        chest=chest_policy(config),
        patients=wanted.patients,
        ask_again_days=wanted.ask_again_days,
        seed=wanted.seed,
    )


def work_policy(config: Config) -> work.WorkPolicy:
    """`[work]` as the loop reads it."""
    return work.WorkPolicy(
        lease_seconds=config.work.lease_seconds,
        maximum_attempts=config.work.maximum_attempts,
        retry_base_seconds=config.work.retry_base_seconds,
        retry_cap_seconds=config.work.retry_cap_seconds,
    )


def worker_name(kind: str) -> str:
    """Name this worker for the jobs it holds: host, process, kind. For people; leases are fenced by token."""
    return f"{socket.gethostname()}:{os.getpid()}:{kind}"


def require_serving(catalog: SqlCatalog) -> ModelVersion:
    """Return the serving version. NoWeights with the remedy where there is none: no weights, no service."""
    with catalog.read() as tx:
        version = tx.versions.serving()
    if version is None:
        raise NoWeights(
            "no model version serves: there are no weights to score with",
            hint="radclipd model import FILE --architecture NAME, or radclipd model fetch TAG",
        )
    return version


def summary(catalog: SqlCatalog) -> str:
    """Say in one line how the queue stands: what `systemctl status` shows."""
    with catalog.read() as tx:
        counts = tx.jobs.counts()
    waiting = sum(n for (_, state), n in counts.items() if state is JobState.WAITING)
    quarantined = sum(n for (_, state), n in counts.items() if state is JobState.QUARANTINED)
    return f"{waiting} jobs waiting, {quarantined} in quarantine"
