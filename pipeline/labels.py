"""labels: statements of readers -> labels in the catalog. A table is imported all or nothing; a document is read by a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipeline import priorities, rules
from pipeline.consensus import labels_in_force, vote_key
from pipeline.domain import (
    FINDINGS,
    NO_FINDING,
    AuditEvent,
    Document,
    Job,
    JobKind,
    Label,
    LabelExposure,
    LabelState,
    ReaderStatement,
    StoredInstance,
)
from pipeline.errors import InvalidLabels, LabelFault, PermanentError, TransientError
from pipeline.ports.services import Catalog, DocumentReader, ImageStore, Transaction

MAX_TEXT_LENGTH = 64
"""Largest number of characters in a reader's name, a source, a reason, a document's UID."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""Largest difference between clocks. A statement further in the future has a wrong time zone or year."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Counts of an import."""

    added: int  # new labels
    known: int  # statements that the catalog had already
    studies: int  # studies named by the readings


def import_readings(readings: Sequence[ReaderStatement], *, catalog: Catalog, dry_run: bool = False) -> ImportResult:
    """Append the labels of the readings in one transaction, all or nothing. Idempotent: an import repeated adds nothing.

    InvalidLabels names every faulty reading. With `dry_run` everything is checked and nothing written.
    """
    with catalog.read() if dry_run else catalog.begin() as tx:
        now = tx.now()
        identified, faults = _identify_studies(readings, tx)
        blind = sum(reading.exposure is LabelExposure.NONE for reading in identified)
        identified = _add_exposures(_add_reasons(identified, now, tx), now, tx)
        faults += [fault for reading in readings for fault in _check_reading(reading, now)]
        faults += _find_contradictions(identified)
        if faults:
            raise _make_invalid_labels(faults)
        studies = {reading.study_instance_uid for reading in identified}
        index = _StatementIndex(tx.labels.of_studies(studies))
        new = [label for reading in identified for label in index.new_labels(reading, now)]
        if new and not dry_run:
            tx.labels.append(new)
            stated = f", {blind} statements without the model's result by the word of the sender" if blind else ""
            detail = f"{len(new)} labels on {len(studies)} studies{stated}"
            tx.audit(AuditEvent("label", "done", "", detail, _join_sources(identified)))
    return ImportResult(len(new), sum(len(reading.findings) for reading in identified) - len(new), len(studies))


def withdraw(ids: Sequence[int], *, reader: str, source: str, catalog: Catalog) -> Sequence[Label]:
    """Revoke labels in force, of any reader; return them. PermanentError, and nothing is revoked, where one is not in force."""
    with catalog.begin() as tx:
        for study in sorted({label.study_instance_uid for label in tx.labels.find(ids)}):
            tx.studies.find(study)  # locks the study on PostgreSQL
        revoked = tx.labels.find(ids)
        studies = {label.study_instance_uid for label in revoked}
        in_force = {label.id for label in labels_in_force(tx.labels.of_studies(studies))}
        if missing := sorted(set(ids) - in_force):
            raise PermanentError(
                f"label {missing[0]} is not in force: it is not there, or was revoked or superseded", hint="radclipd labels list"
            )
        now = tx.now()
        tx.labels.append([_make_withdrawal(label, reader, source, now) for label in revoked])
        named = ", ".join(f"{label.id}{f' of {label.reader}' if label.reader != reader else ''}" for label in revoked)
        tx.audit(AuditEvent("label", "done", "", f"withdrawn by {reader}: {named}", source))
    return revoked


def enqueue_documents(*, catalog: Catalog) -> int:
    """Enqueue a LABEL job for every document in the catalog; return their number. Labels known already are not added twice."""
    with catalog.begin() as tx:
        documents = tx.studies.document_uids()
        for sop_instance_uid in documents:
            tx.jobs.put(JobKind.LABEL, sop_instance_uid, priority=priorities.LABELS)
    return len(documents)


def read_document(job: Job, *, catalog: Catalog, images: ImageStore, documents: DocumentReader) -> None:
    """Store the labels of one SR or KOS, or audit why there are none; then finish the job. Idempotent.

    A later version of a document revokes the labels of the earlier one, in whichever order they arrive. TransientError where
    another document of the study arrives meanwhile.
    """
    with catalog.read() as tx:
        instance = tx.studies.find_instance(job.subject)
        if instance is None:
            raise PermanentError(f"there is no document {job.subject} in the catalog")
        study = instance.header.study_instance_uid
        stored = _find_label_documents(study, tx)
    contents = {uid: _read_other_document(other, images, documents) for uid, other in stored.items() if uid != job.subject}
    if job.subject in stored:
        contents[job.subject] = documents.read(images.read(instance.file))
    with catalog.begin() as tx:
        tx.studies.find(study)  # locks the study on PostgreSQL: one document of a study at a time
        if set(_find_label_documents(study, tx)) != set(contents):
            raise TransientError(f"another document of study {study} came in between")
        if job.subject in contents:  # False for an own report, and for a document of the desk, whose labels stand
            outcome, detail = _store_statements(job.subject, contents, tx)
            tx.audit(AuditEvent("label", outcome, job.subject, detail))
        tx.jobs.finish(job)


def _find_label_documents(study_instance_uid: str, tx: Transaction) -> dict[str, StoredInstance]:
    """Return SOPInstanceUID -> the study's SR and KOS instances, without own reports and documents of the desk's readers."""
    documents = (i for i in tx.studies.instances(study_instance_uid) if rules.may_hold_labels(i.header))
    found = {i.header.sop_instance_uid: i for i in documents}
    return {uid: one for uid, one in found.items() if not _is_of_this_catalog(uid, tx)}


def _is_of_this_catalog(uid: str, tx: Transaction) -> bool:
    return (tx.reports.find(uid) or tx.reports.find_visible(uid) or tx.reader_documents.find(uid)) is not None


def _read_other_document(instance: StoredInstance, images: ImageStore, documents: DocumentReader) -> Document:
    """Read one of the study's other documents. A lost file fails the job of that document, not this one."""
    try:
        return documents.read(images.read(instance.file))
    except PermanentError as error:
        return Document(reason=str(error))


