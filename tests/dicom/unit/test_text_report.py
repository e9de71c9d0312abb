"""The text report: a Basic Text SR that says what the SR says."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from adapters.dicom.sr.document import SERIES_DESCRIPTION
from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings
from pipeline import rules
from pipeline.domain import Scale
from pipeline.messages import languages, load_messages
from tests.builders.dicom_files import dx, file_of
from tests.builders.report_of import LEARNT, a_card_version, report_on, visible_on

IMPRESSION, FINDING = "121073", "121071"


def text_of(report: Dataset, value: str) -> list[str]:
    """The lines of the section's TEXT item with this name."""
    sections = (item for item in report.ContentSequence if item.ValueType == "CONTAINER")
    (text,) = (
        one.TextValue
        for section in sections
        for one in section.ContentSequence
        if one.ConceptNameCodeSequence[0].CodeValue == value
    )
    return str(text).split("\r\n")


def test_it_is_a_basic_text_sr_in_a_series_of_its_own() -> None:
    film = dx()
    report, text = report_on(film), visible_on(film)
    assert text.SOPClassUID == text.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert text.SOPInstanceUID == text.file_meta.MediaStorageSOPInstanceUID
    assert len({report.SOPInstanceUID, text.SOPInstanceUID, report.SeriesInstanceUID, text.SeriesInstanceUID}) == 4
    assert (text.SeriesNumber, report.SeriesNumber) == (9002, 9001)
    assert text.SeriesDescription.startswith(SERIES_DESCRIPTION)
    assert (text.PatientID, text.StudyInstanceUID, text.Modality) == (film.PatientID, film.StudyInstanceUID, "SR")
    assert (text.CompletionFlag, text.VerificationFlag, text.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert "ContentTemplateSequence" not in text
    assert text.ConceptNameCodeSequence[0].CodeValue != "126000"
    assert text.ConceptNameCodeSequence[0].CodeMeaning.startswith("AI")
    assert {item.ValueType for item in text.ContentSequence} <= {"CODE", "TEXT", "UIDREF", "CONTAINER"}  # PS3.3 A.35.1.3


def test_the_films_are_its_evidence() -> None:
    film = dx()
    other = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    (study,) = visible_on(film, other).CurrentRequestedProcedureEvidenceSequence
    named = {one.ReferencedSOPInstanceUID for series in study.ReferencedSeriesSequence for one in series.ReferencedSOPSequence}
    assert named == {film.SOPInstanceUID, other.SOPInstanceUID}


def test_the_impression_is_the_statement_on_research_use_the_marking_and_the_summary() -> None:
    lines = text_of(visible_on(dx(), version=a_card_version(notice="UNTRAINED", scales=LEARNT)), IMPRESSION)
    assert lines[:3] == [
        "Research use only. Not for diagnostic use. Preliminary, unverified output of an algorithm.",
        "UNTRAINED: the results of this model carry no medical meaning.",
        "Above its operating point: Atelectasis, Cardiomegaly.",
    ]
    assert lines[-1] == "Model version 1 (zero-shot-1)."


def test_the_findings_are_a_list_of_fixed_width() -> None:
    lines = text_of(visible_on(dx(), version=a_card_version(scales={"Mass": Scale.BAND})), FINDING)
    assert len(lines) == 14
    assert lines[0].startswith("Atelectasis         above its operating point  ")
    assert lines[0].endswith("among the highest 3.2 % of this hospital's films")
    columns = {line.index(word) for line in lines for word in ("above its", "below its", "undetermined") if word in line}
    assert len(columns) == 1
    (mass,) = (line for line in lines if line.startswith("Mass"))
    assert mass.endswith("unlikely")  # a band has no number


def test_what_is_not_assessed_says_why() -> None:
    lines = text_of(visible_on(dx(), has_reference=False), FINDING)
    assert all(line.endswith("not assessed  fewer than 200 studies of this hospital scored so far") for line in lines)


def test_a_second_revision_names_the_text_of_the_first() -> None:
    film = dx()
    first, second = visible_on(film), visible_on(film, follows=True)
    assert "PredecessorDocumentsSequence" not in first
    named = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    reference = named.ReferencedSOPSequence[0]
    assert (reference.ReferencedSOPInstanceUID, reference.ReferencedSOPClassUID) == (first.SOPInstanceUID, first.SOPClassUID)
    assert named.SeriesInstanceUID == first.SeriesInstanceUID == second.SeriesInstanceUID


def test_it_is_the_same_object_when_it_is_built_again() -> None:
    film = dx()
    assert visible_on(film).SOPInstanceUID == visible_on(film).SOPInstanceUID


@pytest.mark.parametrize("maker", [rules.OWN_MODEL_NAME, "Broker 2000"])
def test_the_label_reader_refuses_it(maker: str) -> None:
    text = visible_on(dx())
    text.ManufacturerModelName = maker
    document = DicomDocumentReader(DocumentSettings()).read(file_of(text))
    assert (document.readings, document.reason) == ((), "is a report of radclipd, or a copy of one")


@pytest.mark.parametrize("language", languages())
def test_it_speaks_every_language(language: str) -> None:
    text = visible_on(dx(), language=language)
    assert text_of(text, IMPRESSION)[0] == load_messages(language)("report.research_only")
    assert text.ConceptNameCodeSequence[0].CodeMeaning == load_messages(language)("report.title")
    (code,) = (i.ConceptCodeSequence[0] for i in text.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121049")
    assert code.CodeValue.split("-")[0] == language
