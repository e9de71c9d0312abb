"""A negation never becomes a positive label: the ways in which reports state that a finding is absent, doubtful or not of today."""

from __future__ import annotations

import time
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from adapters.dicom.sr import content_tree
from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings
from pipeline.domain import Document, LabelState
from tests.builders import documents as sr
from tests.builders.dicom_files import file_of
from tests.builders.peers import shared

YES, NO, MAYBE = LabelState
PTX, MASS, EDEMA = sr.PNEUMOTHORAX, sr.MASS, sr.EDEMA
OWN_PRESENCE: sr.Triple = ("PRESENCE", "99SITE", "Presence")
OWN_NAME: sr.Triple = ("X17", "99SITE", "Befund")
RADLEX_ABSENT: sr.Triple = ("RID28473", "RADLEX", "absent")
COMMENT: sr.Triple = ("121106", "DCM", "Comment")
YES_CODE: sr.Triple = ("373066001", "SCT", "Yes")


def read(*content: Dataset, **elements: Any) -> Document:
    return DicomDocumentReader(DocumentSettings()).read(
        file_of(sr.report(*sr.person(), *content, SpecificCharacterSet="ISO_IR 192", **elements))
    )


def findings(*content: Dataset) -> dict[str, LabelState]:
    return {finding: state for reading in read(*content).readings for finding, state in reading.findings.items()}


def ptx(*below: Dataset) -> Dataset:
    return sr.code(sr.FINDING, PTX, *below)


def text(words: str, name: sr.Triple = COMMENT) -> Dataset:
    return sr.item("TEXT", name, TextValue=words)


def by_reference(*positions: int) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ReferencedContentItemIdentifier = "HAS PROPERTIES", list(positions)
    return item


def without_value_type(item: Dataset) -> Dataset:
    del item.ValueType
    return item


def with_equivalent(item: Dataset, *triples: sr.Triple) -> Dataset:
    item.ConceptCodeSequence[0].EquivalentCodeSequence = Sequence([sr.coded(triple) for triple in triples])
    return item


def urn(name: sr.Triple, uri: str) -> Dataset:
    made = sr.code(name, ("", "99SITE", ""))
    (value,) = made.ConceptCodeSequence
    del value.CodeValue
    value.URNCodeValue = uri
    return made


ABSENT_VALUES: list[sr.Triple] = [
    RADLEX_ABSENT,
    ("RID28473", "RadLex", ""),
    ("rid28473", "99RADLEX", ""),
    sr.ABSENT,
    ("2667000", "SCT", ""),
    ("373067005", "SCT", "No"),
    ("260385009", "SCT", "Negative"),
    ("410516002", "SCT", "Known absent"),
    ("410594000", "SCT", "Definitely not present"),
    ("260415000", "SCT", "Not detected"),
    ("260413007", "SCT", "None"),
    ("272519000", "http://snomed.info/sct", "Absent"),
    ("272519000", "2.16.840.1.113883.6.96", "Absent"),
    ("121054", "DCM", "Absent"),
    ("R-4089B", "SRT", "Absent"),
    ("R-00339", "SNM3", "No"),
    ("R-4089B", "SNOMED", "Absent"),
    ("C0442733", "UMLS", "Absent"),
    ("C0332197", "UMLS", "Absent"),
    ("LA9634-2", "LN", "Absent"),
]
UNCERTAIN_VALUES: list[sr.Triple] = [
    sr.UNDETERMINED,
    ("415684004", "SCT", "Suspected"),
    ("RID39110", "RADLEX", "indeterminate"),
    ("410592001", "SCT", "Probably present"),
    ("C3536725", "UMLS", "Undetermined"),
]
UNCLEAR_VALUES: list[sr.Triple] = [
    ("261665006", "SCT", ""),
    ("17621005", "SCT", ""),
    ("N", "99SITE", "No"),
    ("0", "99SITE", "not seen"),
    ("A", "99SITE", "nicht vorhanden"),
    ("A", "99SITE", "pas de pneumothorax"),
    ("A", "99SITE", "ausente"),
    ("A", "99SITE", "Assente"),
    ("A", "99SITE", "brak"),
    ("A", "99SITE", "yok"),
    ("A", "99SITE", "нет"),
    ("A", "99SITE", "なし"),
    ("A", "99SITE", "未见"),
    ("A", "99SITE", "ruled out"),
    ("A", "99SITE", "history of"),
    ("A", "99SITE", "resolved"),
    ("A", "99SITE", "cannot be excluded"),
    ("A", "99SITE", "fraglich"),
]
NAMES: list[sr.Triple] = [sr.PRESENCE, OWN_PRESENCE, OWN_NAME, ("408729009", "SCT", "Finding context"), ("1", "DCM", "Status")]
RELATIONSHIPS = ["CONTAINS", "HAS PROPERTIES", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "INFERRED FROM", ""]


