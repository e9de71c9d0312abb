"""Withholding: which reports leave. By `report.deliver` none do before a person says so; those of the silent share never do.

The silent share keeps labels coming that were given without the model's result. It is drawn by patient with a keyed hash, so that
no one can tell from an identifier who belongs to it, and recorded per study, so that a changed share changes no earlier study.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from datetime import datetime

from pipeline.domain import AuditEvent, DeliveryMode, JobKind, Report, ReportState, Study, VisibleObject, WithheldReason
from pipeline.errors import PermanentError
from pipeline.ports.services import Catalog, Transaction

STUDIES_PER_TRANSACTION = 200
"""Studies that are sent belatedly in one transaction."""
_HASH_BYTES = 8


def is_drawn(patient_key: str, *, share: float, key: bytes) -> bool:
    """Tell whether a patient belongs to a random share (0..1) of the patients: by HMAC-SHA-256, uniform for an unknown key."""
    digest = hmac.digest(key, patient_key.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return int.from_bytes(digest[:_HASH_BYTES], "big") < share * float(1 << (8 * _HASH_BYTES))


def draw_silent_studies(tx: Transaction, studies: Mapping[str, Study], *, share: float) -> None:
    """Record of each study that was not drawn yet whether it belongs to the silent share. Nothing is recorded at a share of 0.

    A study whose report was delivered, or is about to be, does not belong to it.
    """
    undrawn = {uid: study for uid, study in studies.items() if study.silent is None}
    if not undrawn or not share:
        return
    key, delivered = tx.studies.draw_key(), set(tx.reports.first_sent(undrawn))
    delivered |= {uid for uid, report in tx.reports.latest_of(undrawn).items() if report.reaches_archive}
    silent = {uid for uid, study in undrawn.items() if uid not in delivered and is_drawn(study.patient_key, share=share, key=key)}
    tx.studies.put_silent(silent, silent=True)
    tx.studies.put_silent(undrawn.keys() - silent, silent=False)


def choose_withholding(study: Study, deliver: DeliveryMode, withdrawal: str) -> WithheldReason | None:
    """Return why the study's report is kept and not sent; None: it is sent. What withdraws delivered reports always is."""
    if withdrawal:
        return None
    if study.silent:
        return WithheldReason.SILENT
    return WithheldReason.SHADOW if deliver is not DeliveryMode.ALL else None


def require_delivery(deliver: DeliveryMode) -> None:
    """PermanentError unless reports leave."""
    if deliver is not DeliveryMode.ALL:
        raise PermanentError(f'report.deliver is "{deliver}": nothing leaves', hint='set [report] deliver = "all", and restart')


def find_past_studies(tx: Transaction, rescored: Collection[str], deliver: DeliveryMode) -> set[str]:
    """Return the re-scored studies that get no report because none was sent when they came: nobody has asked for the past."""
    if deliver is not DeliveryMode.ALL or not rescored:
        return set()
    return {uid for uid, report in tx.reports.latest_of(rescored).items() if report.withheld is WithheldReason.SHADOW}


def resend(study_instance_uids: Collection[str], *, catalog: Catalog, deliver: DeliveryMode = DeliveryMode.ALL) -> list[str]:
    """Enqueue the newest report of each study, with its visible objects; return the SOP Instance UIDs of the reports.

    Skips studies without a report that is built or kept, and those of the silent share. PermanentError unless reports leave.
    """
    require_delivery(deliver)
    queued: list[str] = []
    with catalog.begin() as tx:
        studies = tx.studies.lock(study_instance_uids)
        for uid in study_instance_uids:
            latest = tx.reports.latest(uid)
            is_built = latest is not None and (latest.file is not None or latest.withheld is WithheldReason.SHADOW)
            if latest is not None and is_built and not studies[uid].silent:
                _enqueue_objects(tx, latest)
                queued.append(latest.sop_instance_uid)
    return queued


def resend_withheld(*, since: datetime, source: str, catalog: Catalog, deliver: DeliveryMode) -> int:
    """Enqueue the newest report of each study, where it was made since then and kept by `report.deliver`; return their number.

    Safe to repeat. PermanentError unless reports leave.
    """
    require_delivery(deliver)
    done, after = 0, ""
    while True:
        with catalog.begin() as tx:
            studies = tx.reports.studies_withheld(since=since, after=after, limit=STUDIES_PER_TRANSACTION)
            for report in tx.reports.latest_of(studies).values():
                if report.withheld is WithheldReason.SHADOW:
                    _enqueue_objects(tx, report)
                    done += 1
            if not studies:
                tx.audit(AuditEvent("resend", "done", "", f"{done} kept reports since {since:%Y-%m-%d %H:%M} are sent", source))
                return done
        after = studies[-1]


def _enqueue_objects(tx: Transaction, report: Report) -> None:
    """Enqueue the report and its visible objects for sending; one that was never built, for building."""
    if report.withheld is not None:
        tx.reports.put_withheld(report.sop_instance_uid, None)
    if report.file is None:
        tx.jobs.put(JobKind.REPORT, report.study_instance_uid, {"version": report.version, "revision": report.revision})
        return
    objects: tuple[Report | VisibleObject, ...] = (report, *tx.reports.visible_objects(report.sop_instance_uid))
    for one in objects:
        if one.file is not None:
            tx.jobs.put(JobKind.SEND, one.sop_instance_uid)


def may_be_sent(tx: Transaction, report: Report, deliver: DeliveryMode) -> bool:
    """Tell whether a built report may leave; where not, mark it as kept. A delivery that has begun is completed."""
    if report.withdrawal or report.state is ReportState.SENT:
        return True
    if report.withheld is None and deliver is not DeliveryMode.ALL:
        tx.reports.put_withheld(report.sop_instance_uid, WithheldReason.SHADOW)
        return False
    return report.withheld is None
