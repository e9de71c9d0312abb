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

from adapters.dicom.sr.content_tree import children, code_in, everything_below, is_called, moment, references, text
from adapters.dicom.sr.finding_statements import Observer, Statement, observer_of, statements_below, stronger
from adapters.dicom.sr.label_codes import ALGORITHM_NAME, DEVICE_OBSERVER
from pipeline.domain import NO_FINDING, Document, LabelState, Reading
from pipeline.finding_names import no_finding
from pipeline.rules import KEY_OBJECT_SELECTION, OWN_MODEL_NAME

REPORTS = {
    "1.2.840.10008.5.1.4.1.1.88.22": "Enhanced SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "Comprehensive SR",
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR",
    "1.2.840.10008.5.1.4.1.1.88.35": "Extensible SR",
}
EVIDENCE = ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")  # PS3.3 C.17.2
UNNAMED = "unnamed"
"""The reader of a document that names nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSettings:
    """`[labels]` of the configuration. `key_object_titles` maps "value,scheme" of a document title -> finding -> state."""

    accept_sr: Literal["person-or-verified", "verified", "none"] = "person-or-verified"
    key_object_titles: Mapping[str, Mapping[str, LabelState]] = field(default_factory=dict)


class _NoLabel(Exception):
    """Why a document gives none, in words."""


class DicomDocuments:
    """ports.DocumentReader."""

    def __init__(self, settings: DocumentSettings) -> None:
        self._settings = settings

    def read(self, content: bytes) -> Document:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a library's doubts about a value quote the value
                return self._document(dcmread(BytesIO(content), force=True))
        except _NoLabel as reason:
            return Document(reason=str(reason))
        except Exception as error:  # pydicom raises whatever the bytes make it stumble over, and may quote them
            return Document(reason=f"cannot be read ({type(error).__name__})")

    def _document(self, dataset: Dataset) -> Document:
        uid = str(dataset.get("SOPClassUID") or "")
        if _is_own(dataset):
            raise _NoLabel("says what radclipd itself has said")
        if uid == KEY_OBJECT_SELECTION:
            readings = self._key_objects(dataset)
        elif uid in REPORTS:
            readings = self._report(dataset)
        else:
            raise _NoLabel(f"is none of {', '.join(REPORTS.values())}, Key Object Selection")
        replaces = {replaced for _, replaced in references(dataset, "PredecessorDocumentsSequence")}
        return Document(readings=tuple(readings), replaces=tuple(sorted(replaces)))

    def _report(self, dataset: Dataset) -> list[Reading]:
        if self._settings.accept_sr == "none":
            raise _NoLabel('structured reports are not read: accept_sr = "none" in [labels]')
        if dataset.get("CompletionFlag") == "PARTIAL":
            raise _NoLabel("is not complete")
        stated = list(statements_below(dataset, _author(dataset), study=_study(dataset), evidence=_evidence(dataset)))
        if not any(statement.state for statement in stated):
            raise _NoLabel("codes none of the 14 findings as present, absent or undetermined")
        if dataset.get("VerificationFlag") == "VERIFIED":
            verifier, verified_at = _verifier(dataset)
            stated = [replace(statement, observer=Observer("person", verifier)) for statement in stated]
            return _readings(stated, "sr", verified_at or _content_time(dataset))
        if self._settings.accept_sr == "verified":
            raise _NoLabel('is not verified: accept_sr = "verified" in [labels]')
        by_persons = [statement for statement in stated if statement.observer.kind == "person"]
        if not by_persons:
            device = any(statement.observer.kind == "device" for statement in stated)
            raise _NoLabel(f"is not verified, and its observer is {'a device' if device else 'not named as a person'}")
        return _readings(by_persons, "sr", _content_time(dataset))

    def _key_objects(self, dataset: Dataset) -> list[Reading]:
        title = code_in(dataset, "ConceptNameCodeSequence")
        findings = self._settings.key_object_titles.get(f"{title.value},{title.scheme}") if title else None
        if findings is None:
            raise _NoLabel("has a title that key_object_titles in [labels] does not name")
        observer = observer_of(children(dataset), _author(dataset))
        if observer.kind == "device":
            raise _NoLabel("its observer is a device")
        studies = sorted(set(_evidence(dataset).values())) or [_study(dataset)]
        stated = [Statement(study, finding, state, observer) for study in studies for finding, state in findings.items()]
        return _readings(stated, "kos", _content_time(dataset))


def _readings(stated: Iterable[Statement], source: str, stated_at: datetime | None) -> list[Reading]:
    """Make one reading of what each person states of each study."""
    merged: dict[tuple[str, str], dict[str, LabelState | None]] = {}
    for one in stated:
        of_study = merged.setdefault((one.study_instance_uid, one.observer.name or UNNAMED), {})
        of_study[one.finding] = stronger(one.state, of_study.get(one.finding, one.state))
    readings = [
        Reading(study_instance_uid=study, reader=reader, findings=clear, source=source, stated_at=stated_at)
        for (study, reader), of_study in merged.items()
        if (clear := _clear(of_study))
    ]
    if not readings:
        raise _NoLabel("states nothing clearly")
    return readings


def _clear(stated: Mapping[str, LabelState | None]) -> dict[str, LabelState]:
    """Leave out what was not understood; let "no abnormality" speak for all 14 where nothing beside it says otherwise."""
    named = {finding: state for finding, state in stated.items() if finding != NO_FINDING}
    clear = {finding: state for finding, state in named.items() if state is not None}
    if NO_FINDING in stated and all(state is LabelState.ABSENT for state in named.values()):
        return no_finding()
    return clear


def _is_own(dataset: Dataset) -> bool:
    """Tell by the equipment, the observer and the algorithm: an archive may rewrite a header, a person may verify our words."""
    names = (item for item in everything_below(dataset) if is_called(item, (ALGORITHM_NAME, *DEVICE_OBSERVER)))
    ours = any(text(item, "TextValue") == OWN_MODEL_NAME for item in names)
    return ours or text(dataset, "ManufacturerModelName") == OWN_MODEL_NAME


def _study(dataset: Dataset) -> str:
    return str(dataset.get("StudyInstanceUID") or "")


def _evidence(dataset: Dataset) -> dict[str, str]:
    return {image: study for keyword in EVIDENCE for study, image in references(dataset, keyword)}


def _author(dataset: Dataset) -> Observer:
    """Return who the head of the document says observed (PS3.3 C.17.2.4): what holds where the tree says nothing."""
    for author in dataset.get("AuthorObserverSequence") or ():
        if author.get("ObserverType") == "PSN":
            return Observer("person", text(author, "PersonName"))
        if author.get("ObserverType") == "DEV":
            return Observer("device")
    return Observer("")


def _verifier(dataset: Dataset) -> tuple[str, datetime | None]:
    """Return who verified it last, and when."""
    observers = list(dataset.get("VerifyingObserverSequence") or ())
    if not observers:
        return "", None
    last = max(observers, key=lambda observer: str(observer.get("VerificationDateTime") or ""))
    return text(last, "VerifyingObserverName"), moment(str(last.get("VerificationDateTime") or ""), _offset(dataset))


def _content_time(dataset: Dataset) -> datetime | None:
    date = str(dataset.get("ContentDate") or "").replace(".", "")  # 2025.05.01 in objects of before 1993
    return moment(f"{date}{dataset.get('ContentTime') or ''}", _offset(dataset)) if date else None


def _offset(dataset: Dataset) -> str:
    return str(dataset.get("TimezoneOffsetFromUTC") or "")
