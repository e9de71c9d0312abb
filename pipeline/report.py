"""report: predictions -> rows with UIDs -> files of the SR and of its visible objects -> send jobs; then each object -> archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline import decisions, sending, withholding
from pipeline.domain import (
    AuditEvent,
    Decision,
    DeliveryMode,
    Job,
    JobKind,
    ModelVersion,
    NotAssessedReason,
    Prediction,
    Report,
    ReportState,
    StoredFile,
    Study,
    StudyState,
    VisibleObject,
    WithheldReason,
)
from pipeline.errors import (
    OutOfResources,
    RadclipdError,
    ReportImpossible,
    ReportingStopped,
    TransientError,
)
from pipeline.messages import ENGLISH, load_messages
from pipeline.ports.services import Archive, Catalog, CircuitPolicy, ImageStore, ReportContent, ReportWriter, Transaction
from pipeline.statements import StudyStatement, tell_study

ALL_FINDINGS = ""
"""A stop of this finding stops every report."""
WITHDRAWAL_KEY = "withdrawal"
"""Payload key of a report job: why the study's reports are withdrawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPolicy:
    """`[report]` and `[decision]` of the configuration."""

    language: str = ENGLISH  # of `pipeline.messages`
    decision: decisions.DecisionPolicy = decisions.DEFAULT_POLICY
    deliver: DeliveryMode = DeliveryMode.ALL
    destinations: Sequence[str] = ()  # AE titles that the objects are sent to


def report(job: Job, *, catalog: Catalog, images: ImageStore, writer: ReportWriter, policy: ReportPolicy) -> None:
    """Build the SR of one study's newest revision, and its visible objects; all become durable in one transaction.

    Idempotent: the SOP Instance UIDs derive from study, version and revision. Where no report is wanted, its row alone is kept.
    """
    with catalog.begin() as tx:
        content = _gather_content(tx, job, writer, policy)
        if content is None or content.report.state is not ReportState.PENDING:
            tx.jobs.finish(job)
            return
        withheld = withholding.choose_withholding(content.study, policy.deliver, content.report.withdrawal)
        if withheld is WithheldReason.SHADOW and policy.deliver is DeliveryMode.NONE:
            tx.reports.put_withheld(content.report.sop_instance_uid, withheld)
            tx.jobs.finish(job)
            return
        pending = _insert_visible(tx, content, writer)
    objects = {content.report.sop_instance_uid: writer.write(content)}
    objects |= {one.sop_instance_uid: writer.write_visible(content, one, before) for one, before in pending}
    destinations = policy.destinations if withheld is None else ()
    _store_objects(objects, job, withheld, catalog=catalog, images=images, destinations=destinations)


def _store_objects(
    objects: Mapping[str, bytes],
    job: Job,
    withheld: WithheldReason | None,
    *,
    catalog: Catalog,
    images: ImageStore,
    destinations: Sequence[str],
) -> None:
    """Write the files by SOP Instance UID, the report's first; then their rows and the end of the report job in one transaction,
    with deliveries and a send job for each unless the report is withheld.
    """
    files: dict[str, StoredFile] = {}
    try:
        for uid, content in objects.items():
            files[uid] = images.write_unclaimed(content, uid)
        with catalog.begin() as tx:
            for uid, file in files.items():
                tx.reports.mark_built(uid, file)
                if (built := _find_object(tx, uid)) is not None:
                    for destination in destinations:
                        tx.deliveries.ensure_waiting(built, destination)
                if withheld is None:
                    tx.jobs.put(JobKind.SEND, uid, priority=job.priority)
            tx.reports.put_withheld(next(iter(files)), withheld)
            tx.jobs.finish(job)
            if swept := [uid for uid, file in files.items() if not images.exists(file)]:
                raise TransientError(
                    f"the file of report {swept[0]} was swept before its row was written", hint="it is built again"
                )
    except OutOfResources:  # the commit may have come through, or still come: `sweep_unclaimed` decides later
        raise
    except RadclipdError:
        with suppress(OutOfResources):
            for uid, file in files.items():
                _remove_unless_named(file, uid, catalog=catalog, images=images)
        raise
    for uid, file in files.items():
        images.mark_claimed(file, uid)


def sweep_unclaimed(*, catalog: Catalog, images: ImageStore, older_than_seconds: float) -> int:
    """Remove the files of reports whose commit failed; return their number. A file that was just written has its commit ahead."""
    unclaimed = images.list_unclaimed(older_than_seconds=older_than_seconds)
    return sum(_remove_unless_named(file, owner, catalog=catalog, images=images) for file, owner in unclaimed)


def _remove_unless_named(file: StoredFile, owner: str, *, catalog: Catalog, images: ImageStore) -> bool:
    """Remove the file of a report unless the row of the report, or of its copy that came back, names it; return whether it did."""
    with catalog.begin() as tx:
        rows = (_find_object(tx, owner), tx.studies.find_instance(owner))
        named = [row.file for row in rows if row is not None and row.file is not None]
        is_named = any(other.sha256 == file.sha256 for other in named)
        if not is_named:
            images.remove(file)
    images.mark_claimed(file, owner)
    return not is_named


