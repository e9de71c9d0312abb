"""labelling: a reader's keys at the desk -> draft -> labels, all of a film or nothing; then the model's result is revealed.

The reader speaks before the result is shown. A statement after that is a second one, with the exposure SEEN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline import reader_documents, rules
from pipeline.consensus import labels_in_force
from pipeline.domain import (
    FINDINGS,
    AuditEvent,
    DeskReading,
    Draft,
    Header,
    LabelExposure,
    LabelState,
    ReaderStatement,
    Request,
    StoredInstance,
)
from pipeline.errors import PermanentError
from pipeline.labels import add_labels
from pipeline.ports.desk import DeskCatalog, DeskTransaction, Repetition
from pipeline.report import ReportPolicy, tell_newest
from pipeline.statements import StudyStatement

DEFAULT_REPORT = ReportPolicy()
DESK_SOURCE = "desk"
"""Source of the labels that are given at the desk."""
SKIP_REASONS = ("poor quality", "not a chest", "cannot tell")
RESERVED_SECONDS = 1800.0
"""A film that a reader has begun is not offered to others for this long."""
MAX_COMMENT_LENGTH = 2000
MAX_KEY_LENGTH = 64
MAX_PRIORS = 3
"""Earlier studies of the patient that are offered beside a film."""
VERDICT = "verdict"
"""Selection reason of a label given beside other readers' labels: it is no independent reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPolicy:
    """`[web]` of the configuration: which studies are read more than once, and whether readings leave as documents."""

    second_reading: float = 0.0  # share (0..1) of the studies of other readers that a reader reads too
    repeated_reading: float = 0.0  # share (0..1) of the studies that come to their reader a second time
    repeat_days: float = 7.0  # from the reader's statement to its repeat
    documents: bool = False  # a reading leaves as an SR of a person
    uid_root: str = ""  # of the documents' UIDs; "": 2.25


NO_SECOND_READINGS = ReadingPolicy()


@dataclass(frozen=True, slots=True)
class DeskFilm:
    """One film of a study, as the desk offers it."""

    instance: StoredInstance
    study_date: str  # DA as received
    is_prior: bool = False


@dataclass(frozen=True, slots=True)
class LabellingTask:
    """A study to label, without the model's result and without the reason of the request."""

    study_instance_uid: str
    films: Sequence[DeskFilm]  # the frontal images first, then other views, then priors
    draft: Draft
    is_stated: bool  # the reader has spoken on it before: the result may be shown


@dataclass(frozen=True, slots=True)
class Reveal:
    """The model's result on a study, after the reader has spoken."""

    study_instance_uid: str
    states: Mapping[str, LabelState]  # of the reader's last statement
    statement: StudyStatement | None  # what is told of the study; None: no version has scored it
    request: Request | None  # why the study was asked for; None: it was not
    new_labels: int  # stored by this statement
    is_withheld: bool = False  # the result is kept back, for the film comes to this reader once more


def list_tasks(
    *, reader: str, limit: int, catalog: DeskCatalog, chest: rules.ChestPolicy, policy: ReadingPolicy = NO_SECOND_READINGS
) -> list[LabellingTask]:
    """Return the next studies of the reader: those to read again, then those that nobody has read, in the order of the worklist.

    Read again are studies of other readers, and some of the reader's own. The reader is not told which they are.
    """
    with catalog.read() as tx:
        readings = tx.readings
        studies = readings.due_repeats(reader, share=policy.repeated_reading, days=policy.repeat_days, limit=limit)
        studies += readings.second_readings(reader, share=policy.second_reading, limit=limit - len(studies))
        studies += readings.open_requests(reader, limit=limit - len(studies), reserved_seconds=RESERVED_SECONDS)
        return [_load_task(study, reader, tx, chest, policy) for study in studies]


def find_task(
    study_instance_uid: str,
    *,
    reader: str,
    catalog: DeskCatalog,
    chest: rules.ChestPolicy,
    policy: ReadingPolicy = NO_SECOND_READINGS,
) -> LabellingTask:
    """Return one study for labelling. PermanentError where the catalog does not know it."""
    with catalog.read() as tx:
        _require_study(study_instance_uid, tx)
        return _load_task(study_instance_uid, reader, tx, chest, policy)


def save_draft(draft: Draft, *, catalog: DeskCatalog) -> None:
    """Store what the reader has said so far. PermanentError where it is no statement on a known study."""
    _check_draft(draft)
    with catalog.begin() as tx:
        _require_study(draft.study_instance_uid, tx)
        tx.readings.put_draft(draft)


