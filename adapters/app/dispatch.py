"""`radclipd dispatch`: the dispatcher's process. It settles studies, queues re-scoring and learning, maintains the catalog, and
serves the metrics. One dispatcher per catalog is enough; two do no harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from adapters.app import policies
from adapters.app.compose import Parts
from adapters.app.metrics import open_metrics
from adapters.app.report_policies import decision_policy
from adapters.catalog.catalog import SETTLE
from adapters.service import systemd
from adapters.service.health import notify_systemd
from adapters.service.scheduler import Scheduler
from adapters.service.signals import StopSignal, should_stop
from pipeline import audit_chain, audit_delivery, deliveries, image_check, learn, references, report, rescore, settle, work
from pipeline.errors import RadclipdError
from pipeline.retention import FileRetention

if TYPE_CHECKING:
    from adapters.config.sections import Config
    from pipeline.ports.audit import AuditCatalog
    from pipeline.ports.services import Catalog

MINUTE, HOUR = 60.0, 3600.0
AUDIT_LINK_SECONDS = 2.0
"""Between two looks for audit events without a link: an event that is changed before is not noticed."""
AUDIT_DELIVERY_SECONDS = 5.0
"""Between two deliveries to the audit repository."""
CLOCK_CHECK_SECONDS = 10.0
"""Between two checks for a clock that was set back."""
VERIFY_SECONDS = 15.0
"""Between two looks for objects that were sent and are not proven to be in the archive."""
RETENTION_SECONDS = 60.0
"""Between two looks at the free space of the image store."""
RESCORE_SECONDS = 5.0
"""Between two portions of the archive that are queued for re-scoring, and between two looks at the reference distribution."""

log = structlog.get_logger("radclipd.dispatch")


def dispatch(config: Config) -> None:
    """Settle studies, maintain the catalog and serve the metrics until a signal to stop."""
    with Parts(config) as parts:
        scheduler = _build_scheduler(parts)
        with (
            open_metrics(config, parts.catalog, parts.images) as port,
            StopSignal(wake_sockets=parts.listen_for_wakeups([SETTLE])) as stop,
            notify_systemd(systemd.Notifier(), [parts.catalog.probe_write], lambda: "dispatching"),
        ):
            if port:
                log.info("metrics", address=config.metrics.address, port=port)
            scheduler.start()
            while not should_stop(stop):
                stop.wait(CLOCK_CHECK_SECONDS)
                scheduler.follow_clock()
                scheduler.run_now("settle")
            scheduler.stop()


def _build_scheduler(parts: Parts) -> Scheduler:
    config, catalog = parts.config, parts.catalog
    scheduler = Scheduler()
    scheduler.add_interval(config.work.poll_seconds, "settle", partial(_settle_and_log, build_settle(parts)))
    if config.study.ask_archive:  # a call of its own: a slow archive delays no study that needs no answer
        scheduler.add_interval(config.work.poll_seconds, "ask archive", partial(_settle_and_log, build_settle_complete(parts)))
    scheduler.add_interval(HOUR, "sweep", lambda: sweep_files(parts))
    scheduler.add_interval(RETENTION_SECONDS, "retention", build_retention(parts))
    if config.retention.min_free and config.retention.fetch != "off":
        scheduler.add_interval(RETENTION_SECONDS, "fetch", build_fetch(parts))
    scheduler.add_interval(MINUTE, "follow clock", partial(follow_clock, parts))
    scheduler.add_interval(HOUR, "maintain", lambda: maintain_catalog(parts))
    scheduler.add_interval(AUDIT_LINK_SECONDS, "link audit", partial(audit_chain.link_events, catalog=catalog))
    scheduler.add_interval(HOUR, "note audit head", partial(_log_audit_head, catalog))
    if config.audit.syslog_host:
        scheduler.add_interval(AUDIT_DELIVERY_SECONDS, "deliver audit", build_audit_delivery(parts))
    scheduler.add_interval(MINUTE, "check images", partial(_check_and_log_images, catalog))
    scheduler.add_interval(RESCORE_SECONDS, "reference", build_reference(parts))
    if config.score.rescore:
        cursor = rescore.RescoreCursor()

        def rescore_and_log() -> None:
            if queued := rescore.rescore(catalog=catalog, cursor=cursor):
                log.info("studies queued for re-scoring", studies=queued)

        scheduler.add_interval(RESCORE_SECONDS, "rescore", rescore_and_log)
    if config.archive.verification != "none":
        scheduler.add_interval(VERIFY_SECONDS, "verify deliveries", build_verification(parts))
        if config.archive.reconcile_cron:
            scheduler.add_cron(config.archive.reconcile_cron, "reconcile deliveries", build_reconciliation(parts))
    if config.learn.cron:
        scheduler.add_cron(config.learn.cron, "learn", build_learn_trigger(parts))
    return scheduler


def _check_and_log_images(catalog: Catalog) -> None:
    checked = image_check.check_images(catalog=catalog)
    if checked.made_reference:
        log.info("the reference for unusable images was made")
    if checked.unusable:
        log.info("unusable images found", images=checked.unusable, measured=checked.measured)


def _settle_and_log(settle_studies: Callable[[], list[settle.SettleResult]]) -> None:
    for settled in settle_studies():
        log.info("settled", study=settled.study_instance_uid, state=settled.state.value, reason=settled.reason)


def _log_audit_head(catalog: AuditCatalog) -> None:
    """Write the newest link to the journal: a chain that is written anew later differs from it."""
    with catalog.read() as tx:
        head = tx.audit_chain.head()
    if head is not None:
        log.info("audit chain", position=head.position, sha256=head.sha256)


def build_audit_delivery(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's step that sends audit events to the repository."""
    wanted, repository = parts.config.audit, parts.audit_repository
    policy = audit_delivery.AuditDeliveryPolicy(tell_patient_id=wanted.tell_patient_id)

    def deliver_and_log() -> None:
        try:
            audit_delivery.deliver(catalog=parts.catalog, repository=repository, policy=policy)
        except RadclipdError as error:
            log.warning("audit events not delivered", error=str(error), hint=error.hint)

    return deliver_and_log