@pytest.mark.parametrize("name", NAMES, ids=[f"{name[2]} {name[1]}" for name in NAMES])
@pytest.mark.parametrize("values", [ABSENT_VALUES, UNCERTAIN_VALUES, UNCLEAR_VALUES], ids=["absent", "uncertain", "unclear"])
def test_a_presence_value_counts_under_any_name_below_or_beside_the_finding(name: sr.Triple, values: list[sr.Triple]) -> None:
    expected = {id(ABSENT_VALUES): {"Pneumothorax": NO}, id(UNCERTAIN_VALUES): {"Pneumothorax": MAYBE}}.get(id(values), {})
    for value in values:
        assert findings(ptx(sr.code(name, value))) == expected, value
        assert findings(sr.group(ptx(), sr.code(name, value))) == expected, value


@pytest.mark.parametrize("relationship", RELATIONSHIPS)
@pytest.mark.parametrize("value", [sr.ABSENT, RADLEX_ABSENT], ids=["SCT", "RadLex"])
def test_a_negation_counts_under_any_relationship(relationship: str, value: sr.Triple) -> None:
    assert findings(ptx(sr.code(OWN_NAME, value, rel=relationship))) == {"Pneumothorax": NO}
    assert findings(sr.group(ptx(), sr.code(OWN_NAME, value, rel=relationship))) == {"Pneumothorax": NO}


NEGATED: dict[str, list[Dataset]] = {
    "inside a container below": [ptx(sr.container(("1", "99SITE", "Assessment"), sr.code(OWN_NAME, sr.ABSENT)))],
    "inside a container beside": [sr.group(ptx(), sr.container(OWN_NAME, sr.container(OWN_NAME, sr.code(OWN_NAME, sr.ABSENT))))],
    "below another item below": [ptx(sr.code(OWN_NAME, ("1", "99SITE", "see"), sr.code(OWN_NAME, sr.ABSENT)))],
    "by reference": [ptx(by_reference(1, 4)), sr.code(OWN_NAME, sr.ABSENT)],
    "as an equivalent code": [ptx(with_equivalent(sr.code(OWN_NAME, ("1", "99SITE", "")), sr.ABSENT))],
    "as a URN": [ptx(urn(OWN_NAME, "http://radlex.org/RID/RID28473"))],
    "as a URI of SNOMED": [ptx(urn(OWN_NAME, "http://snomed.info/id/272519000"))],
    "without a value type": [ptx(without_value_type(sr.code(OWN_NAME, sr.ABSENT)))],
    "without a name": [ptx(sr.item("CODE", None, ConceptCodeSequence=Sequence([sr.coded(sr.ABSENT)])))],
    "under the finding's own name": [ptx(sr.code(PTX, sr.ABSENT))],
    "as a finding within the finding": [ptx(ptx(sr.code(sr.PRESENCE, sr.ABSENT)))],
}


@pytest.mark.parametrize("content", NEGATED.values(), ids=NEGATED.keys())
def test_a_negation_counts_wherever_it_stands(content: list[Dataset]) -> None:
    assert findings(*content) == {"Pneumothorax": NO}


