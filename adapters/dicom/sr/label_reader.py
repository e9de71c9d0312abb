"""SR and Key Object Selection documents of any vendor -> labels. The reader never raises; an ambiguous statement is no label.

A negation never becomes a label: `finding_statements` says how. Time and memory are bounded for documents of any shape.

It reads Enhanced, Comprehensive, Comprehensive 3D and Extensible SR of any template (TID 1500 above all), and Key Object Selection
by a table of the site's own. It refuses radclipd's own reports: a model must not learn from itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
)

from adapters.dicom.image.image_file import MAX_INFLATED_DOCUMENT_BYTES, inflate_file
from adapters.dicom.sr.content_tree import (
    MAX_DEPTH,
    MAX_SECONDS,
    ContentItem,
    TreeTooLarge,
    hierarchical_references,
    parse_datetime,
    printable_text,
    read_tree,
    walk_tree,
)
from adapters.dicom.sr.finding_statements import Observer, Statement, observer_of, statements_of
from adapters.dicom.sr.label_codes import ALGORITHM_NAME, DEVICE_OBSERVER
from pipeline.domain import NO_FINDING, Document, LabelState, ReaderStatement
from pipeline.errors import DataSetUnreadable
from pipeline.finding_names import all_absent
from pipeline.rules import KEY_OBJECT_SELECTION, OWN_MODEL_NAME

REPORT_CLASSES = {
    EnhancedSRStorage: "Enhanced SR",
    ComprehensiveSRStorage: "Comprehensive SR",
    Comprehensive3DSRStorage: "Comprehensive 3D SR",
    ExtensibleSRStorage: "Extensible SR",
}
EVIDENCE_SEQUENCES = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")  # PS3.3 C.17.2
MAX_KNOWN_DOCUMENTS = 512
"""Documents whose results are kept: more than a study has."""
UNNAMED_READER = "unnamed"
"""The reader of a document without an observer's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSettings:
    """`[labels]` of the configuration. `key_object_titles` maps "value,scheme" of a document title -> finding -> state."""

    accept_sr: Literal["person-or-verified", "verified", "none"] = "person-or-verified"
    key_object_titles: Mapping[str, Mapping[str, LabelState]] = field(default_factory=dict)


class _NoLabel(Exception):
    """The reason, as text, why a document gives no label."""


