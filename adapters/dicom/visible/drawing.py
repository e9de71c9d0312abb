"""Text on a canvas of RGB pixels: fonts, wrapping, colours."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_FILES = (Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),)
"""Letters of many alphabets: Debian's fonts-dejavu-core. Without it the font of Pillow draws letters without accents."""
SIZES = (17, 16, 15, 14, 13, 12)
"""Sizes of words that must fit: the largest is tried first."""
PARAGRAPH = 4
"""Pixels between two texts, one below the other."""

Colour = tuple[int, int, int]
BLACK, WHITE, GREY, FAINT = (0, 0, 0), (235, 235, 235), (150, 150, 150), (70, 70, 70)
AMBER, ORANGE = (255, 200, 60), (255, 140, 40)


class Canvas:
    """A picture on which words are drawn. Coordinates are pixels from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), BLACK)
        self.draw = ImageDraw.Draw(self.image)

    def write(self, x: int, y: int, text: str, *, size: int, colour: Colour = WHITE) -> None:
        """Write one line."""
        font, plain = _choose_font(size)
        self.draw.text((x, y), _strip_accents(text) if plain else text, font=font, fill=colour)

    def write_fitting(self, x: int, y: int, text: str, *, width: int, colour: Colour = WHITE) -> None:
        """Write one line in the largest of SIZES below 16 in which it is at most `width` wide."""
        size = next((size for size in SIZES[2:] if measure(text, size) <= width), SIZES[-1])
        self.write(x, y, text, size=size, colour=colour)

    def write_wrapped(self, x: int, y: int, text: str, *, width: int, size: int, colour: Colour = WHITE) -> int:
        """Write text in lines of at most `width`; return the y below the last one."""
        for line in wrap(text, width=width, size=size):
            self.write(x, y, line, size=size, colour=colour)
            y += line_height(size)
        return y


def stacked_height(texts: Sequence[str], *, width: int, size: int) -> int:
    """Return the height of wrapped texts, one below the other."""
    return sum(len(wrap(text, width=width, size=size)) * line_height(size) + PARAGRAPH for text in texts)


def line_height(size: int) -> int:
    """Return the distance of two lines."""
    return round(1.3 * size)


def measure(text: str, size: int) -> int:
    """Return the width of a line."""
    font, plain = _choose_font(size)
    return round(font.getlength(_strip_accents(text) if plain else text))


def wrap(text: str, *, width: int, size: int) -> list[str]:
    """Return text in lines of at most `width`. A word that is longer stands on a line of its own."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and measure(longer, size) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line] if line else lines


@cache
def _choose_font(size: int) -> tuple[ImageFont.FreeTypeFont, bool]:
    """Return a font, and whether it has no letters with accents."""
    for path in FONT_FILES:
        if path.exists():
            return ImageFont.truetype(path, size), False
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font, True


def _strip_accents(text: str) -> str:
    """Return text in the letters that every font has."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(c for c in decomposed if not unicodedata.combining(c))