UNCLEAR: dict[str, list[Dataset]] = {
    "a code that contradicts its words": [ptx(sr.code(sr.PRESENCE, ("52101004", "SCT", "nicht vorhanden")))],
    "a negated code that contradicts its words": [ptx(sr.code(sr.PRESENCE, ("272519000", "SCT", "present")))],
    "words of the finding": [sr.code(sr.FINDING, ("36118008", "SCT", "No pneumothorax"))],
    "words of the name": [sr.code(("121071", "DCM", "Previous finding"), PTX)],
    "a negated name of a statement": [sr.code(("36118008", "SCT", "No pneumothorax"), YES_CODE)],
    "a negating name with yes": [ptx(sr.code(("1", "99SITE", "No evidence of"), YES_CODE))],
    "a negation flag": [sr.group(ptx(), sr.code(("NEG", "99SITE", "Negated"), YES_CODE))],
    "present below and absent beside": [sr.group(ptx(sr.code(sr.PRESENCE, sr.PRESENT)), sr.code(OWN_NAME, sr.ABSENT))],
    "absent below and present beside": [sr.group(ptx(sr.code(OWN_NAME, sr.ABSENT)), sr.code(sr.PRESENCE, sr.PRESENT))],
    "present and absent below": [ptx(sr.code(OWN_NAME, sr.ABSENT), sr.code(sr.PRESENCE, sr.PRESENT))],
    "present and absent under its own name": [sr.group(sr.code(PTX, sr.PRESENT), sr.code(PTX, sr.ABSENT))],
    "present by name and absent beside": [sr.group(sr.code(PTX, sr.PRESENT), sr.code(OWN_PRESENCE, sr.ABSENT))],
    "present by name and absent beside under an own name": [sr.group(sr.code(PTX, sr.PRESENT), sr.code(OWN_NAME, RADLEX_ABSENT))],
    "a group with its finding, present by name, and absent": [
        sr.group(ptx(), sr.code(PTX, sr.PRESENT), sr.code(OWN_NAME, sr.ABSENT))
    ],
    "one absent beside two findings": [sr.group(ptx(), sr.code(sr.FINDING, MASS), sr.code(OWN_NAME, sr.ABSENT))],
    "absent beside the group": [sr.container(OWN_NAME, sr.code(OWN_NAME, sr.ABSENT), sr.group(ptx()))],
    "a heading: negative findings": [sr.container(("1", "99SITE", "Pertinent negatives"), ptx())],
    "a heading: no evidence of": [sr.container(("1", "99SITE", "No evidence of"), sr.group(ptx()))],
    "a heading: kein Nachweis": [sr.container(("1", "99SITE", "Kein Nachweis von"), ptx())],
    "a heading: ausgeschlossen, stated present": [sr.container(("1", "99SITE", "Ausgeschlossen"), sr.code(PTX, sr.PRESENT))],
    "a heading: differential diagnosis": [sr.container(("1", "99SITE", "Differential diagnosis"), ptx())],
    "a heading: prior examination": [sr.container(("1", "99SITE", "Prior examination"), ptx())],
    "a heading: Vorbefund": [sr.container(("1", "99SITE", "Vorbefund"), sr.code(PTX, sr.PRESENT))],
    "a heading: family history": [sr.container(("1", "99SITE", "Family history"), sr.group(ptx()))],
    "a heading: antécédents": [sr.container(("1", "99SITE", "Antécédents"), ptx())],
    "below another finding that is absent": [sr.code(sr.FINDING, ("1", "99SITE", "Air"), sr.code(sr.PRESENCE, sr.ABSENT), ptx())],
    "a text below": [ptx(text("not seen"))],
    "a text below that names it": [ptx(text("No pneumothorax."))],
    "a text below in German": [ptx(text("Kein Pneu nachweisbar"))],
    "a text below in Japanese": [ptx(text("気胸なし"))],
    "a text below that doubts": [ptx(text("possible, cannot be excluded"))],
    "a text below on the past": [ptx(text("Z.n. Pneumothorax 2019"))],
    "a text beside": [sr.group(ptx(), text("Nothing. No PTX is seen"))],
    "a text beside without its name": [sr.group(ptx(), text("absent"))],
    "a text in another section": [
        sr.container(("121070", "DCM", "Findings"), text("Heart normal. No effusion or pneumothorax.")),
        sr.group(ptx()),
    ],
    "a text named as the finding": [sr.group(ptx(), text("keiner", PTX))],
    "a probability": [ptx(sr.number(("1", "99SITE", "Probability"), 0.01, ("1", "UCUM", "1")))],
    "a probability of 0 beside": [sr.group(ptx(), sr.number(("122157", "DCM", "Probability"), 0, ("%", "UCUM", "%")))],
    "a count of 0": [ptx(sr.number(("1", "99SITE", "Number of lesions"), 0, ("1", "UCUM", "1")))],
    "a size of 0, stated present": [
        ptx(sr.code(sr.PRESENCE, sr.PRESENT), sr.number(("1", "DCM", "Diameter"), 0, ("mm", "UCUM", "mm")))
    ],
    "a broken reference": [ptx(by_reference(1, 99))],
    "mentioned here, absent there": [sr.group(ptx()), sr.group(sr.code(PTX, sr.ABSENT))],
    "an impression without a value, absent in the findings": [
        sr.container(("121070", "DCM", "Findings"), ptx(sr.code(sr.PRESENCE, sr.ABSENT))),
        sr.container(("121072", "DCM", "Impressions"), sr.code(sr.IMPRESSION, PTX)),
    ],
}


