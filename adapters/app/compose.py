"""The composition root: a Config in, the parts of the daemon out. Each process imports its own parts only."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.ipc.wakeup import WakeupSockets
from pipeline import acquisition, consensus, housekeeping, learn, receive, rules, settle, work, worklist
from pipeline.domain import AuditEvent, JobKind, JobState, ModelVersion
from pipeline.errors import NoWeights
from pipeline.finding_names import parse_findings

if TYPE_CHECKING:
    from adapters.catalog.catalog import SqlCatalog
    from adapters.config.sections import Config
    from adapters.dicom.image.decode_pool import DecodePool
    from adapters.dicom.network.archive import DicomArchive
    from adapters.dicom.network.association_limit import AssociationSlots
    from adapters.dicom.network.listener import Listener
    from adapters.dicom.sr.label_reader import DicomDocumentReader
    from adapters.ml.activation_cache import ActivationCacheSettings
    from adapters.ml.trainer import TrainerSettings
    from adapters.storage.image_store import FileImageStore
    from adapters.storage.model_store import ModelStore

log = structlog.get_logger("radclipd.wiring")

CACHE_RESERVE = 2
"""The prefix store leaves so many times `storage.min_free` free: a cache never makes senders wait."""
ARCHIVE_QUERY_SECONDS = 5.0
"""Between two questions to the archive about one arriving study."""


def open_catalog(config: Config) -> SqlCatalog:
    """Open the catalog. OutOfResources where it cannot be reached, SchemaMismatch where it is not this release's."""
    from adapters.catalog.catalog import SqlCatalog

    return SqlCatalog.open(
        config.catalog.url, busy_timeout_seconds=config.catalog.busy_timeout_seconds, wake=WakeupSockets(config.catalog.url).wake
    )


def listen_for_wakeups(config: Config, worker_kinds: Sequence[str]) -> list[socket.socket]:
    """Return sockets that become readable when there may be work: for workers of these kinds, or SETTLE for the dispatcher."""
    kinds = {"report": [JobKind.REPORT, JobKind.SEND, JobKind.LABEL]}
    return WakeupSockets(config.catalog.url).listen([str(kind) for post in worker_kinds for kind in kinds.get(post, [post])])


def maintain_catalog(config: Config, catalog: SqlCatalog) -> int:
    """Forget jobs that were done long ago and let the database count anew what its planner goes by; return how many jobs."""
    purged = housekeeping.purge_done_jobs(catalog=catalog, keep_days=config.work.keep_done_days)
    catalog.update_statistics()
    return purged


def open_image_store(config: Config) -> FileImageStore:
    """Open the image store."""
    from adapters.storage.image_store import FileImageStore

    return FileImageStore(config.storage.directory)


def open_model_store(config: Config) -> ModelStore:
    """Open the model store."""
    from adapters.storage.model_store import ModelStore

    return ModelStore(config.model.directory)


def open_archive(config: Config) -> DicomArchive:
    """Make the archive's client; nothing is connected yet."""
    from adapters.dicom.network.archive import ArchiveSettings, DicomArchive

    return DicomArchive(
        ArchiveSettings(
            ae_title=config.archive.ae_title,
            host=config.archive.host,
            port=config.archive.port,
            calling_ae_title=config.archive.calling_ae_title or config.listener.ae_title,
            timeout_seconds=config.archive.timeout_seconds,
        )
    )


def build_listener(config: Config, catalog: SqlCatalog, slots: AssociationSlots | None = None) -> Listener:
    """Make the DICOM listener: what arrives goes through pipeline.receive. `places`: where processes share the limit."""
    from adapters.dicom.network.listener import Listener, ListenerSettings

    receiving = receive.InstanceReceiver(catalog=catalog, images=open_image_store(config), policy=receive_policy(config))

    def released(study_instance_uids: Sequence[str]) -> None:
        with catalog.begin() as tx:
            tx.studies.mark_released(study_instance_uids)

    def audit(event: AuditEvent) -> None:
        with catalog.begin() as tx:
            tx.audit(event)

    settings = ListenerSettings(**config.listener.model_dump(exclude={"drain_seconds", "processes"}))
    return Listener(
        settings, begin_file=receiving.open_incoming, receive=receiving.receive, mark_released=released, audit=audit, slots=slots
    )


def receive_policy(config: Config) -> receive.ReceivePolicy:
    """`[storage]` as the step reads it."""
    return receive.ReceivePolicy(min_free_bytes=int(config.storage.min_free), read_documents=reads_documents(config))


def chest_policy(config: Config) -> rules.ChestPolicy:
    """`[study]` as the rules read it."""
    return rules.ChestPolicy(
        no_view_position=config.study.no_view_position,
        no_body_part=config.study.no_body_part,
        for_processing=config.study.for_processing,
    )


