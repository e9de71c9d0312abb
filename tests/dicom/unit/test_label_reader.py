"""Labels from readers' documents: recognised statements, and documents that give no label."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import highdicom as hd
import pytest
from highdicom.sr import CodedConcept
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import XRayRadiationDoseSRStorage

from adapters.dicom.sr.label_reader import REPORT_CLASSES, DicomDocumentReader, DocumentSettings
from pipeline.domain import FINDINGS, NO_FINDING, Document, LabelState
from pipeline.finding_names import all_absent
from tests.builders import documents as sr
from tests.builders.dicom_files import COMPREHENSIVE_3D_SR, dx, encoded, file_of
from tests.builders.report_of import a_card_version, report_on

YES, NO, MAYBE = LabelState
TITLES = {"113000,DCM": {"Mass": YES}, "NORMAL,99SITE": all_absent()}


def read(dataset: Dataset, accept_sr: Literal["person-or-verified", "verified", "none"] = "person-or-verified") -> Document:
    return DicomDocumentReader(DocumentSettings(accept_sr=accept_sr, key_object_titles=TITLES)).read(file_of(dataset))


def findings(*below: Dataset, **elements: Any) -> dict[str, LabelState]:
    """The findings that a person's report with this content states of its own study."""
    found = read(sr.report(*sr.person(), *below, **elements))
    if found.reason:
        return {}
    (reading,) = found.readings
    return dict(reading.findings)


def test_a_report_by_a_person_is_read() -> None:
    dataset = sr.report(*sr.person(), sr.group(sr.code(sr.FINDING, sr.PNEUMOTHORAX), sr.code(sr.PNEUMOTHORAX, sr.ABSENT)))
    (reading,) = read(dataset).readings
    assert (reading.findings, reading.reader, reading.source) == ({"Pneumothorax": NO}, "House^Gregory", "sr")
    assert reading.study_instance_uid == dataset.StudyInstanceUID
    assert reading.stated_at == datetime(2025, 5, 1, 10, 15, tzinfo=UTC)


@pytest.mark.parametrize("sop_class_uid", REPORT_CLASSES)
def test_a_report_by_a_device_counts_once_a_person_has_verified_it(sop_class_uid: str) -> None:
    content = [*sr.device(), sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.PRESENCE, sr.PRESENT), sr.algorithm("OtherAI"))]
    assert read(sr.report(*content, sop_class_uid=sop_class_uid)).reason == "is not verified, and its observer is a device"
    (reading,) = read(sr.report(*content, sop_class_uid=sop_class_uid, **sr.verified())).readings
    assert (reading.findings, reading.reader) == ({"Mass": YES}, "Cuddy^Lisa")
    assert reading.stated_at == datetime(2025, 5, 2, 11, 0, tzinfo=UTC)


def test_the_last_of_several_verifiers_is_the_reader() -> None:
    first, last = sr.verified("One^A", "20250503"), sr.verified("Two^B", "20250504")
    both = Sequence([*last["VerifyingObserverSequence"], *first["VerifyingObserverSequence"]])
    dataset = sr.report(sr.code(sr.FINDING, sr.MASS), **{**first, "VerifyingObserverSequence": both})
    assert read(dataset).readings[0].reader == "Two^B"
    unnamed = read(sr.report(sr.code(sr.FINDING, sr.MASS), VerificationFlag="VERIFIED")).readings[0]
    assert (unnamed.reader, unnamed.stated_at) == ("unnamed", datetime(2025, 5, 1, 10, 15, tzinfo=UTC))


@pytest.mark.parametrize("flag", ["UNVERIFIED", "VERIFIED"])
@pytest.mark.parametrize("model_name", ["radclipd", "Some PACS"])
def test_a_report_of_radclipd_is_never_a_label(flag: str, model_name: str) -> None:
    """Also after an archive has rewritten its header, or a person has verified it."""
    own = report_on(dx())
    own.VerificationFlag, own.ManufacturerModelName = flag, model_name
    found = read(own)
    assert (found.readings, found.reason) == ((), "is a report of radclipd, or a copy of one")


def test_a_report_of_radclipd_under_another_observer_is_recognised_by_its_algorithm() -> None:
    own = report_on(dx(), version=a_card_version())
    own.ManufacturerModelName = "Some PACS"
    own.ContentSequence = Sequence(
        [*sr.person(), *(item for item in own.ContentSequence if item.RelationshipType != "HAS OBS CONTEXT")]
    )
    assert read(own).reason == "is a report of radclipd, or a copy of one"