@pytest.mark.parametrize("content", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_evidence_against_a_finding_leaves_no_label(content: list[Dataset]) -> None:
    assert findings(*content) == {}


@pytest.mark.parametrize(
    "content",
    [
        [ptx()],
        [ptx(sr.code(sr.SITE, ("3120008", "SCT", "Pleural structure")), sr.code(OWN_NAME, ("1", "99SITE", "small")))],
        [ptx(sr.code(OWN_PRESENCE, ("RID28472", "RADLEX", "present")))],
        [ptx(sr.code(OWN_PRESENCE, ("J", "99SITE", "ja")))],
        [ptx(text("2 cm, apical, new. No effusion."))],
        [sr.group(ptx(), sr.number(("81827009", "SCT", "Diameter"), 12, ("mm", "UCUM", "mm")))],
        [sr.group(ptx(), sr.code(("260388006", "SCT", "Status since prior"), ("1", "99SITE", "no significant change")))],
        [sr.code(PTX, sr.PRESENT), sr.code(("125605004", "SCT", "Fracture"), sr.ABSENT)],
        [sr.container(("121070", "DCM", "Findings"), ptx()), sr.container(("11329-0", "LN", "History"), text("No pneumothorax."))],
        [sr.container(("18834-2", "LN", "Prior"), sr.code(PTX, sr.ABSENT)), ptx()],
    ],
)
def test_a_finding_without_evidence_against_it_is_present(content: list[Dataset]) -> None:
    assert findings(*content) == {"Pneumothorax": YES}


def test_findings_do_not_take_each_others_negations() -> None:
    content = [
        sr.container(
            ("121070", "DCM", "Findings"),
            ptx(sr.code(OWN_NAME, RADLEX_ABSENT, rel="HAS PROPERTIES")),
            sr.code(sr.FINDING, MASS, sr.code(OWN_NAME, sr.PRESENT)),
            sr.code(sr.FINDING, EDEMA),
        )
    ]
    assert findings(*content) == {"Pneumothorax": NO, "Mass": YES, "Edema": YES}


def test_unclear_findings_are_counted() -> None:
    document = read(sr.group(ptx(), text("absent")), sr.group(sr.code(MASS, sr.PRESENT)))
    assert (document.unclear, [reading.findings for reading in document.readings]) == (1, [{"Mass": YES}])
    assert read(sr.group(ptx(), text("absent"))).reason.startswith("states nothing clearly: 1 of the 14 findings")


def test_a_reports_own_absent_code_under_a_sites_name_is_no_positive_label() -> None:
    """The published input: Finding = Pneumothorax, and below it a CODE named PRESENCE (99SITE) = RID28473."""
    document = DicomDocumentReader(DocumentSettings()).read(shared("faults/sr_absent_other_name.dcm").read_bytes())
    states = [reading.findings.get("Pneumothorax") for reading in document.readings]
    assert states in ([], [NO])


NEGATIONS = [
    lambda: sr.code(OWN_NAME, RADLEX_ABSENT),
    lambda: sr.code(sr.PRESENCE, sr.ABSENT),
    lambda: sr.code(OWN_PRESENCE, ("415684004", "SCT", "Suspected")),
    lambda: text("no pneumothorax"),
]
FILLERS = [
    lambda: sr.code(OWN_NAME, ("1", "99SITE", "small")),
    lambda: text("as described"),
    lambda: sr.code(sr.SITE, ("39607008", "SCT", "Lung")),
    lambda: sr.code(sr.PRESENCE, sr.PRESENT),
    lambda: sr.code(MASS, sr.PRESENT),
    lambda: sr.number(("81827009", "SCT", "Diameter"), 3, ("mm", "UCUM", "mm")),
]


@given(
    st.sampled_from(NEGATIONS),
    st.lists(st.sampled_from(FILLERS), max_size=3),
    st.integers(0, 3),
    st.lists(st.sampled_from(["container", "code"]), max_size=3),
    st.sampled_from(RELATIONSHIPS),
)
def test_no_arrangement_of_a_negation_below_a_finding_gives_present(
    negation: Any, fillers: list[Any], position: int, wrapped: list[str], relationship: str
) -> None:
    item = negation()
    item.RelationshipType = relationship or "CONTAINS"
    if item.ValueType == "TEXT" and "CONTEXT" in relationship:
        item.RelationshipType = "CONTAINS"
    for kind in wrapped:
        item = sr.container(OWN_NAME, item) if kind == "container" else sr.code(OWN_NAME, ("1", "99SITE", "see"), item)
    below = [filler() for filler in fillers]
    below.insert(position, item)
    assert findings(ptx(*below)).get("Pneumothorax") is not YES


def test_many_sibling_findings_cost_linear_time() -> None:
    items = 1_200
    content = [sr.code(sr.FINDING, PTX, sr.code(sr.PRESENCE, sr.ABSENT)) for _ in range(items)]
    encoded = file_of(sr.report(*sr.person(), *content))
    started_at = time.process_time()
    document = DicomDocumentReader(DocumentSettings()).read(encoded)
    assert [reading.findings for reading in document.readings] == [{"Pneumothorax": NO}]
    assert time.process_time() - started_at < 0.01 * items  # quadratic reading takes 29 s for 400 items


@pytest.mark.parametrize("undefined_length", [False, True])
def test_nesting_beyond_the_bound_gives_a_reason(undefined_length: bool) -> None:
    deep = ptx()
    for _ in range(150):
        deep = sr.container(sr.GROUP, deep)
        if undefined_length:
            deep["ContentSequence"].is_undefined_length = True
    assert read(deep).reason == f"is nested more than {content_tree.MAX_DEPTH} levels deep"


def test_items_seconds_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    report = file_of(sr.report(*sr.person(), *[ptx() for _ in range(50)]))
    assert DicomDocumentReader(DocumentSettings(), max_seconds=-1).read(report).reason.startswith("takes more than")
    monkeypatch.setattr(content_tree, "MAX_ITEMS", 40)
    assert DicomDocumentReader(DocumentSettings()).read(report).reason == "has more than 40 content items"
    large = sr.report(*sr.person(), text("x" * (1 << 24)))
    assert DicomDocumentReader(DocumentSettings()).read(file_of(large)).reason == "is larger than 16 MiB"


def test_a_document_that_is_only_large_when_inflated_gives_a_reason() -> None:
    dataset = dcmread(BytesIO(file_of(sr.report(*sr.person(), text("x" * (1 << 24))))))
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1.99")
    stream = BytesIO()
    dataset.save_as(stream)
    assert len(stream.getvalue()) < 1 << 20
    reason = DicomDocumentReader(DocumentSettings()).read(stream.getvalue()).reason
    assert "inflates to more than 16777216" in reason