class DicomDocumentReader:
    """`ports.services.DocumentReader`."""

    def __init__(self, settings: DocumentSettings, *, max_seconds: float = MAX_SECONDS) -> None:
        self._settings, self._max_seconds = settings, max_seconds
        self._known: dict[bytes, Document] = {}

    def read(self, content: bytes) -> Document:
        """Read a document. Each document of a study is read again with each other one, so recent results are kept."""
        digest = sha256(content).digest()
        if digest not in self._known:
            if len(self._known) >= MAX_KNOWN_DOCUMENTS:
                self._known.pop(next(iter(self._known)))
            self._known[digest] = self._read_content(content)
        return self._known[digest]

    def _read_content(self, content: bytes) -> Document:
        try:
            inflated = _inflate_document(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's warnings quote the value
                return self._read_document(dcmread(BytesIO(inflated), force=True))
        except (_NoLabel, TreeTooLarge) as reason:
            return Document(reason=str(reason))
        except RecursionError:  # sequences of undefined length are parsed one within the other
            return Document(reason=f"is nested more than {MAX_DEPTH} levels deep")
        except Exception as error:  # pydicom raises exceptions of any type, with text that may quote the bytes
            return Document(reason=f"cannot be read ({type(error).__name__})")

    def _read_document(self, dataset: Dataset) -> Document:
        uid = str(dataset.get("SOPClassUID") or "")
        tree = read_tree(dataset, max_seconds=self._max_seconds)
        if _is_own(dataset, tree):
            raise _NoLabel("is a report of radclipd, or a copy of one")
        if uid == KEY_OBJECT_SELECTION:
            readings, unclear = self._read_key_objects(dataset, tree), 0
        elif uid in REPORT_CLASSES:
            readings, unclear = self._read_report(dataset, tree)
        else:
            raise _NoLabel(f"is none of {', '.join(REPORT_CLASSES.values())}, Key Object Selection")
        replaces = {replaced for _, replaced in hierarchical_references(dataset, "PredecessorDocumentsSequence")}
        return Document(readings=tuple(readings), replaces=tuple(sorted(replaces)), unclear=unclear)

    def _read_report(self, dataset: Dataset, tree: ContentItem) -> tuple[list[ReaderStatement], int]:
        """Return the readings, and the number of findings that are mentioned and not stated clearly."""
        if self._settings.accept_sr == "none":
            raise _NoLabel('structured reports are not read: accept_sr = "none" in [labels]')
        if dataset.get("CompletionFlag") == "PARTIAL":
            raise _NoLabel("is not complete")
        stated, denied = statements_of(tree, _find_author(dataset), study=_get_study_uid(dataset), images=_map_evidence(dataset))
        if not stated:
            raise _NoLabel("codes none of the 14 findings as present, absent or undetermined")
        if dataset.get("VerificationFlag") == "VERIFIED":
            verifier, verified_at = _find_verifier(dataset)
            stated = [replace(statement, observer=Observer("person", verifier)) for statement in stated]
            return _merge_readings(stated, "sr", verified_at or _get_content_time(dataset), denied)
        if self._settings.accept_sr == "verified":
            raise _NoLabel('is not verified: accept_sr = "verified" in [labels]')
        by_persons = [statement for statement in stated if statement.observer.kind == "person"]
        if not by_persons:
            device = any(statement.observer.kind == "device" for statement in stated)
            raise _NoLabel(f"is not verified, and its observer is {'a device' if device else 'not named as a person'}")
        return _merge_readings(by_persons, "sr", _get_content_time(dataset), denied)

    def _read_key_objects(self, dataset: Dataset, tree: ContentItem) -> list[ReaderStatement]:
        title = tree.name
        findings = self._settings.key_object_titles.get(f"{title.value},{title.scheme}") if title else None
        if findings is None:
            raise _NoLabel("has a title that key_object_titles in [labels] does not name")
        observer = observer_of(tree.children, _find_author(dataset))
        if observer.kind == "device":
            raise _NoLabel("its observer is a device")
        studies = sorted(set(_map_evidence(dataset).values())) or [_get_study_uid(dataset)]
        stated = [Statement(study, finding, state, observer) for study in studies for finding, state in findings.items()]
        readings, _ = _merge_readings(stated, "kos", _get_content_time(dataset))
        return readings


def _merge_readings(
    stated: Iterable[Statement], source: str, stated_at: datetime | None, denied: Collection[str] = ()
) -> tuple[list[ReaderStatement], int]:
    """Merge the statements of each observer on each study into one ReaderStatement; count the findings left unclear."""
    merged: dict[tuple[str, str], dict[str, list[Statement]]] = {}
    for statement in stated:
        findings = merged.setdefault((statement.study_instance_uid, statement.observer.name or UNNAMED_READER), {})
        findings.setdefault(statement.finding, []).append(statement)
    states = {
        key: {finding: _resolve_statements(statements, denied) for finding, statements in findings.items()}
        for key, findings in merged.items()
    }
    unclear = sum(state is None for findings in states.values() for state in findings.values())
    readings = [
        ReaderStatement(study_instance_uid=study, reader=reader, findings=clear, source=source, stated_at=stated_at)
        for (study, reader), findings in states.items()
        if (clear := _select_clear_states(findings))
    ]
    if not readings:
        raise _NoLabel(
            f"states nothing clearly: {unclear} of the 14 findings are mentioned, none as present or absent beyond doubt"
        )
    return readings, unclear


def _resolve_statements(statements: Sequence[Statement], denied: Collection[str]) -> LabelState | None:
    """Return the state of the study: present on the left is present, regardless of the right.

    A mention without a presence value is present only where no other statement and no text disagrees.
    """
    explicit = {statement.state for statement in statements if not statement.implied}
    if LabelState.PRESENT in explicit:
        return LabelState.PRESENT
    if any(statement.implied for statement in statements):
        return None if explicit or statements[0].finding in denied else LabelState.PRESENT
    if None in explicit:
        return None
    return LabelState.UNCERTAIN if LabelState.UNCERTAIN in explicit else LabelState.ABSENT


def _select_clear_states(stated: Mapping[str, LabelState | None]) -> dict[str, LabelState]:
    """Return the known states; "no abnormality" states all 14 findings absent where no other statement contradicts it."""
    named = {finding: state for finding, state in stated.items() if finding != NO_FINDING}
    clear = {finding: state for finding, state in named.items() if state is not None}
    if NO_FINDING in stated and all(state is LabelState.ABSENT for state in named.values()):
        return all_absent()
    return clear


def _inflate_document(content: bytes) -> bytes:
    """Return the file, inflated. _NoLabel for a document too large to be a report, also one that is only large once inflated."""
    if len(content) > MAX_INFLATED_DOCUMENT_BYTES:
        raise _NoLabel(f"is larger than {MAX_INFLATED_DOCUMENT_BYTES >> 20} MiB")
    try:
        return inflate_file(content, max_bytes=MAX_INFLATED_DOCUMENT_BYTES)
    except DataSetUnreadable as error:
        raise _NoLabel(f"cannot be read: {error}") from error


def _is_own(dataset: Dataset, tree: ContentItem) -> bool:
    """Tell by equipment, observer and algorithm: an archive may rewrite the header, a person may verify the report."""
    names = (item.dataset for item in walk_tree(tree) if item.is_named((ALGORITHM_NAME, *DEVICE_OBSERVER)))
    in_tree = any(printable_text(item, "TextValue") == OWN_MODEL_NAME for item in names)
    return in_tree or printable_text(dataset, "ManufacturerModelName") == OWN_MODEL_NAME


def _get_study_uid(dataset: Dataset) -> str:
    return str(dataset.get("StudyInstanceUID") or "")


def _map_evidence(dataset: Dataset) -> dict[str, str]:
    return {image: study for keyword in EVIDENCE_SEQUENCES for study, image in hierarchical_references(dataset, keyword)}


def _find_author(dataset: Dataset) -> Observer:
    """Return the observer in the header of the document (PS3.3 C.17.2.4): valid where the tree names none."""
    for author in dataset.get("AuthorObserverSequence") or ():
        if author.get("ObserverType") == "PSN":
            return Observer("person", printable_text(author, "PersonName"))
        if author.get("ObserverType") == "DEV":
            return Observer("device")
    return Observer("")


def _find_verifier(dataset: Dataset) -> tuple[str, datetime | None]:
    """Return name and time of the last verification."""
    observers = list(dataset.get("VerifyingObserverSequence") or ())
    if not observers:
        return "", None
    last = max(observers, key=lambda observer: str(observer.get("VerificationDateTime") or ""))
    return printable_text(last, "VerifyingObserverName"), parse_datetime(
        str(last.get("VerificationDateTime") or ""), _get_utc_offset(dataset)
    )


def _get_content_time(dataset: Dataset) -> datetime | None:
    date = str(dataset.get("ContentDate") or "").replace(".", "")  # 2025.05.01 in objects from before 1993
    return parse_datetime(f"{date}{dataset.get('ContentTime') or ''}", _get_utc_offset(dataset)) if date else None


def _get_utc_offset(dataset: Dataset) -> str:
    return str(dataset.get("TimezoneOffsetFromUTC") or "")
