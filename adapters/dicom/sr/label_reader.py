"""SR and KOS of the archive -> labels. A reader of whatever vendors send: it never raises, and what is not clear is no label.

Read are Enhanced, Comprehensive, Comprehensive 3D and Extensible SR, whatever their template (TID 1500 above all), and Key Object
Selection by a table of the site's own. Never our own reports: a model must not learn from itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.sr.content_tree import (
    children,
    code_in,
    descendants,
    has_concept_name,
    hierarchical_references,
    parse_datetime,
    printable_text,
)
from adapters.dicom.sr.finding_statements import Observer, Statement, observer_of, prevailing_state, statements_below
from adapters.dicom.sr.label_codes import ALGORITHM_NAME, DEVICE_OBSERVER
from pipeline.domain import NO_FINDING, Document, LabelState, ReaderStatement
from pipeline.finding_names import all_absent
from pipeline.rules import KEY_OBJECT_SELECTION, OWN_MODEL_NAME

REPORT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR",
    "1.2.840.10008.5.1.4.1.1.88.35": "Extensible SR",
}
EVIDENCE_SEQUENCES = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")  # PS3.3 C.17.2
UNNAMED_READER = "unnamed"
"""The reader of a document that names nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSettings:
    """`[labels]` of the configuration. `key_object_titles` maps "value,scheme" of a document title -> finding -> state."""

    accept_sr: Literal["person-or-verified", "verified", "none"] = "person-or-verified"
    key_object_titles: Mapping[str, Mapping[str, LabelState]] = field(default_factory=dict)


class _NoLabel(Exception):
    """Why a document gives none, in words."""


class DicomDocumentReader:
    """ports.DocumentReader."""

    def __init__(self, settings: DocumentSettings) -> None:
        self._settings = settings

    def read(self, content: bytes) -> Document:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a library's doubts about a value quote the value
                return self._read_document(dcmread(BytesIO(content), force=True))
        except _NoLabel as reason:
            return Document(reason=str(reason))
        except Exception as error:  # pydicom raises whatever the bytes make it stumble over, and may quote them
            return Document(reason=f"cannot be read ({type(error).__name__})")

    def _read_document(self, dataset: Dataset) -> Document:
        uid = str(dataset.get("SOPClassUID") or "")
        if _is_own(dataset):
            raise _NoLabel("says what radclipd itself has said")
        if uid == KEY_OBJECT_SELECTION:
            readings = self._read_key_objects(dataset)
        elif uid in REPORT_CLASSES:
            readings = self._read_report(dataset)
        else:
            raise _NoLabel(f"is none of {', '.join(REPORT_CLASSES.values())}, Key Object Selection")
        replaces = {replaced for _, replaced in hierarchical_references(dataset, "PredecessorDocumentsSequence")}
        return Document(readings=tuple(readings), replaces=tuple(sorted(replaces)))

    def _read_report(self, dataset: Dataset) -> list[ReaderStatement]:
        if self._settings.accept_sr == "none":
            raise _NoLabel('structured reports are not read: accept_sr = "none" in [labels]')
        if dataset.get("CompletionFlag") == "PARTIAL":
            raise _NoLabel("is not complete")
        stated = list(
            statements_below(dataset, _find_author(dataset), study=_get_study_uid(dataset), evidence=_map_evidence(dataset))
        )
        if not any(statement.state for statement in stated):
            raise _NoLabel("codes none of the 14 findings as present, absent or undetermined")
        if dataset.get("VerificationFlag") == "VERIFIED":
            verifier, verified_at = _find_verifier(dataset)
            stated = [replace(statement, observer=Observer("person", verifier)) for statement in stated]
            return _merge_readings(stated, "sr", verified_at or _get_content_time(dataset))
        if self._settings.accept_sr == "verified":
            raise _NoLabel('is not verified: accept_sr = "verified" in [labels]')
        by_persons = [statement for statement in stated if statement.observer.kind == "person"]
        if not by_persons:
            device = any(statement.observer.kind == "device" for statement in stated)
            raise _NoLabel(f"is not verified, and its observer is {'a device' if device else 'not named as a person'}")
        return _merge_readings(by_persons, "sr", _get_content_time(dataset))

    def _read_key_objects(self, dataset: Dataset) -> list[ReaderStatement]:
        title = code_in(dataset, "ConceptNameCodeSequence")
        findings = self._settings.key_object_titles.get(f"{title.value},{title.scheme}") if title else None
        if findings is None:
            raise _NoLabel("has a title that key_object_titles in [labels] does not name")
        observer = observer_of(children(dataset), _find_author(dataset))
        if observer.kind == "device":
            raise _NoLabel("its observer is a device")
        studies = sorted(set(_map_evidence(dataset).values())) or [_get_study_uid(dataset)]
        stated = [Statement(study, finding, state, observer) for study in studies for finding, state in findings.items()]
        return _merge_readings(stated, "kos", _get_content_time(dataset))