def state_reading(
    draft: Draft,
    *,
    idempotency_key: str,
    rest_absent: bool,
    catalog: DeskCatalog,
    report: ReportPolicy = DEFAULT_REPORT,
    policy: ReadingPolicy = NO_SECOND_READINGS,
) -> Reveal:
    """Store the labels of a film and reveal the model's result, in one transaction. Idempotent by the key.

    `rest_absent`: the reader has said that every finding not stated is absent; else those findings get no label. The states of a
    film's second time are no labels; after its first time the result is kept back.
    """
    _check_draft(draft)
    _check_key(idempotency_key)
    study, reader = draft.study_instance_uid, draft.reader
    with catalog.begin() as tx:
        _require_study(study, tx)
        if tx.readings.find(reader, idempotency_key) is not None:
            return _build_reveal(study, reader, 0, tx, report, policy)
        states = {**(dict.fromkeys(FINDINGS, LabelState.ABSENT) if rest_absent else {}), **draft.states}
        repetition = _find_repetition(study, reader, tx, policy)
        reading = DeskReading(
            study_instance_uid=study,
            reader=reader,
            idempotency_key=idempotency_key,
            states=states,
            points={finding: point for finding, point in draft.points.items() if states.get(finding) is LabelState.PRESENT},
            comment=draft.comment,
            exposure=_find_exposure(study, reader, tx),
            is_repeat=repetition is Repetition.DUE,
        )
        new = _store_reading(reading, tx, policy)
        if repetition is not Repetition.AHEAD:
            tx.readings.mark_revealed(study, reader)
        return _build_reveal(study, reader, new, tx, report, policy)


def _store_reading(reading: DeskReading, tx: DeskTransaction, policy: ReadingPolicy) -> int:
    """Insert the reading with its audit event and, unless it is a repeat, its labels; return their number."""
    study, new = reading.study_instance_uid, 0
    if not reading.is_repeat:
        changed = _select_changed(reading.states, reading, tx)
        statement = ReaderStatement(
            findings=changed if reading.exposure is LabelExposure.SEEN else reading.states,
            reader=reading.reader,
            source=DESK_SOURCE,
            study_instance_uid=study,
            exposure=reading.exposure,
        )
        new = len(add_labels(statement, tx))
    tx.readings.add(reading)
    if policy.documents and not reading.is_repeat:
        reader_documents.enqueue(reading, tx, uid_root=policy.uid_root)
    tx.readings.drop_draft(study, reading.reader)
    words = f"{describe_states(reading.states)}; exposure {reading.exposure.value}{', a second time' if reading.is_repeat else ''}"
    tx.audit(AuditEvent("label", "done", study, words, reading.reader))
    return new


def state_finding(study_instance_uid: str, finding: str, state: LabelState, *, reader: str, catalog: DeskCatalog) -> int:
    """Store one reader's statement on one finding, as an adjudication does; return the number of new labels."""
    if finding not in FINDINGS:
        raise PermanentError(f"{finding!r} is no finding", hint=f"one of {', '.join(FINDINGS)}")
    with catalog.begin() as tx:
        _require_study(study_instance_uid, tx)
        statement = ReaderStatement(
            findings={finding: state},
            reader=reader,
            source=DESK_SOURCE,
            study_instance_uid=study_instance_uid,
            selection_reason=VERDICT,
            exposure=_find_exposure(study_instance_uid, reader, tx),
        )
        new = add_labels(statement, tx)
        tx.audit(AuditEvent("label", "done", study_instance_uid, f"{finding} {state.value}, beside other readers' labels", reader))
    return len(new)


def skip_study(
    study_instance_uid: str,
    *,
    reader: str,
    reason: str,
    idempotency_key: str,
    catalog: DeskCatalog,
    policy: ReadingPolicy = NO_SECOND_READINGS,
) -> None:
    """Record that the reader skips the study, with one of SKIP_REASONS. Idempotent by the key."""
    if reason not in SKIP_REASONS:
        raise PermanentError(f"a skipped study has one of the reasons {', '.join(SKIP_REASONS)}")
    _check_key(idempotency_key)
    with catalog.begin() as tx:
        _require_study(study_instance_uid, tx)
        if tx.readings.find(reader, idempotency_key) is not None:
            return
        tx.readings.add(
            DeskReading(
                study_instance_uid=study_instance_uid,
                reader=reader,
                idempotency_key=idempotency_key,
                skip_reason=reason,
                exposure=_find_exposure(study_instance_uid, reader, tx),
                is_repeat=_find_repetition(study_instance_uid, reader, tx, policy) is Repetition.DUE,
            )
        )
        tx.readings.drop_draft(study_instance_uid, reader)
        tx.audit(AuditEvent("skip", "done", study_instance_uid, reason, reader))


def describe_states(states: Mapping[str, LabelState]) -> str:
    """Return the statement in words: "11 absent, 2 present, 1 uncertain"."""
    counts = Counter(states.values())
    stated = [f"{counts[state]} {state.value}" for state in (LabelState.ABSENT, LabelState.PRESENT, LabelState.UNCERTAIN)]
    missing = len(FINDINGS) - len(states)
    return ", ".join([text for text in stated if not text.startswith("0 ")] + ([f"{missing} not stated"] if missing else []))


def _find_exposure(study_instance_uid: str, reader: str, tx: DeskTransaction) -> LabelExposure:
    if tx.readings.is_revealed(study_instance_uid, reader):
        return LabelExposure.SEEN
    return LabelExposure.POSSIBLE if tx.reports.first_sent([study_instance_uid]) else LabelExposure.NONE


