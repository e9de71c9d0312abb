"""Structured reports and key object selections of other vendors, built item by item."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pipeline.rules import DIGITAL_X_RAY_FOR_PRESENTATION, KEY_OBJECT_SELECTION
from tests.builders.dicom_files import COMPREHENSIVE_3D_SR, instance

Triple = tuple[str, str, str]
"""Code value, scheme, meaning."""

FINDING: Triple = ("121071", "DCM", "Finding")
IMPRESSION: Triple = ("121073", "DCM", "Impression")
PRESENCE: Triple = ("705057003", "SCT", "Presence")
PRESENT: Triple = ("52101004", "SCT", "Present")
ABSENT: Triple = ("272519000", "SCT", "Absent")
UNDETERMINED: Triple = ("373068000", "SCT", "Undetermined")
SITE: Triple = ("363698007", "SCT", "Finding Site")
LATERALITY: Triple = ("272741003", "SCT", "Laterality")
PNEUMOTHORAX: Triple = ("36118008", "SCT", "Pneumothorax")
MASS: Triple = ("309529002", "SCT", "Lung mass")
EDEMA: Triple = ("19242006", "SCT", "Pulmonary edema")
NORMAL: Triple = ("281900007", "SCT", "No abnormality detected")
GROUP: Triple = ("125007", "DCM", "Measurement Group")


def coded(triple: Triple) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = triple
    return item


def item(kind: str, name: Triple | None, *below: Dataset, rel: str = "CONTAINS", **elements: Any) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    made = Dataset()
    made.ValueType, made.RelationshipType = kind, rel
    if name is not None:
        made.ConceptNameCodeSequence = Sequence([coded(name)])
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    if below:
        made.ContentSequence = Sequence(below)
    return made


def code(name: Triple, value: Triple, *below: Dataset, rel: str = "CONTAINS") -> Dataset:
    return item("CODE", name, *below, rel=rel, ConceptCodeSequence=Sequence([coded(value)]))


def container(name: Triple, *below: Dataset) -> Dataset:
    return item("CONTAINER", name, *below)


def group(*below: Dataset) -> Dataset:
    """A measurement group, TID 1501."""
    return container(GROUP, *below)


def number(name: Triple, value: float, unit: Triple) -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = str(value), Sequence([coded(unit)])
    return item("NUM", name, MeasuredValueSequence=Sequence([measured]))


def image(sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = DIGITAL_X_RAY_FOR_PRESENTATION, sop_instance_uid
    return item("IMAGE", None, ReferencedSOPSequence=Sequence([reference]))


def person(name: str = "House^Gregory") -> list[Dataset]:
    """A person as observer, TID 1003."""
    kind = code(("121005", "DCM", "Observer Type"), ("121006", "DCM", "Person"), rel="HAS OBS CONTEXT")
    return [kind, item("PNAME", ("121008", "DCM", "Person Observer Name"), rel="HAS OBS CONTEXT", PersonName=name)]


def device(model: str = "OtherAI") -> list[Dataset]:
    """A device as observer, TID 1004."""
    kind = code(("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device"), rel="HAS OBS CONTEXT")
    name = item("TEXT", ("121015", "DCM", "Device Observer Model Name"), rel="HAS OBS CONTEXT", TextValue=model)
    return [kind, name]


def algorithm(name: str) -> Dataset:
    """The name of an algorithm, TID 4019."""
    return item("TEXT", ("111001", "DCM", "Algorithm Name"), rel="HAS CONCEPT MOD", TextValue=name)


def references(*pairs: tuple[str, str]) -> Sequence:
    """Hierarchical references to (study, instance) (PS3.3 table C.17-3)."""
    made = []
    for study_uid, sop_instance_uid in pairs:
        study, series, reference = Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = DIGITAL_X_RAY_FOR_PRESENTATION, sop_instance_uid
        series.SeriesInstanceUID, series.ReferencedSOPSequence = "1.2.3", Sequence([reference])
        study.StudyInstanceUID, study.ReferencedSeriesSequence = study_uid, Sequence([series])
        made.append(study)
    return Sequence(made)


def report(*below: Dataset, sop_class_uid: str = COMPREHENSIVE_3D_SR, **elements: Any) -> Dataset:
    """An SR of 1 May 2025, 10:15 UTC, complete and not verified."""
    values: dict[str, Any] = {"Modality": "SR", "CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED"}
    values |= {"ContentDate": "20250501", "ContentTime": "101500", "TimezoneOffsetFromUTC": "+0000"}
    values |= {"Manufacturer": "OTHER", "ManufacturerModelName": "Reading Station", "ValueType": "CONTAINER"}
    made = instance(sop_class_uid, **{**values, **elements})
    made.ConceptNameCodeSequence = Sequence([coded(("126000", "DCM", "Imaging Measurement Report"))])
    made.ContentSequence = Sequence(below)
    return made


def verified(name: str = "Cuddy^Lisa", at: str = "20250502120000+0100") -> dict[str, Any]:
    """The elements of a verified report (PS3.3 C.17.2)."""
    observer = Dataset()
    observer.VerifyingObserverName, observer.VerificationDateTime = name, at
    return {"VerificationFlag": "VERIFIED", "VerifyingObserverSequence": Sequence([observer])}


def key_objects(title: Triple, *below: Dataset, **elements: Any) -> Dataset:
    """A Key Object Selection with this title."""
    made = report(*below, sop_class_uid=KEY_OBJECT_SELECTION, **elements)
    made.Modality = "KO"
    made.ConceptNameCodeSequence = Sequence([coded(title)])
    return made