PRESENT_CODES: list[sr.Triple] = [
    sr.PRESENT,
    ("373066001", "SCT", "Yes"),
    ("121053", "DCM", "Present"),
    ("RID28472", "RADLEX", "present"),
    ("G-A203", "SRT", "Present"),
    ("R-0038D", "99SDM", "Yes"),
    ("52101004", "snomed-ct", "vorhanden"),
]
ABSENT_CODES: list[sr.Triple] = [
    sr.ABSENT,
    ("2667000", "SCT", "Absent"),
    ("373067005", "SCT", "No"),
    ("410516002", "SCT", "Known absent"),
    ("121054", "DCM", "Absent"),
    ("RID28473", "RADLEX", "absent"),
    ("R-4089B", "SRT", "Absent"),
    ("R-00339", "SNM3", "No"),
]
UNCERTAIN_CODES: list[sr.Triple] = [
    sr.UNDETERMINED,
    ("82334004", "SCT", "Indeterminate"),
    ("121059", "DCM", "Presence Undetermined"),
    ("RID39110", "RADLEX", "indeterminate"),
]
PRESENCE_CODES = [
    (triple, state) for state, codes in ((YES, PRESENT_CODES), (NO, ABSENT_CODES), (MAYBE, UNCERTAIN_CODES)) for triple in codes
]


@pytest.mark.parametrize(("value", "state"), PRESENCE_CODES, ids=[f"{triple[0]} {triple[1]}" for triple, _ in PRESENCE_CODES])
def test_other_vendors_codes_for_present_and_absent_are_read(value: sr.Triple, state: LabelState) -> None:
    expected = {"Pneumothorax": state}
    assert findings(sr.group(sr.code(sr.PNEUMOTHORAX, value))) == expected
    assert findings(sr.group(sr.code(sr.FINDING, sr.PNEUMOTHORAX), sr.code(sr.PRESENCE, value))) == expected
    assert findings(sr.code(sr.FINDING, sr.PNEUMOTHORAX, sr.code(sr.PRESENCE, value, rel="HAS CONCEPT MOD"))) == expected


@pytest.mark.parametrize(
    ("concept", "finding"),
    [
        (("RID5352", "RADLEX", "pneumothorax"), "Pneumothorax"),
        (("D2-80300", "SRT", "Pneumothorax"), "Pneumothorax"),
        (("D2-80100", "99SDM", "Pleural effusion"), "Effusion"),
        (("409609008", "SCT", "Radiologic infiltrate of lung"), "Infiltration"),
        (("112121", "DCM", "Infiltrate"), "Infiltration"),
        (("M-03010", "SRT", "Nodule"), "Nodule"),
        (("PLTHICK", "99RADCLIPD", "Pleural thickening"), "Pleural_Thickening"),
    ],
)
def test_other_vendors_codes_for_findings_are_read(concept: sr.Triple, finding: str) -> None:
    assert findings(sr.group(sr.code(sr.FINDING, concept))) == {finding: YES}
    assert findings(sr.group(sr.code(concept, sr.ABSENT))) == {finding: NO}


def test_a_finding_without_a_presence_value_is_present_at_any_depth() -> None:
    for name in (sr.FINDING, sr.IMPRESSION, ("121077", "DCM", "Conclusion")):
        section = sr.container(("121070", "DCM", "Findings"), sr.code(name, sr.EDEMA), sr.code(name, sr.MASS))
        assert findings(sr.container(("1", "99X", "outer"), section)) == {"Edema": YES, "Mass": YES}


CALCIFIED: sr.Triple = ("54538001", "SCT", "Calcification")
AMBIGUOUS: dict[str, list[Dataset]] = {
    "an unknown presence value": [sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.PRESENCE, ("?", "99X", "Perhaps")))],
    "an unknown value of a finding": [sr.group(sr.code(sr.MASS, ("255507004", "SCT", "Small")))],
    "two presence values": [
        sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.PRESENCE, sr.PRESENT), sr.code(sr.PRESENCE, sr.ABSENT))
    ],
    "one presence value for two findings": [
        sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.FINDING, CALCIFIED), sr.code(sr.PRESENCE, sr.ABSENT))
    ],
    "a score instead of a presence value": [
        sr.group(sr.code(sr.FINDING, sr.MASS), sr.number(("122157", "DCM", "Probability"), 0.02, ("{0:1}", "UCUM", "range")))
    ],
    "a finding of an earlier study": [sr.container(("121068", "DCM", "Previous Findings"), sr.code(sr.MASS, sr.PRESENT))],
    "a finding in the indications": [sr.container(("18785-6", "LN", "Indications"), sr.code(sr.FINDING, sr.MASS))],
    "a finding in the context": [sr.code(sr.FINDING, sr.MASS, rel="HAS OBS CONTEXT")],
    "a nodule elsewhere": [
        sr.group(sr.code(sr.FINDING, ("27925004", "SCT", "Nodule")), sr.code(sr.SITE, ("69748006", "SCT", "Thyroid structure")))
    ],
    "a narrower concept absent": [sr.group(sr.code(("40779009", "SCT", "Plate-like atelectasis"), sr.ABSENT))],
    "no abnormality at one site": [
        sr.group(sr.code(sr.FINDING, sr.NORMAL), sr.code(sr.SITE, ("80891009", "SCT", "Heart structure")))
    ],
    "no abnormality, absent": [sr.code(sr.NORMAL, sr.ABSENT)],
    "unknown value on one side, absent on the other": [
        sr.group(sr.code(sr.MASS, ("?", "99X", "Hm"))),
        sr.group(sr.code(sr.MASS, sr.ABSENT)),
    ],
    "a name without a code": [sr.item("CODE", None, ConceptCodeSequence=Sequence([]))],
    "text only": [sr.item("TEXT", sr.FINDING, TextValue="Pneumothorax")],
    "nothing": [],
}


