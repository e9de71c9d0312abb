"""The card: a Secondary Capture with the film, the findings and the statement in its pixels."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest

from adapters.dicom.image import part10
from adapters.dicom.sr.document import SERIES_DESCRIPTION, ReportSettings
from adapters.dicom.sr.writer import SrWriter
from adapters.dicom.visible import drawing
from adapters.dicom.visible.card import EDGE, MARGIN, ROW, THUMBNAIL, TOP, TRACK, draw_card, shrink_film
from adapters.dicom.visible.drawing import ORANGE, SIZES, Canvas, measure, wrap
from pipeline import rules
from pipeline.domain import Decision, VisibleKind
from pipeline.messages import languages
from pipeline.statements import StudyStatement
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.images import FakeImageStore
from tests.builders.report_of import a_card_version, content_of, report_on, told_of, visible_on

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def statement_of(language: str = "en", *, has_reference: bool = True, notice: str = "demo model, phantoms only") -> StudyStatement:
    store = FakeImageStore()
    version = a_card_version(notice=notice)
    content = content_of([file_of(dx())], store, SrWriter(ReportSettings(), store), version, has_reference=has_reference)
    return told_of(content, content.predictions, language).statement


def row_of(pixels: npt.NDArray[np.uint8], place: int) -> npt.NDArray[np.uint8]:
    top = EDGE - MARGIN - 14 * ROW + place * ROW
    return pixels[top : top + ROW - 4]


def test_it_is_a_secondary_capture_of_the_study_in_a_series_of_its_own() -> None:
    film = dx(StudyDescription="Chest")
    other = dx(StudyInstanceUID=film.StudyInstanceUID, InstanceNumber=2)
    card, report = visible_on(film, other, kind=VisibleKind.CARD), report_on(film)
    assert card.SOPClassUID == card.file_meta.MediaStorageSOPClassUID == rules.SECONDARY_CAPTURE
    assert (card.PatientID, card.StudyInstanceUID, card.StudyDescription) == (film.PatientID, film.StudyInstanceUID, "Chest")
    assert (card.PhotometricInterpretation, card.BitsAllocated, card.Rows, card.Columns) == ("RGB", 8, EDGE, EDGE)
    assert "NumberOfFrames" not in card
    assert (card.BurnedInAnnotation, card.ConversionType, card.Modality) == ("YES", "WSD", "OT")
    assert [item.ReferencedSOPInstanceUID for item in card.SourceImageSequence] == [film.SOPInstanceUID, other.SOPInstanceUID]
    assert card.SeriesDescription.startswith(SERIES_DESCRIPTION)
    assert (card.ManufacturerModelName, card.SeriesNumber) == (rules.OWN_MODEL_NAME, 9003)
    assert len({card.SeriesInstanceUID, report.SeriesInstanceUID, film.SeriesInstanceUID}) == 3
    assert not card.PatientOrientation


def test_its_modality_is_configurable_and_it_is_never_taken_for_a_radiograph() -> None:
    card = visible_on(dx(), kind=VisibleKind.CARD, card_modality="DX")
    header = part10.read_header(*part10.split_file(file_of(card)))
    assert card.Modality == "DX"
    assert rules.is_own_object(header)
    assert not rules.opens_study(header)
    assert rules.exclusion_reason(header, rules.ChestPolicy()) == "object that is no radiograph"


def test_it_is_the_same_object_when_it_is_built_again_and_another_in_the_next_revision() -> None:
    film = dx()
    first, again, second = (visible_on(film, kind=VisibleKind.CARD, follows=follows) for follows in (False, False, True))
    assert first.SOPInstanceUID == again.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


def test_it_shows_the_film_and_no_identity_of_the_patient() -> None:
    """Two patients with the same picture have the same card: nothing of the header is in the pixels."""
    film = dx()
    other = dx(PatientName="OTHER^NAME", PatientID="OTHER", AccessionNumber="OTHER", PatientBirthDate="19010101")
    shown, hidden = (visible_on(one, kind=VisibleKind.CARD).pixel_array for one in (film, other))
    differing = np.argwhere((shown != hidden).any(axis=2))
    assert shown[TOP : TOP + 40, MARGIN : MARGIN + 40].any()
    assert len(differing) == 0 or differing[:, 0].max() < EDGE - MARGIN - 14 * ROW  # the minute may have changed


def test_a_film_that_cannot_be_decoded_holds_back_no_card() -> None:
    broken = dx()
    broken.PixelData = broken.PixelData[:10]
    card = visible_on(broken, kind=VisibleKind.CARD)
    assert not card.pixel_array[TOP + 10 : TOP + 200, MARGIN + 10 : MARGIN + 200].any()
    assert card.pixel_array[:, 300:].any()


@pytest.mark.parametrize("shape", [(3000, 2500), (64, 64), (100, 1000)])
def test_a_film_keeps_its_proportions(shape: tuple[int, int]) -> None:
    small = shrink_film(np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape))
    assert small.dtype == np.float32
    assert small.shape[1] <= THUMBNAIL[0]
    assert small.shape[0] <= THUMBNAIL[1]
    assert small.shape[0] / small.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.03)
    assert small.min() < 0.05 < 0.95 < small.max()


def test_findings_above_their_operating_point_and_no_others_are_orange() -> None:
    statement = statement_of()
    pixels = draw_card(statement, None, made_at=NOON)
    orange = [bool((row_of(pixels, place) == ORANGE).all(axis=2).any()) for place in range(14)]
    assert orange == [told.decision is Decision.PRESENT for told in statement.findings]
    assert orange.count(True) == 1


def test_the_mark_lies_on_the_side_of_the_operating_point_that_the_words_say() -> None:
    statement = statement_of()
    above = replace(statement.findings[0], excess=1.5)
    pixels = draw_card(replace(statement, findings=(above, *statement.findings[1:])), None, made_at=NOON)
    track = (row_of(pixels, 0)[:, TRACK[0] : TRACK[1]] == ORANGE).all(axis=2).any(axis=0).nonzero()[0]
    assert track.min() > (TRACK[1] - TRACK[0]) / 2
    below = row_of(pixels, 13)[:, TRACK[0] : TRACK[1]].max(axis=2).max(axis=0)
    assert below[: (TRACK[1] - TRACK[0]) // 2].max() > 200


@pytest.mark.parametrize("has_font", [True, False], ids=["Debian's font", "Pillow's font"])
@pytest.mark.parametrize("has_reference", [True, False], ids=["assessed", "not assessed"])
@pytest.mark.parametrize("language", languages())
def test_no_words_are_cut_off(language: str, has_reference: bool, has_font: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_font:
        monkeypatch.setattr(drawing, "FONT_FILES", ())
    drawing._choose_font.cache_clear()
    try:
        pixels = draw_card(statement_of(language, has_reference=has_reference), None, made_at=NOON)
    finally:
        drawing._choose_font.cache_clear()
    assert pixels.shape == (EDGE, EDGE, 3)
    assert not pixels[:, EDGE - MARGIN // 2 :].any()
    assert not pixels[EDGE - MARGIN - 14 * ROW - 7 : EDGE - MARGIN - 14 * ROW].any()  # between line and list


def test_text_is_wrapped_to_the_width_and_shrunk_to_fit() -> None:
    lines = wrap("one two three four five", width=measure("one two", 16), size=16)
    assert lines[0] == "one two"
    assert " ".join(lines) == "one two three four five"
    canvas = Canvas(100, 20)
    canvas.write_fitting(0, 0, "a long text", width=measure("a long text", SIZES[-1]))
    assert np.asarray(canvas.image)[:, 90:].sum() == 0


def test_words_differ_with_the_language() -> None:
    cards = [draw_card(statement_of(language), None, made_at=NOON) for language in languages()]
    assert len({card.tobytes() for card in cards}) == len(cards)


def test_the_marking_is_in_the_pixels() -> None:
    marked, unmarked = (draw_card(statement_of(notice=notice), None, made_at=NOON) for notice in ("UNTRAINED", ""))
    assert (marked != unmarked).any()
