"""Contact sheet of the simulator: a normal chest and each finding, slight and gross, with captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from adapters.simulator import phantom
from adapters.simulator.sites import Site, find_site
from pipeline.domain import FINDINGS

SLIGHT, GROSS = 0.3, 0.85
"""Extents at which each finding is shown."""
PAIRS_PER_ROW = 3
TILE, CAPTION, GAP = 200, 18, 4
"""Edge of a film, height of a caption, gap between films; pixels."""
GREY_LEVEL_COUNTS = (64, 48, 32, 24, 16)
"""Numbers of grey levels, tried in descending order until the file is small enough."""
MAX_BYTES = 400_000
"""Maximum file size, bytes."""


def contact_sheet(path: Path, *, site: Site | str = "north", seed: int = 0) -> None:
    """Write a PNG of at most MAX_BYTES: a normal film PA and AP, then all findings, slight beside gross, of one site.

    A pair shows the same person. The same seed gives the same picture. KeyError for an unknown site.
    """
    films = list(_take_captioned_films(find_site(site), seed))
    columns = 2 * PAIRS_PER_ROW
    rows = -(-len(films) // columns)
    width, height = columns * (TILE + GAP) + GAP, rows * (TILE + CAPTION + GAP) + GAP
    sheet = PillowImage.new("L", (width, height), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, (caption, tile) in enumerate(films):
        row, column = divmod(index, columns)
        x, y = GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)
        pen.text((x + TILE / 2, y + CAPTION / 2), caption, fill=0, font=font, anchor="mm")
        sheet.paste(PillowImage.fromarray(np.rint(tile.pixels * 255).astype(np.uint8)), (x, y + CAPTION))
    path.parent.mkdir(parents=True, exist_ok=True)
    for greys in GREY_LEVEL_COUNTS:
        sheet.quantize(greys, dither=PillowImage.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MAX_BYTES:
            return


def _take_captioned_films(site: Site, seed: int) -> Iterator[tuple[str, phantom.SimulatedFilm]]:
    """Yield captions and films [TILE, TILE] in pairs."""
    size = (TILE, TILE)
    for view in ("PA", "AP"):
        yield f"normal, {view}", phantom.take_frontal(1000 * seed, view=view, size=size, site=site)
    for index, finding in enumerate(FINDINGS):
        for extent, word in ((SLIGHT, "slight"), (GROSS, "gross")):
            film = phantom.take_frontal(1000 * seed + 1 + index, findings={finding: extent}, size=size, site=site)
            yield f"{finding.replace('_', ' ').lower()}, {word}", film