def _store_statements(uid: str, contents: Mapping[str, Document], tx: Transaction) -> tuple[str, str]:
    """Append the labels of document `uid` and revoke those of the documents that it replaces; return outcome and detail."""
    document = contents[uid]
    if document.reason:
        return "refused", document.reason
    later = next((key for key, other in contents.items() if not other.reason and uid in other.replaces and key != uid), None)
    if later is not None:
        return "refused", f"document {later} is a later version of it"
    now = tx.now()
    known_studies = tx.studies.accession_numbers({reading.study_instance_uid for reading in document.readings})
    if not known_studies:
        return "refused", "speaks of no study in the catalog"
    existing = tx.labels.of_studies(known_studies)
    replaced = [label for label in labels_in_force(existing) if label.document in document.replaces and label.document != uid]
    not_before = max((label.stated_at for label in replaced), default=None)
    readings = [_date_reading(replace(reading, document=uid), not_before, now) for reading in document.readings]
    readings = _add_exposures(_add_reasons(readings, now, tx), now, tx)
    index = _StatementIndex(existing)
    relevant = [reading for reading in readings if reading.study_instance_uid in known_studies]
    new = [label for reading in relevant for label in index.new_labels(reading, now)]
    tx.labels.append(new)
    tx.labels.append([_make_withdrawal(label, readings[0].reader, readings[0].source, now, document=uid) for label in replaced])
    unclear = f", {document.unclear} findings unclear" if document.unclear else ""
    return "done", f"{len(new)} labels added, {len(replaced)} of earlier versions revoked{unclear}"


def _date_reading(reading: ReaderStatement, not_before: datetime | None, now: datetime) -> ReaderStatement:
    """Return the reading with a time: at least that of the version it replaces, and now where its clock runs ahead."""
    stated_at = reading.stated_at or now
    if stated_at > now + CLOCK_TOLERANCE:
        stated_at = now
    return replace(reading, stated_at=max(stated_at, not_before) if not_before else stated_at)


