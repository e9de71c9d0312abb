"""The card: one page of pixels with the film small, the findings with bands against their operating points, and the statement."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from adapters.dicom.visible.drawing import (
    AMBER,
    BLACK,
    FAINT,
    GREY,
    ORANGE,
    PARAGRAPH,
    SIZES,
    WHITE,
    Canvas,
    Colour,
    stacked_height,
)
from adapters.ipc.decoded_image import DeferredImage
from pipeline.domain import Decision
from pipeline.domain import Image as Film
from pipeline.statements import FIRST_FINDINGS, FindingStatement, StudyStatement

EDGE = 768
"""Width and height of the card. Its smallest letters keep ten pixels where it is shown at 512."""
MARGIN = 16
THUMBNAIL = (250, 300)
TOP = 52
"""y of the film and of the words beside it."""
ROW = 26
TRACK = (210, 430)
"""x of the ends of the line on which a finding stands; its middle is the finding's own operating point."""
TRACK_LOG_ODDS = 3.0
"""Distance from the operating point at which a mark reaches the end of the line."""
MARKS: dict[Decision, Colour] = {Decision.PRESENT: ORANGE, Decision.ABSENT: GREY, Decision.UNDETERMINED: BLACK}

RgbPixels = npt.NDArray[np.uint8]


def shrink_film(image: Film | DeferredImage) -> Film:
    """Return the film as float32 [h, w] in 0..1, as large as THUMBNAIL allows: a transform of the decoding process."""
    whole = Image.fromarray(np.uint8(np.clip(image[:], 0, 1) * 255 + 0.5))
    small = ImageOps.contain(whole, THUMBNAIL, Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def draw_card(statement: StudyStatement, film: Film | None, *, made_at: datetime) -> RgbPixels:
    """Return the card as uint8 [768, 768, 3]. `film`: as `shrink_film` returns it; None: it could not be decoded."""
    canvas = Canvas(EDGE, EDGE)
    canvas.write(MARGIN, 10, statement.title, size=26)
    _draw_film(canvas, film)
    y = EDGE - MARGIN - len(statement.findings) * ROW
    _write_summary(canvas, statement, f"{statement.version_line} {made_at:%Y-%m-%d %H:%M}", bottom=y - 2 * MARGIN)
    canvas.draw.line((MARGIN, y - 8, EDGE - MARGIN, y - 8), fill=FAINT)
    for told in statement.findings:
        _draw_finding(canvas, y, told)
        y += ROW
    return np.asarray(canvas.image)


def _draw_film(canvas: Canvas, film: Film | None) -> None:
    width, height = THUMBNAIL
    if film is None:
        canvas.draw.rectangle((MARGIN, TOP, MARGIN + width, TOP + height), outline=FAINT)
        return
    thumbnail = Image.fromarray(np.uint8(film * 255 + 0.5))
    canvas.image.paste(thumbnail, (MARGIN + (width - thumbnail.width) // 2, TOP))


def _write_summary(canvas: Canvas, statement: StudyStatement, made: str, *, bottom: int) -> None:
    """Write beside the film, above `bottom`: the restriction and the marking, the summary, version and date."""
    x = MARGIN + THUMBNAIL[0] + MARGIN
    width = EDGE - MARGIN - x
    warnings = [text for text in (statement.research_only, statement.notice) if text]
    told = list(statement.summary[: 1 + FIRST_FINDINGS])  # what is not assessed stands in the list
    height = bottom - TOP
    size = next((size for size in SIZES if stacked_height([*warnings, *told, made], width=width, size=size) <= height), SIZES[-1])
    y = TOP
    for text, colour in [*((text, AMBER) for text in warnings), *((text, WHITE) for text in told), (made, GREY)]:
        y = canvas.write_wrapped(x, y, text, width=width, size=size, colour=colour) + PARAGRAPH


def _draw_finding(canvas: Canvas, y: int, told: FindingStatement) -> None:
    colour = ORANGE if told.decision is Decision.PRESENT else WHITE
    canvas.write(MARGIN, y, told.name, size=18, colour=colour)
    left, right = TRACK
    if told.excess is None:
        canvas.write_fitting(left, y + 1, f"{told.decision_words}: {told.reason_words}", width=EDGE - MARGIN - left, colour=GREY)
        return
    middle, level = (left + right) // 2, y + ROW // 2 - 2
    canvas.draw.line((left, level, right, level), fill=FAINT, width=2)
    canvas.draw.line((middle, level - 8, middle, level + 8), fill=WHITE, width=2)
    share = min(max(told.excess / TRACK_LOG_ODDS, -1.0), 1.0)
    mark = middle + round(share * (right - middle))
    canvas.draw.ellipse((mark - 6, level - 6, mark + 6, level + 6), fill=MARKS[told.decision], outline=colour, width=2)
    x = right + MARGIN
    canvas.write_fitting(x, y + 1, f"{told.band_words}, {told.decision_words}", width=EDGE - MARGIN - x, colour=colour)
