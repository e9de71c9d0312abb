"""report: predictions -> a report row with its UIDs -> the SR file -> a send job; then SR -> archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.domain import Job, JobKind, Report, ReportState, StudyState
from pipeline.errors import ArchiveUnreachable, RefusedByArchive, ReportImpossible
from pipeline.ports.services import Archive, Catalog, CircuitPolicy, ImageStore, ReportContent, ReportWriter, Transaction


def report(job: Job, *, catalog: Catalog, images: ImageStore, writer: ReportWriter) -> None:
    """Build the SR of one study's newest revision. Idempotent: the SOP Instance UID derives from study, version and revision."""
    with catalog.begin() as tx:
        content = _gather_content(tx, job, writer)
        if content is None or content.report.state is not ReportState.PENDING:
            tx.jobs.finish(job)
            return
    file = images.write(writer.write(content))
    with catalog.begin() as tx:
        tx.reports.mark_built(content.report.sop_instance_uid, file)
        tx.jobs.put(JobKind.SEND, content.report.sop_instance_uid, priority=job.priority)
        tx.jobs.finish(job)


def _gather_content(tx: Transaction, job: Job, writer: ReportWriter) -> ReportContent | None:
    """Insert the report row and return the content of the SR. None where the study has a newer revision than the job."""
    study = tx.studies.find(job.subject)
    version = tx.versions.find(int(job.payload["version"]))
    if study is None or version is None:
        raise ReportImpossible(f"study {job.subject} or version {job.payload['version']} is not in the catalog")
    if study.revision != int(job.payload["revision"]):
        return None
    pending = writer.pending_report(study.study_instance_uid, version.number, study.revision)
    previous = tx.reports.latest(study.study_instance_uid)
    if previous is not None and previous.sop_instance_uid != pending.sop_instance_uid:
        pending = replace(pending, predecessor=_choose_predecessor(previous))
    pending = tx.reports.ensure_pending(pending)
    scored = tx.scores.image_scores(study.study_instance_uid, version.number)
    return ReportContent(
        report=pending,
        study=study,
        version=version,
        predictions=tx.scores.predictions(study.study_instance_uid, version.number),
        evidence=[i for i in tx.studies.instances(study.study_instance_uid) if i.header.sop_instance_uid in scored],
        predecessor=tx.reports.find(pending.predecessor) if pending.predecessor else None,
    )


def _choose_predecessor(previous: Report) -> str | None:
    """Return the newest report that the archive holds or is about to receive: the previous one, or else its predecessor."""
    reaches_archive = previous.state in (ReportState.BUILT, ReportState.SENT)
    return previous.sop_instance_uid if reaches_archive else previous.predecessor


def send(job: Job, *, catalog: Catalog, images: ImageStore, archive: Archive, circuit: CircuitPolicy) -> None:
    """Send one SR to the archive, at least once: a second arrival has the same SOP Instance UID and is the same object."""
    with catalog.read() as tx:
        built = tx.reports.find(job.subject)
    if built is None or built.file is None:
        raise ReportImpossible(
            f"report {job.subject} has no bytes to send", hint="radclipd jobs list; radclipd reports resend STUDY"
        )
    content = images.read(built.file)
    try:
        status = archive.store(content)
    except ArchiveUnreachable:
        with catalog.begin() as tx:
            tx.circuits.record_failure(archive.name, threshold=circuit.threshold, open_seconds=circuit.open_seconds)
        raise
    except RefusedByArchive as error:
        with catalog.begin() as tx:
            tx.circuits.record_success(archive.name)
            tx.reports.mark_refused(built.sop_instance_uid, str(error))
        raise
    with catalog.begin() as tx:
        tx.circuits.record_success(archive.name)
        tx.reports.mark_sent(built.sop_instance_uid, status)
        _close_study(tx, built)
        tx.jobs.finish(job)


def _close_study(tx: Transaction, sent: Report) -> None:
    study = tx.studies.find(sent.study_instance_uid)
    if study is not None and study.state is StudyState.SCORED and study.revision == sent.revision:
        tx.studies.put_state(study.study_instance_uid, StudyState.REPORTED)


def resend(study_instance_uids: Sequence[str], *, catalog: Catalog) -> list[str]:
    """Enqueue the newest report of each study for sending; return the SOP Instance UIDs. Skips studies without a built report."""
    queued: list[str] = []
    with catalog.begin() as tx:
        for study_instance_uid in study_instance_uids:
            latest = tx.reports.latest(study_instance_uid)
            if latest is not None and latest.file is not None:
                tx.jobs.put(JobKind.SEND, latest.sop_instance_uid)
                queued.append(latest.sop_instance_uid)
    return queued