@pytest.mark.parametrize("content", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_an_ambiguous_statement_is_no_label(content: list[Dataset]) -> None:
    assert findings(*content) == {}


def test_a_property_of_the_finding_is_not_its_presence() -> None:
    assert findings(sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(CALCIFIED, sr.ABSENT))) == {"Mass": YES}
    diameter = sr.number(("81827009", "SCT", "Diameter"), 12, ("mm", "UCUM", "mm"))
    lobe = sr.code(sr.SITE, ("45653009", "SCT", "Upper lobe of lung"))
    assert findings(sr.group(sr.code(sr.FINDING, ("27925004", "SCT", "Nodule")), diameter, lobe)) == {"Nodule": YES}
    evaluations = sr.container(("C0034375", "UMLS", "Qualitative Evaluations"), sr.code(sr.PRESENCE, sr.ABSENT))
    assert findings(sr.group(sr.code(sr.FINDING, sr.MASS), evaluations)) == {"Mass": NO}


def test_present_on_one_side_is_present() -> None:
    assert findings(sr.group(sr.code(sr.MASS, sr.ABSENT)), sr.group(sr.code(sr.MASS, sr.PRESENT))) == {"Mass": YES}
    assert findings(sr.group(sr.code(sr.MASS, sr.ABSENT)), sr.group(sr.code(sr.MASS, sr.UNDETERMINED))) == {"Mass": MAYBE}


def test_no_abnormality_states_all_findings_absent_unless_contradicted() -> None:
    nothing = sr.code(sr.FINDING, sr.NORMAL)
    assert findings(nothing) == all_absent()
    assert len(all_absent()) == len(FINDINGS)
    assert (
        findings(sr.group(nothing, sr.code(sr.SITE, ("51185008", "SCT", "Thoracic structure"))), sr.code(sr.MASS, sr.ABSENT))
        == all_absent()
    )
    assert findings(nothing, sr.group(sr.code(sr.MASS, sr.PRESENT))) == {"Mass": YES}
    assert findings(nothing, sr.group(sr.code(sr.MASS, sr.UNDETERMINED))) == {"Mass": MAYBE}


def test_each_part_of_a_report_has_its_own_observer() -> None:
    """A person's report that carries a device's measurements: only the person's part counts until it is verified."""
    machine = sr.container(("1", "99X", "CAD"), *sr.device(), sr.group(sr.code(sr.EDEMA, sr.PRESENT)))
    by_algorithm = sr.group(sr.algorithm("OtherAI"), sr.code(sr.PNEUMOTHORAX, sr.PRESENT))
    second = sr.container(("1", "99X", "Second reading"), *sr.person("Wilson^James"), sr.group(sr.code(sr.MASS, sr.ABSENT)))
    content = [*sr.person(), machine, by_algorithm, second, sr.group(sr.code(sr.MASS, sr.PRESENT))]
    found = read(sr.report(*content)).readings
    assert {reading.reader: reading.findings for reading in found} == {"House^Gregory": {"Mass": YES}, "Wilson^James": {"Mass": NO}}
    (whole,) = read(sr.report(*content, **sr.verified())).readings
    assert whole.findings == {"Mass": YES, "Edema": YES, "Pneumothorax": YES}