def _find_repetition(study_instance_uid: str, reader: str, tx: DeskTransaction, policy: ReadingPolicy) -> Repetition:
    return tx.readings.find_repetition(study_instance_uid, reader, share=policy.repeated_reading, days=policy.repeat_days)


def _select_changed(states: Mapping[str, LabelState], reading: DeskReading, tx: DeskTransaction) -> dict[str, LabelState]:
    """Return the states that differ from the reader's labels in force: a second statement does not repeat the first."""
    known = _list_own_states(reading.study_instance_uid, reading.reader, tx)
    return {finding: state for finding, state in states.items() if known.get(finding) is not state}


def _list_own_states(study_instance_uid: str, reader: str, tx: DeskTransaction) -> dict[str, LabelState]:
    in_force = labels_in_force(tx.labels.of_studies([study_instance_uid]))
    return {label.finding: label.state for label in in_force if label.reader == reader and label.state is not None}


def _build_reveal(
    study_instance_uid: str, reader: str, new_labels: int, tx: DeskTransaction, report: ReportPolicy, policy: ReadingPolicy
) -> Reveal:
    last = tx.readings.find_last(study_instance_uid, reader)
    states = last.states if last is not None else {}
    if _find_repetition(study_instance_uid, reader, tx, policy) is not Repetition.NONE:
        return Reveal(study_instance_uid, states, None, None, new_labels, is_withheld=True)
    request = tx.requests.of_studies([study_instance_uid]).get(study_instance_uid)
    return Reveal(study_instance_uid, states, tell_newest(tx, study_instance_uid, report), request, new_labels)


def reveal_result(
    study_instance_uid: str,
    *,
    reader: str,
    catalog: DeskCatalog,
    report: ReportPolicy = DEFAULT_REPORT,
    policy: ReadingPolicy = NO_SECOND_READINGS,
) -> Reveal:
    """Return the model's result on a study that the reader has labelled. PermanentError where the reader has not."""
    with catalog.begin() as tx:
        _require_study(study_instance_uid, tx)
        if tx.readings.find_last(study_instance_uid, reader) is None:
            raise PermanentError("the model's result is shown after the reader has labelled the study")
        return _build_reveal(study_instance_uid, reader, 0, tx, report, policy)


def _load_task(
    study_instance_uid: str, reader: str, tx: DeskTransaction, chest: rules.ChestPolicy, policy: ReadingPolicy
) -> LabellingTask:
    """Return the task with the reader's draft or last statement; blank for a film's second time."""
    draft = tx.readings.find_draft(study_instance_uid, reader)
    last = tx.readings.find_last(study_instance_uid, reader)
    if last is not None and _find_repetition(study_instance_uid, reader, tx, policy) is Repetition.DUE:
        last = None
    if draft is None:
        draft = Draft(study_instance_uid=study_instance_uid, reader=reader)
        if last is not None:
            draft = replace(draft, states=last.states, points=last.points, comment=last.comment)
    return LabellingTask(study_instance_uid, list_films(study_instance_uid, tx, chest), draft, is_stated=last is not None)


def list_films(study_instance_uid: str, tx: DeskTransaction, chest: rules.ChestPolicy) -> list[DeskFilm]:
    """Return the films of a study, frontal images first, then other radiographs, then those of the patient's last studies."""
    study = tx.studies.find(study_instance_uid)
    if study is None:
        return []
    films = _list_radiographs(study_instance_uid, study.study_date, tx, chest, is_prior=False)
    for uid, date in tx.studies.earlier_studies(study_instance_uid, limit=MAX_PRIORS):
        films += _list_radiographs(uid, date, tx, chest, is_prior=True)
    return films


def _list_radiographs(
    study_instance_uid: str, study_date: str, tx: DeskTransaction, chest: rules.ChestPolicy, *, is_prior: bool
) -> list[DeskFilm]:
    instances = tx.studies.instances(study_instance_uid)
    frontal = rules.choose_images(instances, chest).images
    others = [each for each in instances if each not in frontal and _is_radiograph(each.header)]
    return [DeskFilm(each, study_date, is_prior) for each in (*frontal, *([] if is_prior else others))]


def _is_radiograph(header: Header) -> bool:
    return rules.object_kind(header) is rules.ObjectKind.RADIOGRAPH and header.has_pixels


def _require_study(study_instance_uid: str, tx: DeskTransaction) -> None:
    if tx.studies.find(study_instance_uid) is None:
        raise PermanentError("there is no such study in the catalog", hint="radclipd studies")


def _check_draft(draft: Draft) -> None:
    unknown = sorted({*draft.states, *draft.points} - set(FINDINGS))
    if unknown:
        raise PermanentError(f"{unknown[0]!r} is no finding", hint=f"one of {', '.join(FINDINGS)}")
    if len(draft.comment) > MAX_COMMENT_LENGTH:
        raise PermanentError(f"a comment has at most {MAX_COMMENT_LENGTH} characters")


def _check_key(idempotency_key: str) -> None:
    if not 8 <= len(idempotency_key) <= MAX_KEY_LENGTH or not idempotency_key.isascii() or not idempotency_key.isprintable():
        raise PermanentError(f"an idempotency key has 8 to {MAX_KEY_LENGTH} printable characters")
