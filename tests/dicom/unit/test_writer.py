"""The content of a report, and faults that validators do not detect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from highdicom.sr import srread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from adapters.dicom.sr.document import SR_CLASS_UIDS
from adapters.dicom.sr.uids import MAX_UID_LENGTH, derived_uid, report_uid, tracking_uid
from pipeline import rules
from pipeline.domain import FINDINGS, Scale
from pipeline.errors import ReportImpossible
from tests.builders.dicom_files import dx, stream_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.report_of import LEARNT, a_card_version, content_of, report_on


def items(node: Dataset, value: str) -> list[Dataset]:
    """All content items below `node` whose concept name has this code value."""
    return [item for item in _walk(node) if _name(item) == value]


def _walk(node: Dataset) -> Iterator[Dataset]:
    for item in node.get("ContentSequence", []):
        yield item
        yield from _walk(item)


def _name(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""


def faults_of(report: Dataset, film: Dataset) -> list[str]:
    """Semantic assertions on a report beyond those of the validators."""
    groups = items(report, "125007")
    faults = []
    if len(groups) != len(FINDINGS):
        faults.append("14 groups")
    if any(not items(group, "112039") or not items(group, "112040") for group in groups):
        faults.append("tracking pair")
    numbers = [item.MeasuredValueSequence[0] for group in groups for item in group.ContentSequence if item.ValueType == "NUM"]
    ranges = {"%": 100.0, "{0:1}": 1.0}
    units = [number.MeasurementUnitsCodeSequence[0].CodeValue for number in numbers]
    if any(unit not in ranges for unit in units):
        faults.append("unit")
    elif any(not 0 <= float(n.NumericValue) <= ranges[unit] for n, unit in zip(numbers, units, strict=True)):
        faults.append("range")
    if not items(report, "121058"):
        faults.append("procedure reported")
    evidence = {
        reference.ReferencedSOPInstanceUID
        for study in report.get("CurrentRequestedProcedureEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    if evidence != {film.SOPInstanceUID}:
        faults.append("evidence")
    if (report.PatientID, report.StudyInstanceUID) != (film.PatientID, film.StudyInstanceUID):
        faults.append("patient and study")
    return faults


def test_a_report_has_the_required_content() -> None:
    film = dx()
    report = report_on(film)
    assert faults_of(report, film) == []
    assert (report.Modality, report.SOPClassUID) == ("SR", SR_CLASS_UIDS["comprehensive-3d"])
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert report.ManufacturerModelName == rules.OWN_MODEL_NAME
    assert report.SeriesNumber == 9001
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.TimezoneOffsetFromUTC
    assert any("Research use only" in item.TextValue for item in items(report, "121106"))


def _drop_tracking(report: Dataset) -> None:
    group = items(report, "125007")[3]
    group.ContentSequence = [item for item in group.ContentSequence if _name(item) not in ("112039", "112040")]


def _drop_procedure(report: Dataset) -> None:
    report.ContentSequence = [item for item in report.ContentSequence if _name(item) != "121058"]


def _wrong_unit(report: Dataset) -> None:
    items(report, "121415")[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "1"


def _out_of_range(report: Dataset) -> None:
    items(report, "121415")[0].MeasuredValueSequence[0].NumericValue = "101"


def _drop_evidence(report: Dataset) -> None:
    del report.CurrentRequestedProcedureEvidenceSequence


def _other_patient(report: Dataset) -> None:
    report.PatientID = "OTHER"


@pytest.mark.parametrize(
    ("mutate", "fault"),
    [
        (_drop_tracking, "tracking pair"),
        (_drop_procedure, "procedure reported"),
        (_wrong_unit, "unit"),
        (_out_of_range, "range"),
        (_drop_evidence, "evidence"),
        (_other_patient, "patient and study"),
    ],
)
def test_each_semantic_fault_is_detected(mutate: Callable[[Dataset], None], fault: str) -> None:
    film = dx()
    report = report_on(film)
    mutate(report)
    assert faults_of(report, film) == [fault]


def test_each_scale_has_a_number_of_its_own() -> None:
    """A probability is a ratio, a rank is a percentile, a band has no number; none is a certainty."""
    scales = {"Atelectasis": Scale.PROBABILITY, "Cardiomegaly": Scale.BAND}
    report = report_on(dx(), version=a_card_version(scales=scales))
    (probability,), ranks = items(report, "122157"), items(report, "121415")
    assert (len(ranks), len(items(report, "111012"))) == (12, 0)
    value, ranked = probability.MeasuredValueSequence[0], ranks[0].MeasuredValueSequence[0]
    units = [one.MeasurementUnitsCodeSequence[0].CodeValue for one in (value, ranked)]
    assert units == ["{0:1}", "%"]
    assert float(value.NumericValue) == pytest.approx(0.97)
    assert float(ranked.NumericValue) == pytest.approx(33, abs=1)


def test_decisions_are_reported_under_the_code_of_the_finding() -> None:
    report = report_on(dx(), version=a_card_version(scales=LEARNT))
    decisions = {_name(item): item.ConceptCodeSequence[0].CodeMeaning for item in items(report, "46621007")}
    assert decisions == {"46621007": "Present"}
    assert items(report, "39839004")[0].ConceptCodeSequence[0].CodeMeaning == "Absent"
    assert items(report_on(dx()), "39839004")[0].ConceptCodeSequence[0].CodeMeaning == "Undetermined"


def test_the_findings_stand_in_the_order_of_the_statement() -> None:
    groups = items(report_on(dx()), "125007")
    identifiers = [items(group, "112039")[0].TextValue for group in groups]
    assert identifiers[:2] == ["radclipd/Atelectasis", "radclipd/Cardiomegaly"]
    assert identifiers[-1] == "radclipd/Effusion"  # the lowest score


def test_what_is_not_assessed_has_a_reason_and_neither_group_nor_number_nor_presence() -> None:
    report = report_on(dx(), has_reference=False, version=a_card_version(scales={"Mass": Scale.PROBABILITY}))
    (group,) = items(report, "125007")
    assert items(group, "112039")[0].TextValue == "radclipd/Mass"
    (section,) = items(report, "C0034375")
    values = {item.ConceptCodeSequence[0].CodeMeaning for item in section.ContentSequence}
    assert (len(section.ContentSequence), values) == (13, {"Not Evaluated"})
    reasons = [item.TextValue for item in items(section, "121106")]
    assert len(reasons) == 13
    assert all("not assessed, fewer than 200 studies" in reason for reason in reasons)


def test_a_study_of_which_nothing_is_assessed_has_no_measurements() -> None:
    report = report_on(dx(), has_reference=False)
    assert (items(report, "125007"), items(report, "126010")) == ([], [])
    assert len(items(report, "C0034375")[0].ContentSequence) == 14
    read: Any = srread(stream_of(report))
    assert read.content.get_image_measurement_groups() == []


def test_absent_findings_can_be_excluded() -> None:
    assert len(items(report_on(dx(), include_absent=False, version=a_card_version(scales=LEARNT)), "125007")) == 2


def test_the_summary_precedes_everything_that_is_no_context() -> None:
    report = report_on(dx(), version=a_card_version(notice="UNTRAINED"))
    contained = [item for item in report.ContentSequence if item.RelationshipType == "CONTAINS"]
    assert _name(contained[0]) == "121111"
    lines = [item.TextValue for item in contained[0].ContentSequence]
    assert lines[0].startswith("Research use only")
    assert lines[1].startswith("UNTRAINED")
    assert lines[2] == "Above its operating point: Atelectasis."
    assert [line[:3] for line in lines[3:6]] == ["1. ", "2. ", "3. "]


def test_the_title_says_ai_and_is_none_that_selects_a_measurement_viewport() -> None:
    title = report_on(dx()).ConceptNameCodeSequence[0]
    assert title.CodeValue != "126000"
    assert title.CodeMeaning.startswith("AI")


def test_every_container_has_separate_items() -> None:
    report = report_on(dx())
    containers = [item for item in _walk(report) if item.ValueType == "CONTAINER"]
    assert len(containers) > 14
    assert {item.ContinuityOfContent for item in (report, *containers)} == {"SEPARATE"}


def test_the_parameters_of_the_algorithm_stand_once() -> None:
    report = report_on(dx(), version=a_card_version(scales={"Mass": Scale.PROBABILITY}))
    parameters = [item.TextValue for item in items(report, "111002") if item.ValueType == "TEXT"]
    assert len({text.split(" = ")[0] for text in parameters}) == len(parameters)
    assert "reference distribution = 3" in parameters
    (points,) = (text for text in parameters if text.startswith("operating points"))
    assert "Mass 0.5000" in points
    assert "Hernia 0.9500" in points  # the percentile of a finding that may be called in 5 %
    assert all(not items(group, "111002") and not items(group, "111000") for group in items(report, "125007"))


def test_the_device_observer_is_the_model_version() -> None:
    version = a_card_version(device_uid="2.25.77")
    report = report_on(dx(), version=version)
    assert items(report, "121012")[0].UID == "2.25.77"
    parameters = {item.TextValue for item in items(report, "111002") if item.ValueType == "TEXT"}
    assert {"weights SHA-256 = " + "ab" * 32, "preprocessing = " + "p" * 16} <= parameters


def test_the_notice_of_a_version_is_in_series_description_and_content() -> None:
    report = report_on(dx(), version=a_card_version(notice="UNTRAINED"))
    assert report.SeriesDescription == "AI chest findings - research only - UNTRAINED"
    assert any(item.TextValue.startswith("UNTRAINED") for item in items(report, "121106"))
    assert "notice = UNTRAINED" in {item.TextValue for item in items(report, "111002") if item.ValueType == "TEXT"}


def test_a_later_revision_references_its_predecessor() -> None:
    film = dx()
    first, second = report_on(film), report_on(film, follows=True)
    assert "PredecessorDocumentsSequence" not in first
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert (named.ReferencedSOPInstanceUID, named.ReferencedSOPClassUID) == (first.SOPInstanceUID, first.SOPClassUID)
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


def test_several_images_are_all_evidence_and_sources() -> None:
    film = dx()
    other = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    report = report_on(film, other)
    groups = items(report, "125007")
    assert len(groups) == 14
    assert {len(items(group, "121112")) + len(items(group, "121233")) for group in groups} <= {2}


def test_a_report_built_twice_has_the_same_uids() -> None:
    film = dx()
    first, second = report_on(film), report_on(film)
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert [i.UID for i in items(first, "112040")] == [i.UID for i in items(second, "112040")]


@pytest.mark.parametrize("name", SR_CLASS_UIDS)
def test_every_configurable_sop_class_is_written(name: str) -> None:
    film = dx()
    report = report_on(film, sop_class=name)
    assert report.SOPClassUID == SR_CLASS_UIDS[name]
    assert faults_of(report, film) == []


def test_highdicoms_plain_getters_read_number_and_presence() -> None:
    """As its documentation shows: the getters without a name give one of each."""
    report: Any = srread(stream_of(report_on(dx(), version=a_card_version(scales=LEARNT))))
    groups = report.content.get_image_measurement_groups()
    assert len(groups) == 14
    read = []
    for group in groups:
        (number,) = group.get_measurements()
        (presence,) = group.get_qualitative_evaluations()
        (named,) = group.get_qualitative_evaluations(name=group.finding_type)
        assert (named.name, named.value) == (presence.name, presence.value)
        read.append((group.finding_type.meaning, number.name.meaning, number.value, number.unit.meaning, presence.value.meaning))
    assert read[0] == ("Atelectasis", "Probability", pytest.approx(0.97), "range: 0:1", "Present")
    assert read[-1] == ("Pleural effusion", "Probability", 0.0, "range: 0:1", "Absent")


def test_a_study_without_a_scored_image_is_refused() -> None:
    from adapters.dicom.sr.document import ReportSettings
    from adapters.dicom.sr.writer import SrWriter

    store = FakeImageStore()
    writer = SrWriter(ReportSettings(), store)
    content = content_of([stream_of(dx()).getvalue()], store, writer, a_card_version())
    object.__setattr__(content, "evidence", [])
    with pytest.raises(ReportImpossible, match="no scored image"):
        writer.write(content)


def test_derived_uids_differ_by_every_part_and_are_valid() -> None:
    study = generate_uid()
    uids = {report_uid(root, study, v, r) for root in ("", "1.2.826.0.1.3680043.10.999") for v in (1, 2) for r in (1, 2)}
    assert len(uids) == 8
    assert all(
        len(uid) <= MAX_UID_LENGTH and not any(part != "0" and part.startswith("0") for part in uid.split(".")) for uid in uids
    )
    assert tracking_uid("", study, "Mass") == tracking_uid("", study, "Mass") != tracking_uid("", study, "Nodule")
    assert derived_uid("", "ab", "c") != derived_uid("", "a", "bc")