def _gather_content(tx: Transaction, job: Job, writer: ReportWriter, policy: ReportPolicy) -> ReportContent | None:
    """Insert the report row and return the content of the SR. None where the study has a newer revision than the job.

    ReportingStopped while a person has stopped all reports; one that withdraws others is built all the same.
    """
    study = tx.studies.find(job.subject)
    version = tx.versions.find(int(job.payload["version"]))
    if study is None or version is None:
        raise ReportImpossible(f"study {job.subject} or version {job.payload['version']} is not in the catalog")
    if study.revision != int(job.payload["revision"]):
        return None
    withdrawal = str(job.payload.get(WITHDRAWAL_KEY, ""))
    predictions = _load_predictions(tx, study, version, withdrawal)
    pending = replace(writer.pending_report(study.study_instance_uid, version.number, study.revision), withdrawal=withdrawal)
    previous = tx.reports.latest(study.study_instance_uid)
    if previous is not None and previous.sop_instance_uid != pending.sop_instance_uid:
        pending = replace(pending, predecessor=_choose_predecessor(previous))
    pending = tx.reports.ensure_pending(pending)
    scored = tx.scores.image_scores(study.study_instance_uid, version.number)
    return ReportContent(
        report=pending,
        study=study,
        version=version,
        predictions=predictions,
        statement=tell(tx, predictions, version, policy, withdrawal),
        evidence=[i for i in tx.studies.instances(study.study_instance_uid) if i.header.sop_instance_uid in scored],
        predecessor=tx.reports.find(pending.predecessor) if pending.predecessor else None,
    )


def _insert_visible(
    tx: Transaction, content: ReportContent, writer: ReportWriter
) -> list[tuple[VisibleObject, VisibleObject | None]]:
    """Insert the rows of the report's visible objects; return each with its predecessor, by the rule of the report."""
    before = tx.reports.visible_objects(content.predecessor.sop_instance_uid) if content.predecessor else []
    previous = {one.kind: one for one in before}
    pending = []
    for visible in writer.pending_visible(content):
        if superseded := previous.get(visible.kind):
            visible = replace(visible, predecessor=_choose_predecessor(superseded))
        row = tx.reports.ensure_visible(visible)
        pending.append((row, tx.reports.find_visible(row.predecessor) if row.predecessor else None))
    return pending


def _load_predictions(tx: Transaction, study: Study, version: ModelVersion, withdrawal: str) -> list[Prediction]:
    """Return the predictions to report, with stopped findings not assessed, here and in the catalog."""
    predictions = tx.scores.predictions(study.study_instance_uid, version.number)
    if not withdrawal:
        require_reporting(tx)
    withheld = withhold_stopped(tx, predictions)
    if withheld != predictions:
        tx.scores.put_predictions(version.number, {study.study_instance_uid: withheld}, {study.study_instance_uid: study.revision})
    return withheld


def require_reporting(tx: Transaction) -> None:
    """Raise ReportingStopped while a person has stopped all reports."""
    stops = tx.stops.current()
    if ALL_FINDINGS in stops:
        raise ReportingStopped(f"reporting is stopped: {stops[ALL_FINDINGS]}", hint="radclipd reports resume")


