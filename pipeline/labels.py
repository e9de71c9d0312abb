"""labels: what readers say -> statements in the catalog. From tables and desks, all or nothing; from documents, by a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pipeline import rules
from pipeline.consensus import labels_in_force
from pipeline.domain import (
    FINDINGS,
    NO_FINDING,
    AuditEvent,
    Document,
    Job,
    JobKind,
    Label,
    LabelState,
    ReaderStatement,
    StoredInstance,
)
from pipeline.errors import InvalidLabels, LabelFault, PermanentError, TransientError
from pipeline.ports.services import Catalog, DocumentReader, ImageStore, Transaction

MAX_TEXT_LENGTH = 64
"""Characters of a reader's name, a source, a reason."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""What is stated later than this from now was not stated yet: a time zone or a year is wrong."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of some readings: statements added, statements known already, studies spoken of."""

    added: int
    known: int
    studies: int


def import_readings(readings: Sequence[ReaderStatement], *, catalog: Catalog, dry_run: bool = False) -> ImportResult:
    """Append what the readings say, in one transaction: all or nothing. Taking the same again adds nothing.

    InvalidLabels names every reading that cannot be taken. With `dry_run` everything is looked at and nothing written.
    """
    with catalog.read() if dry_run else catalog.begin() as tx:
        now = tx.now()
        named, faults = _identify_studies(readings, tx)
        named = _add_reasons(named, now, tx)
        faults += [fault for reading in readings for fault in _check_reading(reading, now)]
        faults += _find_contradictions(named)
        if faults:
            raise _make_invalid_labels(faults)
        studies = {reading.study_instance_uid for reading in named}
        known = _StatementIndex(tx.labels.of_studies(studies))
        fresh = [label for reading in named for label in known.new_labels(reading, now)]
        if fresh and not dry_run:
            tx.labels.append(fresh)
            tx.audit(AuditEvent("label", "done", "", f"{len(fresh)} statements on {len(studies)} studies", _join_sources(named)))
    return ImportResult(len(fresh), sum(len(reading.findings) for reading in named) - len(fresh), len(studies))


def withdraw(ids: Sequence[int], *, reader: str, source: str, catalog: Catalog) -> int:
    """Revoke statements that stand; return how many. PermanentError, and none is, where one of them does not stand."""
    with catalog.begin() as tx:
        for study in sorted({label.study_instance_uid for label in tx.labels.find(ids)}):
            tx.studies.find(study)  # on PostgreSQL holds it
        chosen = tx.labels.find(ids)
        stands = {label.id for label in labels_in_force(tx.labels.of_studies({label.study_instance_uid for label in chosen}))}
        if lost := sorted(set(ids) - stands):
            raise PermanentError(
                f"label {lost[0]} does not stand: it is not there, or was revoked or followed", hint="radclipd labels list"
            )
        now = tx.now()
        tx.labels.append([_make_withdrawal(label, reader, source, now) for label in chosen])
        tx.audit(AuditEvent("label", "done", "", f"withdrawn: {', '.join(str(label.id) for label in chosen)}", source))
    return len(chosen)


def enqueue_documents(*, catalog: Catalog) -> int:
    """Enqueue every document in the catalog to be read for labels; return how many. What they have said is not said twice."""
    with catalog.begin() as tx:
        documents = tx.studies.document_uids()
        for sop_instance_uid in documents:
            tx.jobs.put(JobKind.LABEL, sop_instance_uid, priority=200)
    return len(documents)


def read_document(job: Job, *, catalog: Catalog, images: ImageStore, documents: DocumentReader) -> None:
    """Take the labels of one SR or KOS, or audit why there are none; then finish the job. Idempotent.

    A later version of a document revokes what the earlier one said, in whichever order they arrive. TransientError where another
    document of the study came in between.
    """
    with catalog.read() as tx:
        instance = tx.studies.find_instance(job.subject)
        if instance is None:
            raise PermanentError(f"there is no document {job.subject} in the catalog")
        study = instance.header.study_instance_uid
        stored = _find_label_documents(study, tx)
        others = {uid: found for uid, found in stored.items() if uid != job.subject}
    said = {uid: _read_other_document(found, images, documents) for uid, found in others.items()}
    if job.subject in stored:
        said[job.subject] = documents.read(images.read(instance.file))
    with catalog.begin() as tx:
        tx.studies.find(study)  # on PostgreSQL holds it: one document of a study at a time
        if set(_find_label_documents(study, tx)) != set(said):
            raise TransientError(f"another document of study {study} came in between")
        if job.subject in said:  # our own reports are not
            outcome, detail = _store_statements(job.subject, said, tx)
            tx.audit(AuditEvent("label", outcome, job.subject, detail))
        tx.jobs.finish(job)