def test_the_header_names_the_observer_where_the_tree_does_not() -> None:
    author = Dataset()
    author.ObserverType, author.PersonName = "PSN", "Foreman^Eric"
    found = sr.code(sr.FINDING, sr.MASS)
    assert read(sr.report(found, AuthorObserverSequence=Sequence([author]))).readings[0].reader == "Foreman^Eric"
    author.ObserverType = "DEV"
    assert "a device" in read(sr.report(found, AuthorObserverSequence=Sequence([author]))).reason
    assert "not named as a person" in read(sr.report(found)).reason
    named = sr.item("PNAME", ("121008", "DCM", "Person Observer Name"), rel="HAS OBS CONTEXT", PersonName="Chase^Robert")
    assert read(sr.report(named, found)).readings[0].reader == "Chase^Robert"


def test_findings_belong_to_the_study_of_the_referenced_images() -> None:
    dataset = sr.report(
        *sr.person(),
        sr.group(sr.code(sr.MASS, sr.PRESENT), sr.image("1.1.1")),
        sr.group(sr.code(sr.MASS, sr.ABSENT), sr.image("2.2.2")),
        sr.group(sr.code(sr.EDEMA, sr.ABSENT), sr.image("1.1.1"), sr.image("2.2.2")),
        sr.group(sr.code(sr.PNEUMOTHORAX, sr.ABSENT), sr.image("9.9.9")),
        StudyInstanceUID="1.1",
        CurrentRequestedProcedureEvidenceSequence=sr.references(("1.1", "1.1.1")),
        PertinentOtherEvidenceSequence=sr.references(("2.2", "2.2.2")),
    )
    found = {reading.study_instance_uid: reading.findings for reading in read(dataset).readings}
    assert found == {"1.1": {"Mass": YES, "Pneumothorax": NO}, "2.2": {"Mass": NO}}


def test_a_later_version_names_the_documents_it_replaces() -> None:
    predecessors = sr.references(("1.1", "2.25.1"), ("1.1", "2.25.2"))
    dataset = sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS), PredecessorDocumentsSequence=predecessors)
    assert read(dataset).replaces == ("2.25.1", "2.25.2")


@pytest.mark.parametrize(
    ("accept", "elements", "reason"),
    [
        ("person-or-verified", {"CompletionFlag": "PARTIAL"}, "is not complete"),
        ("verified", {}, 'is not verified: accept_sr = "verified" in [labels]'),
        ("none", {}, 'structured reports are not read: accept_sr = "none" in [labels]'),
        ("person-or-verified", {"sop_class_uid": XRayRadiationDoseSRStorage}, "is none of Enhanced SR"),
    ],
)
def test_a_document_that_is_not_accepted_gives_the_reason(accept: Any, elements: dict[str, Any], reason: str) -> None:
    assert read(sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS), **elements), accept).reason.startswith(reason)
    verified = sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS), **sr.verified())
    assert bool(read(verified, accept).readings) == (accept != "none")


def test_key_objects_are_read_by_the_configured_titles() -> None:
    of_interest: sr.Triple = ("113000", "DCM", "Of Interest")
    evidence = sr.references(("1.1", "1.1.1"), ("1.1", "1.1.2"))
    chosen = sr.key_objects(of_interest, *sr.person(), CurrentRequestedProcedureEvidenceSequence=evidence)
    (reading,) = read(chosen, "none").readings
    assert (reading.study_instance_uid, reading.findings, reading.reader, reading.source) == (
        "1.1",
        {"Mass": YES},
        "House^Gregory",
        "kos",
    )
    normal = sr.key_objects(("NORMAL", "99SITE", "Normal chest"))
    assert [(one.study_instance_uid, one.findings, one.reader) for one in read(normal).readings] == [
        (normal.StudyInstanceUID, all_absent(), "unnamed")
    ]
    assert "does not name" in read(sr.key_objects(("113004", "DCM", "For Teaching"))).reason
    assert read(sr.key_objects(of_interest, *sr.device())).reason == "its observer is a device"


@pytest.mark.parametrize(
    ("date", "time", "offset", "expected"),
    [
        ("20250501", "101500.123456", "+0130", datetime(2025, 5, 1, 8, 45, 0, 123456, tzinfo=UTC)),
        ("2025.05.01", "10:15:00", "+0000", datetime(2025, 5, 1, 10, 15, tzinfo=UTC)),
        ("20259901", "101500", "+0000", None),
        ("", "", "", None),
        ("00010101", "000000", "", None),
    ],
)
def test_content_times_are_normalised_to_utc(date: str, time: str, offset: str, expected: datetime | None) -> None:
    dataset = sr.report(*sr.person(), sr.code(sr.FINDING, sr.MASS), TimezoneOffsetFromUTC=offset)
    for keyword, value in (("ContentDate", date), ("ContentTime", time)):
        dataset[keyword].VR = "LO"  # LO accepts any text
        dataset[keyword].value = value
    assert read(dataset).readings[0].stated_at == expected