def _merge_readings(stated: Iterable[Statement], source: str, stated_at: datetime | None) -> list[ReaderStatement]:
    """Make one reading of what each person states of each study."""
    merged: dict[tuple[str, str], dict[str, LabelState | None]] = {}
    for one in stated:
        of_study = merged.setdefault((one.study_instance_uid, one.observer.name or UNNAMED_READER), {})
        of_study[one.finding] = prevailing_state(one.state, of_study.get(one.finding, one.state))
    readings = [
        ReaderStatement(study_instance_uid=study, reader=reader, findings=clear, source=source, stated_at=stated_at)
        for (study, reader), of_study in merged.items()
        if (clear := _select_clear_states(of_study))
    ]
    if not readings:
        raise _NoLabel("states nothing clearly")
    return readings


def _select_clear_states(stated: Mapping[str, LabelState | None]) -> dict[str, LabelState]:
    """Leave out what was not understood; let "no abnormality" speak for all 14 where nothing beside it says otherwise."""
    named = {finding: state for finding, state in stated.items() if finding != NO_FINDING}
    clear = {finding: state for finding, state in named.items() if state is not None}
    if NO_FINDING in stated and all(state is LabelState.ABSENT for state in named.values()):
        return all_absent()
    return clear


def _is_own(dataset: Dataset) -> bool:
    """Tell by the equipment, the observer and the algorithm: an archive may rewrite a header, a person may verify our words."""
    names = (item for item in descendants(dataset) if has_concept_name(item, (ALGORITHM_NAME, *DEVICE_OBSERVER)))
    ours = any(printable_text(item, "TextValue") == OWN_MODEL_NAME for item in names)
    return ours or printable_text(dataset, "ManufacturerModelName") == OWN_MODEL_NAME


def _get_study_uid(dataset: Dataset) -> str:
    return str(dataset.get("StudyInstanceUID") or "")


def _map_evidence(dataset: Dataset) -> dict[str, str]:
    return {image: study for keyword in EVIDENCE_SEQUENCES for study, image in hierarchical_references(dataset, keyword)}


def _find_author(dataset: Dataset) -> Observer:
    """Return who the head of the document says observed (PS3.3 C.17.2.4): what holds where the tree says nothing."""
    for author in dataset.get("AuthorObserverSequence") or ():
        if author.get("ObserverType") == "PSN":
            return Observer("person", printable_text(author, "PersonName"))
        if author.get("ObserverType") == "DEV":
            return Observer("device")
    return Observer("")


def _find_verifier(dataset: Dataset) -> tuple[str, datetime | None]:
    """Return who verified it last, and when."""
    observers = list(dataset.get("VerifyingObserverSequence") or ())
    if not observers:
        return "", None
    last = max(observers, key=lambda observer: str(observer.get("VerificationDateTime") or ""))
    return printable_text(last, "VerifyingObserverName"), parse_datetime(
        str(last.get("VerificationDateTime") or ""), _get_utc_offset(dataset)
    )


def _get_content_time(dataset: Dataset) -> datetime | None:
    date = str(dataset.get("ContentDate") or "").replace(".", "")  # 2025.05.01 in objects of before 1993
    return parse_datetime(f"{date}{dataset.get('ContentTime') or ''}", _get_utc_offset(dataset)) if date else None


def _get_utc_offset(dataset: Dataset) -> str:
    return str(dataset.get("TimezoneOffsetFromUTC") or "")