def withhold_stopped(tx: Transaction, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions with the findings of stops not assessed."""
    return decisions.withhold(predictions, NotAssessedReason.STOPPED, list(tx.stops.current()))


def tell(
    tx: Transaction, predictions: Sequence[Prediction], version: ModelVersion, policy: ReportPolicy, withdrawal: str = ""
) -> StudyStatement:
    """Return what is told of a study, with the reference distribution that its predictions name."""
    named = {prediction.reference for prediction in predictions if prediction.reference is not None}
    reference = tx.references.find(max(named)) if named else None
    return tell_study(predictions, version, reference, load_messages(policy.language), policy.decision, withdrawal)


def tell_newest(tx: Transaction, study_instance_uid: str, policy: ReportPolicy) -> StudyStatement | None:
    """Return what is told of a study by the version that serves, or else by the newest that scored it; None: not scored."""
    latest, serving = tx.reports.latest(study_instance_uid), tx.versions.serving()
    numbers = [serving.number] if serving else []
    numbers += [latest.version] if latest else []
    numbers += [version.number for version in reversed(tx.versions.all())]
    for number in numbers:
        predictions, version = tx.scores.predictions(study_instance_uid, number), tx.versions.find(number)
        if predictions and version is not None:
            withdrawal = latest.withdrawal if latest is not None and latest.version == number else ""
            return tell(tx, predictions, version, policy, withdrawal)
    return None


def _choose_predecessor(previous: Report | VisibleObject) -> str | None:
    """Return the newest object that the archive holds or is about to receive: the previous one, or else its predecessor."""
    return previous.sop_instance_uid if previous.reaches_archive else previous.predecessor


def send(
    job: Job,
    *,
    catalog: Catalog,
    images: ImageStore,
    archive: Archive,
    circuit: CircuitPolicy,
    deliver: DeliveryMode = DeliveryMode.ALL,
) -> None:
    """Send one SR or visible object to the archive, at least once: a second arrival has the same UID and is the same object.

    One that may not leave is kept, and the job ends.
    """
    with catalog.read() as tx:
        built = _find_object(tx, job.subject)
        told = tx.reports.find(built.report) if isinstance(built, VisibleObject) else built
    if built is None or built.file is None or told is None:
        raise ReportImpossible(
            f"report {job.subject} has no bytes to send", hint="radclipd jobs list; radclipd reports resend STUDY"
        )
    if not _is_deliverable(told, job, catalog, deliver) or not _may_leave(told, job, catalog):
        return

    def record_refusal(tx: Transaction, reason: str) -> None:
        tx.reports.mark_refused(built.sop_instance_uid, reason)
        tx.deliveries.mark_refused(built, archive.name, reason)
        _close_study(tx, built)

    def record_sent(tx: Transaction, status: str) -> None:
        tx.reports.mark_sent(built.sop_instance_uid, status)
        tx.deliveries.mark_sent(built, archive.name, status)
        _close_study(tx, built)
        tx.audit(AuditEvent("send", "done", built.sop_instance_uid, status, archive.name))
        tx.jobs.finish(job)

    content, outcomes = images.read(built.file), {"record_sent": record_sent, "record_refusal": record_refusal}
    sending.send_object(content, catalog=catalog, archive=archive, circuit=circuit, **outcomes)


def _is_deliverable(built: Report, job: Job, catalog: Catalog, deliver: DeliveryMode) -> bool:
    """Tell whether the job's object, of a built report, is to be delivered; else keep the report, and finish the job."""
    if built.withheld is None and (deliver is DeliveryMode.ALL or built.withdrawal):
        return True
    with catalog.begin() as tx:
        current = tx.reports.find(built.sop_instance_uid) or built
        if withholding.may_be_sent(tx, current, deliver):
            return True
        tx.jobs.finish(job)
    return False


def _find_object(tx: Transaction, sop_instance_uid: str) -> Report | VisibleObject | None:
    return tx.reports.find(sop_instance_uid) or tx.reports.find_visible(sop_instance_uid)


def _may_leave(built: Report, job: Job, catalog: Catalog) -> bool:
    """Tell whether the job's object, of a built report, may be sent. One that tells a stopped finding may not: another revision
    takes its place.

    ReportingStopped while all reports are stopped, except for one that withdraws others.
    """
    with catalog.read() as tx:
        stops = tx.stops.current()
        if not built.withdrawal:
            require_reporting(tx)
    if built.withdrawal or not stops:
        return True
    with catalog.begin() as tx:
        uid = built.study_instance_uid
        study = tx.studies.lock([uid]).get(uid)
        predictions = tx.scores.predictions(uid, built.version)
        told = [one.finding for one in predictions if one.decision is not Decision.NOT_ASSESSED]
        is_newest = study is not None and study.revision == built.revision
        if is_newest and not set(told) & set(stops):
            return True
        if is_newest:
            put_revision(tx, uid, built.version, decisions.withhold(predictions, NotAssessedReason.STOPPED, list(stops)))
        detail = f"not sent: it may tell of {', '.join(stops)}, which is stopped; a newer revision takes its place"
        tx.audit(AuditEvent("send", "refused", job.subject, detail))
        tx.jobs.finish(job)
    return False


def put_revision(
    tx: Transaction, study_instance_uid: str, version: int, predictions: Sequence[Prediction], *, withdrawal: str = ""
) -> None:
    """Write a study's predictions as a new revision, and enqueue its report."""
    revisions = tx.studies.next_revisions([study_instance_uid])
    tx.scores.put_predictions(version, {study_instance_uid: predictions}, revisions)
    payload = {"version": version, "revision": revisions[study_instance_uid]}
    tx.jobs.put(JobKind.REPORT, study_instance_uid, payload | ({WITHDRAWAL_KEY: withdrawal} if withdrawal else {}))


def _close_study(tx: Transaction, answered: Report | VisibleObject) -> None:
    """Set REPORTED once the archive has accepted the SR and has answered to each of its visible objects."""
    sent = tx.reports.find(answered.report if isinstance(answered, VisibleObject) else answered.sop_instance_uid)
    if sent is None or sent.state is not ReportState.SENT:
        return
    if any(one.state is ReportState.BUILT for one in tx.reports.visible_objects(sent.sop_instance_uid)):
        return
    study = tx.studies.find(sent.study_instance_uid)
    if study is not None and study.state is StudyState.SCORED and study.revision == sent.revision:
        tx.studies.put_state(study.study_instance_uid, StudyState.REPORTED)