def _find_label_documents(study_instance_uid: str, tx: Transaction) -> dict[str, StoredInstance]:
    found = (i for i in tx.studies.instances(study_instance_uid) if rules.may_hold_labels(i.header))
    return {i.header.sop_instance_uid: i for i in found if tx.reports.find(i.header.sop_instance_uid) is None}


def _read_other_document(instance: StoredInstance, images: ImageStore, documents: DocumentReader) -> Document:
    """Read one of the study's other documents; a file that is lost is the trouble of its own job."""
    try:
        return documents.read(images.read(instance.file))
    except PermanentError as error:
        return Document(reason=str(error))


def _store_statements(uid: str, said: Mapping[str, Document], tx: Transaction) -> tuple[str, str]:
    """Append what this document says and revoke what the documents said that it replaces; return the outcome in words."""
    document = said[uid]
    if document.reason:
        return "refused", document.reason
    later = next((other for other, its in said.items() if not its.reason and uid in its.replaces and other != uid), None)
    if later is not None:
        return "refused", f"document {later} is a later version of it"
    now = tx.now()
    places = tx.studies.accession_numbers({reading.study_instance_uid for reading in document.readings})
    if not places:
        return "refused", "speaks of no study in the catalog"
    before = tx.labels.of_studies(places)
    replaced = [label for label in labels_in_force(before) if label.document in document.replaces and label.document != uid]
    since = max((label.stated_at for label in replaced), default=None)
    readings = [_date_reading(replace(reading, document=uid), since, now) for reading in document.readings]
    readings = _add_reasons(readings, now, tx)
    known = _StatementIndex(before)
    fresh = [label for reading in readings if reading.study_instance_uid in places for label in known.new_labels(reading, now)]
    tx.labels.append(fresh)
    tx.labels.append([_make_withdrawal(label, readings[0].reader, readings[0].source, now, document=uid) for label in replaced])
    return "done", f"{len(fresh)} statements added, {len(replaced)} of earlier versions revoked"


def _date_reading(reading: ReaderStatement, since: datetime | None, now: datetime) -> ReaderStatement:
    """A later version is said later, and a clock that runs ahead must not have the last word for years."""
    stated_at = reading.stated_at or now
    if stated_at > now + CLOCK_TOLERANCE:
        stated_at = now
    return replace(reading, stated_at=max(stated_at, since) if since else stated_at)


def _add_reasons(readings: Sequence[ReaderStatement], now: datetime, tx: Transaction) -> list[ReaderStatement]:
    """Give each reading that names no reason the one for which the worklist asked for its study, where it was said after that."""
    asked = tx.requests.of_studies({reading.study_instance_uid for reading in readings})

    def reasoned(reading: ReaderStatement) -> ReaderStatement:
        request = asked.get(reading.study_instance_uid)
        if request is None or reading.selection_reason or (reading.stated_at or now) < request.asked_at - CLOCK_TOLERANCE:
            return reading
        return replace(reading, selection_reason=request.selection_reason, selection_probability=request.selection_probability)

    return [reasoned(reading) for reading in readings]


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
    """What the catalog, and the readings before the one in hand, say already."""

    def __init__(self, labels: Sequence[Label]) -> None:
        said = [label for label in labels if label.state is not None]
        self._said = {(*_get_vote_key(label), label.state, label.stated_at) for label in said}
        self._documents = {(*_get_vote_key(label), label.document) for label in said if label.document}
        self._standing = {_get_vote_key(label): label.state for label in labels_in_force(labels)}

    def new_labels(self, reading: ReaderStatement, now: datetime) -> Iterator[Label]:
        """Yield what this reading adds. One without a time adds nothing where the same reader's word stands already."""
        stated_at = rules.truncate_to_milliseconds(reading.stated_at or now)
        for finding, state in reading.findings.items():
            who = (reading.study_instance_uid, finding, reading.reader)
            if reading.document and (*who, reading.document) in self._documents:
                continue
            if (*who, state, stated_at) in self._said or (reading.stated_at is None and self._standing.get(who) is state):
                continue
            self._said.add((*who, state, stated_at))
            self._standing[who] = state
            yield _make_label(reading, finding, state, stated_at)