def a_highdicom_report(document: Any, *, verified: bool) -> Dataset:
    """An SR as highdicom writes it for a person: TID 1500 with TID 1501 groups."""
    film = dx()
    observer = hd.sr.ObserverContext(
        observer_type=CodedConcept("121006", "DCM", "Person"),
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="House^Gregory"),
    )
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=meaning),
            finding_type=CodedConcept(value, scheme, meaning),
            qualitative_evaluations=[
                hd.sr.QualitativeEvaluation(name=CodedConcept(value, scheme, meaning), value=CodedConcept(*presence))
            ],
            source_images=[hd.sr.SourceImageForMeasurementGroup(film.SOPClassUID, film.SOPInstanceUID)],
        )
        for (value, scheme, meaning), presence in ((sr.PNEUMOTHORAX, sr.PRESENT), (sr.MASS, sr.ABSENT))
    ]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=observer),
        procedure_reported=CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        referenced_images=[film],
    )
    written: Dataset = document(
        evidence=[film],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="OTHER",
        is_complete=True,
        is_verified=verified,
        verifying_observer_name="Cuddy^Lisa" if verified else None,
        verifying_organization="PPTH" if verified else None,
    )
    return written


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("document", [hd.sr.EnhancedSR, hd.sr.ComprehensiveSR, hd.sr.Comprehensive3DSR])
def test_reports_by_highdicom_are_read(document: Any, verified: bool) -> None:
    (reading,) = read(a_highdicom_report(document, verified=verified)).readings
    assert reading.findings == {"Pneumothorax": YES, "Mass": NO}
    assert reading.reader == ("Cuddy^Lisa" if verified else "House^Gregory")


# Arbitrary trees and bytes, as other software may send them.
TRIPLES = st.sampled_from(
    [
        sr.FINDING,
        sr.PRESENCE,
        sr.PRESENT,
        sr.ABSENT,
        sr.MASS,
        sr.PNEUMOTHORAX,
        sr.NORMAL,
        sr.SITE,
        sr.GROUP,
        ("", "", ""),
        ("ä", "99", "?"),
    ]
)
LEAVES = st.one_of(
    st.builds(sr.code, TRIPLES, TRIPLES),
    st.builds(sr.item, st.sampled_from(["CODE", "TEXT", "NUM", "IMAGE", "NONSENSE", ""]), st.none() | TRIPLES),
    st.builds(Dataset),
    st.sampled_from([*sr.person(), *sr.device(), sr.image("1.1")]),
)
TREES = st.recursive(
    LEAVES, lambda below: st.builds(lambda name, items: sr.container(name, *items), TRIPLES, st.lists(below, max_size=4))
)


@given(st.lists(TREES, max_size=5), st.booleans())
def test_any_tree_is_read_without_an_exception(content: list[Dataset], is_verified: bool) -> None:
    found = read(sr.report(*content, **(sr.verified() if is_verified else {})))
    assert bool(found.reason) != bool(found.readings)
    for reading in found.readings:
        assert reading.findings
        assert set(reading.findings) <= set(FINDINGS) - {NO_FINDING}


WHOLE = file_of(sr.report(*sr.person(), *[sr.group(sr.code(sr.FINDING, sr.MASS), sr.code(sr.MASS, sr.ABSENT)) for _ in range(3)]))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=12), st.booleans())
def test_any_bytes_are_read_without_an_exception(position: int, noise: bytes, cut: bool) -> None:
    content = WHOLE[:position] if cut else WHOLE[:position] + noise + WHOLE[position + len(noise) :]
    found = DicomDocumentReader(DocumentSettings()).read(content)
    assert bool(found.reason) != bool(found.readings)


def test_content_that_is_not_dicom_and_endless_nesting_give_a_reason() -> None:
    reader = DicomDocumentReader(DocumentSettings())
    for content in (b"", b"no DICOM", b"\0" * 1000, encoded(sr.report())):
        assert reader.read(content).reason
    opened = bytes.fromhex("400030a7 5351 0000 ffffffff feff00e0 ffffffff".replace(" ", ""))  # ContentSequence, its first item
    assert "nested more than" in reader.read(file_of(sr.report()) + opened * 20_000).reason
    deep = sr.code(sr.FINDING, sr.MASS)
    for _ in range(60):
        deep = sr.container(sr.GROUP, deep)
    assert findings(deep) == {"Mass": YES}
    assert COMPREHENSIVE_3D_SR in REPORT_CLASSES