def _add_reasons(readings: Sequence[ReaderStatement], now: datetime, tx: Transaction) -> list[ReaderStatement]:
    """Give each reading without a selection reason that of the earlier request for its study."""
    requests = tx.requests.of_studies({reading.study_instance_uid for reading in readings})
    second = {request.study_instance_uid: request for request in tx.second_readings.all()}

    def with_reason(reading: ReaderStatement) -> ReaderStatement:
        request = second.get(reading.study_instance_uid)
        if request is None or (reading.stated_at or now) < request.requested_at:
            request = requests.get(reading.study_instance_uid)
        if request is None or reading.selection_reason or (reading.stated_at or now) < request.requested_at - CLOCK_TOLERANCE:
            return reading
        return replace(reading, selection_reason=request.selection_reason, selection_probability=request.selection_probability)

    return [with_reason(reading) for reading in readings]


def _add_exposures(readings: Sequence[ReaderStatement], now: datetime, tx: Transaction) -> list[ReaderStatement]:
    """Give each reading without an exposure that of the reports delivered before it."""
    delivered = tx.reports.first_sent({reading.study_instance_uid for reading in readings})

    def with_exposure(reading: ReaderStatement) -> ReaderStatement:
        if reading.exposure is not None:
            return reading
        sent_at = delivered.get(reading.study_instance_uid)
        is_possible = sent_at is not None and sent_at <= (reading.stated_at or now)
        return replace(reading, exposure=LabelExposure.POSSIBLE if is_possible else LabelExposure.NONE)

    return [with_exposure(reading) for reading in readings]


def add_labels(reading: ReaderStatement, tx: Transaction) -> list[Label]:
    """Append the labels of one statement on a study of the catalog, within the caller's transaction; return them."""
    now = tx.now()
    [complete] = _add_exposures(_add_reasons([reading], now, tx), now, tx)
    new = list(_StatementIndex(tx.labels.of_studies([reading.study_instance_uid])).new_labels(complete, now))
    tx.labels.append(new)
    return new


def _make_withdrawal(label: Label, reader: str, source: str, now: datetime, document: str = "") -> Label:
    return Label(
        study_instance_uid=label.study_instance_uid,
        finding=label.finding,
        state=None,
        reader=reader,
        source=source,
        stated_at=now,
        document=document,
        revokes=label.id,
    )


class _StatementIndex:
    """The statements of the catalog and of earlier readings of the same import, for the detection of duplicates."""

    def __init__(self, labels: Sequence[Label]) -> None:
        stated = [label for label in labels if label.state is not None]
        self._statements = {(*vote_key(label), label.state, label.stated_at) for label in stated}
        self._documents = {(*vote_key(label), label.document) for label in stated if label.document}
        self._in_force = {vote_key(label): label.state for label in labels_in_force(labels)}

    def new_labels(self, reading: ReaderStatement, now: datetime) -> Iterator[Label]:
        """Yield the labels that this reading adds. A reading without a time adds no label equal to the reader's label in force."""
        stated_at = rules.truncate_to_milliseconds(reading.stated_at or now)
        for finding, state in reading.findings.items():
            key = (reading.study_instance_uid, finding, reading.reader)
            if reading.document and (*key, reading.document) in self._documents:
                continue
            if (*key, state, stated_at) in self._statements or (reading.stated_at is None and self._in_force.get(key) is state):
                continue
            self._statements.add((*key, state, stated_at))
            self._in_force[key] = state
            yield _make_label(reading, finding, state, stated_at)


def _make_label(reading: ReaderStatement, finding: str, state: LabelState, stated_at: datetime) -> Label:
    return Label(
        study_instance_uid=reading.study_instance_uid,
        finding=finding,
        state=state,
        reader=reading.reader,
        source=reading.source,
        stated_at=stated_at,
        selection_reason=reading.selection_reason,
        selection_probability=reading.selection_probability,
        document=reading.document,
        exposure=reading.exposure or LabelExposure.NONE,
    )