def _get_vote_key(label: Label) -> tuple[str, str, str]:
    return label.study_instance_uid, label.finding, label.reader


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
    )


def _identify_studies(readings: Sequence[ReaderStatement], tx: Transaction) -> tuple[list[ReaderStatement], list[LabelFault]]:
    """Give each reading the UID of its study; a fault for each that names none, or more than one."""
    by_uid = tx.studies.accession_numbers({r.study_instance_uid for r in readings if r.study_instance_uid})
    by_number = tx.studies.uids_by_accession_number({r.accession_number for r in readings if r.accession_number})
    named, faults = [], []
    for reading in readings:
        uid, number = reading.study_instance_uid, reading.accession_number
        found = by_number.get(number, [])
        if not uid and len(found) == 1:
            named.append(replace(reading, study_instance_uid=found[0]))
        elif uid in by_uid and (not number or by_uid[uid] in (number, "")):
            named.append(reading)
        else:
            faults.append(_explain_unknown_study(reading, by_uid, found))
    return named, faults


def _explain_unknown_study(reading: ReaderStatement, by_uid: Mapping[str, str], found: Sequence[str]) -> LabelFault:
    uid, number, row = reading.study_instance_uid, reading.accession_number, reading.row
    if uid in by_uid:
        return LabelFault(
            row, "accession_number", number, "this is not the accession number of the row's study: correct one of the two"
        )
    if uid:
        return LabelFault(row, "study_instance_uid", uid, "no such study in the catalog: send it to radclipd first")
    if not number:
        return LabelFault(row, "study_instance_uid", "", "name the study by study_instance_uid or accession_number")
    if not found:
        return LabelFault(row, "accession_number", number, "no such study in the catalog: send it to radclipd first")
    return LabelFault(row, "accession_number", number, f"{len(found)} studies have it: name the study by study_instance_uid")


def _check_reading(reading: ReaderStatement, now: datetime) -> Iterator[LabelFault]:
    """Yield what no reading may be, whoever gives it."""
    row, probability = reading.row, reading.selection_probability
    if not reading.reader.strip():
        yield LabelFault(row, "reader", reading.reader, "say who read it: a reader column, or --reader NAME")
    for column in ("reader", "source", "selection_reason", "document"):
        word = getattr(reading, column)
        if len(word) > MAX_TEXT_LENGTH or not (word.isprintable() or not word):
            yield LabelFault(row, column, word, f"at most {MAX_TEXT_LENGTH} printable characters")
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
    """Yield where one reader says two things of one finding at one time: a table has no order in which one could be the later."""
    said: dict[tuple[str, str, datetime | None, str], tuple[LabelState, int]] = {}
    for reading in readings:
        for finding, state in reading.findings.items():
            key = (reading.study_instance_uid, reading.reader, reading.stated_at, finding)
            before, row = said.setdefault(key, (state, reading.row))
            if before is not state:
                remedy = f"row {row} says {before.value} of the same study by the same reader: keep one, or give stated_at"
                yield LabelFault(reading.row, finding, state.value, remedy)


def _make_invalid_labels(faults: Sequence[LabelFault]) -> InvalidLabels:
    rows = len({fault.row for fault in faults})
    return InvalidLabels(
        f"{rows} {'row' if rows == 1 else 'rows'} cannot be taken; nothing was", sorted(faults, key=lambda f: f.row)
    )


def _join_sources(readings: Iterable[ReaderStatement]) -> str:
    return ", ".join(sorted({reading.source for reading in readings}))