def build_settle(config: Config, catalog: SqlCatalog) -> Callable[[], list[settle.SettleResult]]:
    """Make the dispatcher's step."""
    from adapters.dicom.network.archive import CachedInstanceCounter

    policy = settle.SettlePolicy(
        stable_age_seconds=config.study.stable_age_seconds,
        settle_on_release=config.study.settle_on_release,
        chest=chest_policy(config),
    )
    archive = (
        CachedInstanceCounter(open_archive(config), max_age_seconds=ARCHIVE_QUERY_SECONDS) if config.study.ask_archive else None
    )
    return partial(settle.settle, catalog=catalog, archive=archive, policy=policy)


def open_decode_pool(config: Config, *, processes: int) -> DecodePool:
    """Make the processes that decode films; they start when they are wanted."""
    from adapters.dicom.image.decode_pool import READ_AHEAD_LIMIT, DecodePool

    ahead = max(READ_AHEAD_LIMIT, 2 * config.score.batch_size)  # a batch that is full while another is in the encoder
    return DecodePool(
        config.storage.directory, processes=processes, timeout_seconds=config.score.decode_seconds, read_ahead_limit=ahead
    )


def activation_cache_settings(config: Config) -> ActivationCacheSettings | None:
    """`[activation_cache]` as scoring and learning read it; None where nothing is to be kept."""
    from adapters.dicom.image.pixels import RENDERING_VERSION
    from adapters.ml.activation_cache import ActivationCacheSettings

    if not config.activation_cache.enabled:
        return None
    return ActivationCacheSettings(
        directory=config.activation_cache.directory,
        max_bytes=int(config.activation_cache.max_size),
        reserve_bytes=CACHE_RESERVE * int(config.storage.min_free),
        k=config.learn.unfrozen_blocks,
        rendering=RENDERING_VERSION,
    )


def reads_documents(config: Config) -> bool:
    """Say whether any SR or KOS that comes in may be read for labels."""
    return config.labels.accept_sr != "none" or bool(config.labels.key_object_titles)


def label_policy(config: Config) -> consensus.LabelPolicy:
    """`[labels]` as the resolver reads it."""
    return consensus.LabelPolicy(policy=config.labels.policy, adjudicators=config.labels.adjudicators)


def open_document_reader(config: Config) -> DicomDocumentReader:
    """Make the reader of SRs and KOSs."""
    from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings

    titles = {title: parse_findings(said.split(",")) for title, said in config.labels.key_object_titles.items()}
    return DicomDocumentReader(DocumentSettings(accept_sr=config.labels.accept_sr, key_object_titles=titles))


def build_learn_trigger(config: Config, catalog: SqlCatalog) -> Callable[[], bool]:
    """Make the scheduler's step: it only enqueues."""
    return partial(learn.enqueue_learning, catalog=catalog, min_new_labels=config.learn.min_new_labels)


def trainer_settings(config: Config) -> TrainerSettings:
    """`[learn]` as the trainer reads it."""
    from adapters.ml.trainer import TrainerSettings
    from models.training.recipe import Recipe
    from models.training.training_round import TrainingPlan

    wanted = config.learn
    return TrainerSettings(
        plan=TrainingPlan(method=wanted.method, recipe=Recipe(k=wanted.unfrozen_blocks), max_folds=wanted.folds, seed=wanted.seed),
        min_positives=wanted.min_positives,
        undetermined_margin=config.score.undetermined_margin,
        device=config.model.device,
        devices=wanted.devices,
        threads=config.score.threads,
        precision=config.score.precision,
        cache_settings=activation_cache_settings(config),
    )


def learn_policy(config: Config) -> learn.LearnPolicy:
    """`[learn]` as the step reads it."""
    wanted = config.learn
    return learn.LearnPolicy(
        labels=label_policy(config),
        chest=chest_policy(config),
        gate=rules.GatePolicy(min_patients=wanted.min_gate_patients, min_confidence=wanted.gate_confidence, promote=wanted.promote),
        min_positives=wanted.min_positives,
        unlabelled_studies=wanted.unlabelled_studies,
    )


def worklist_policy(config: Config) -> worklist.WorklistPolicy:
    """`[worklist]` as the step reads it."""
    wanted = config.worklist
    shares = wanted.model_dump(include={reason.value for reason in acquisition.SelectionReason})
    return worklist.WorklistPolicy(
        selection=acquisition.SelectionPolicy(**shares),
        labels=label_policy(config),
        chest=chest_policy(config),
        max_patients=wanted.max_patients,
        request_expiry_days=wanted.request_expiry_days,
        seed=wanted.seed,
    )


def work_policy(config: Config) -> work.WorkPolicy:
    """`[work]` as the loop reads it."""
    return work.WorkPolicy(
        lease_seconds=config.work.lease_seconds,
        max_attempts=config.work.max_attempts,
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


def queue_summary(catalog: SqlCatalog) -> str:
    """Say in one line how the queue stands: what `systemctl status` shows."""
    with catalog.read() as tx:
        counts = tx.jobs.count_by_state()
    waiting = sum(n for (_, state), n in counts.items() if state is JobState.WAITING)
    quarantined = sum(n for (_, state), n in counts.items() if state is JobState.QUARANTINED)
    return f"{waiting} jobs waiting, {quarantined} in quarantine"