def _identify_studies(readings: Sequence[ReaderStatement], tx: Transaction) -> tuple[list[ReaderStatement], list[LabelFault]]:
    """Return the readings with the UIDs of their studies, and a fault for each reading that does not name exactly one study."""
    number_of_uid = tx.studies.accession_numbers({r.study_instance_uid for r in readings if r.study_instance_uid})
    uids_of_number = tx.studies.uids_by_accession_number({r.accession_number for r in readings if r.accession_number})
    identified, faults = [], []
    for reading in readings:
        uid, number = reading.study_instance_uid, reading.accession_number
        matches = uids_of_number.get(number, [])
        if not uid and len(matches) == 1:
            identified.append(replace(reading, study_instance_uid=matches[0]))
        elif uid in number_of_uid and (not number or number_of_uid[uid] in (number, "")):
            identified.append(reading)
        else:
            faults.append(_explain_unknown_study(reading, number_of_uid, matches))
    return identified, faults


def _explain_unknown_study(reading: ReaderStatement, number_of_uid: Mapping[str, str], matches: Sequence[str]) -> LabelFault:
    uid, number, row = reading.study_instance_uid, reading.accession_number, reading.row
    if uid in number_of_uid:
        return LabelFault(
            row, "accession_number", number, "this is not the accession number of the row's study: correct one of the two"
        )
    if uid:
        return LabelFault(row, "study_instance_uid", uid, "no such study in the catalog: send it to radclipd first")
    if not number:
        return LabelFault(row, "study_instance_uid", "", "name the study by study_instance_uid or accession_number")
    if not matches:
        return LabelFault(row, "accession_number", number, "no such study in the catalog: send it to radclipd first")
    return LabelFault(row, "accession_number", number, f"{len(matches)} studies have it: name the study by study_instance_uid")


def _check_reading(reading: ReaderStatement, now: datetime) -> Iterator[LabelFault]:
    """Yield the faults of one reading: reader, text fields, time, probability, findings."""
    row, probability = reading.row, reading.selection_probability
    if not reading.reader.strip():
        yield LabelFault(row, "reader", reading.reader, "say who read it: a reader column, or --reader NAME")
    for column in ("reader", "source", "selection_reason", "document"):
        text = getattr(reading, column)
        if len(text) > MAX_TEXT_LENGTH or not (text.isprintable() or not text):
            yield LabelFault(row, column, text, f"at most {MAX_TEXT_LENGTH} printable characters")
    if reading.stated_at is not None and reading.stated_at > now + CLOCK_TOLERANCE:
        yield LabelFault(
            row, "stated_at", reading.stated_at.isoformat(), "this lies in the future: check the year and the time zone"
        )
    if probability is not None and not 0 < probability <= 1:
        yield LabelFault(row, "selection_probability", f"{probability:g}", "above 0, up to 1")
    for finding in reading.findings:
        if finding not in FINDINGS:
            yield LabelFault(row, finding, "", f"one of {', '.join(FINDINGS)}, or {NO_FINDING}")


def _find_contradictions(readings: Iterable[ReaderStatement]) -> Iterator[LabelFault]:
    """Yield a fault for each finding with two states by one reader at one time: the order of a table's rows means nothing."""
    first: dict[tuple[str, str, datetime | None, str], tuple[LabelState, int]] = {}
    for reading in readings:
        for finding, state in reading.findings.items():
            key = (reading.study_instance_uid, reading.reader, reading.stated_at, finding)
            first_state, row = first.setdefault(key, (state, reading.row))
            if first_state is not state:
                remedy = f"row {row} says {first_state.value} of the same study by the same reader: keep one, or give stated_at"
                yield LabelFault(reading.row, finding, state.value, remedy)


def _make_invalid_labels(faults: Sequence[LabelFault]) -> InvalidLabels:
    rows = len({fault.row for fault in faults})
    return InvalidLabels(
        f"{rows} {'row' if rows == 1 else 'rows'} cannot be taken; nothing was", sorted(faults, key=lambda f: f.row)
    )


def _join_sources(readings: Iterable[ReaderStatement]) -> str:
    return ", ".join(sorted({reading.source for reading in readings}))