def build_settle(parts: Parts) -> Callable[[], list[settle.SettleResult]]:
    """Make the dispatcher's step for stable and released studies."""
    return partial(settle.settle, catalog=parts.catalog, policy=policies.settle_policy(parts.config))


def build_settle_complete(parts: Parts) -> Callable[[], list[settle.SettleResult]]:
    """Make the dispatcher's step for studies that are complete by the archive's count."""
    config, catalog = parts.config, parts.catalog
    counts = settle.ArchiveCounts(catalog=catalog, archive=parts.archive, policy=policies.count_policy(config))
    return partial(settle.settle_complete, catalog=catalog, counts=counts, policy=policies.settle_policy(config))


def build_reference(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's step for the reference distribution of the serving version."""
    policy = decision_policy(parts.config)

    def follow_and_log() -> None:
        if made := references.follow(catalog=parts.catalog, policy=policy):
            log.info("reference distribution made", number=made.number, version=made.version, studies=made.studies)

    return follow_and_log


def build_verification(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's step that has the archive prove what it has accepted."""
    policy = policies.delivery_policy(parts.config)
    quiet_until = 0.0

    def verify_and_log() -> None:
        nonlocal quiet_until
        if time.monotonic() < quiet_until:
            return
        deliveries.request_commitments(catalog=parts.catalog, archive=parts.archive, policy=policy)
        found = deliveries.verify_deliveries(catalog=parts.catalog, archive=parts.archive, policy=policy)
        _log_verification("deliveries verified", found)
        if found.is_refused:
            quiet_until = time.monotonic() + HOUR
            log.warning("the archive proves no delivery", hint='archive.verification = "none" leaves them at "sent"')

    return verify_and_log


def build_reconciliation(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's nightly step that finds what the archive has lost."""
    policy = policies.delivery_policy(parts.config)

    def reconcile_and_log() -> None:
        found = deliveries.reconcile_deliveries(catalog=parts.catalog, archive=parts.archive, policy=policy)
        _log_verification("deliveries reconciled", found)

    return reconcile_and_log


def _log_verification(event: str, found: deliveries.Verification) -> None:
    if found.sent_again or found.given_up:
        log.warning("the archive has lost objects", sent_again=found.sent_again, given_up=found.given_up)
    if found.asked:
        log.info(event, asked=found.asked, found=found.found)


def build_learn_trigger(parts: Parts) -> Callable[[], bool]:
    """Make the scheduler's step that queues a round of learning."""
    return partial(learn.enqueue_learning, catalog=parts.catalog, min_new_labels=parts.config.learn.min_new_labels)


def build_retention(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's step that deletes files by `[retention]`, and warns of little space."""
    config, images = parts.config, parts.images
    policy = policies.retention_policy(config)
    file_retention = FileRetention(catalog=parts.catalog, images=images, policy=policy, comparison=parts.comparison)

    def run_and_log() -> None:
        deleted = file_retention.run()
        if deleted.files:
            log.info("files deleted", files=deleted.files, studies=deleted.studies, bytes=deleted.bytes)
        if (free := images.free_bytes()) < int(config.storage.warn_free):
            log.warning("little disk space", free=free, warn_free=int(config.storage.warn_free))

    return run_and_log


def build_fetch(parts: Parts) -> Callable[[], None]:
    """Make the dispatcher's step that fetches deleted files which somebody needs."""
    from adapters.app.file_fetch import make_file_fetch

    file_fetch = make_file_fetch(parts)

    def fetch_and_log() -> None:
        if studies := file_fetch.fetch_needed():
            log.info("deleted files fetched", studies=studies)

    return fetch_and_log


def sweep_files(parts: Parts) -> None:
    """Remove what interrupted writes have left in the image store: parts, and reports whose commit failed."""
    parts.images.remove_stale_parts(older_than_seconds=HOUR)
    if swept := report.sweep_unclaimed(catalog=parts.catalog, images=parts.images, older_than_seconds=HOUR):
        log.info("report files swept", files=swept)


def follow_clock(parts: Parts) -> int:
    """Correct what was stored while the clock was ahead; return the number of rows."""
    config = parts.config
    longest = max(config.work.circuit_open_seconds, config.archive.timeout_seconds * 2, MINUTE)
    return work.follow_clock(catalog=parts.catalog, policy=policies.work_policy(config), max_open_seconds=longest)


def maintain_catalog(parts: Parts) -> int:
    """Delete jobs done long ago and renew the planner's statistics; return the number of deleted jobs."""
    purged = work.purge_done_jobs(catalog=parts.catalog, keep_days=parts.config.work.keep_done_days)
    parts.catalog.update_statistics()
    return purged
