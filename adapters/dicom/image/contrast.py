"""The gate before scoring: a picture without contrast is never scored. It looks like a film without findings."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import PixelsUnreadable

MIN_RANGE = 0.02
"""Smallest difference, in greys of 0..1, between the percentiles CENTRAL: five of 256 grey levels of a display."""
CENTRAL = (2.0, 98.0)
MIN_GREY_SHARE = 0.02
"""Smallest share of pixels that are neither black nor white."""
SAMPLED_EDGE = 128
"""Rows and columns of the sample that is looked at."""

Greys = npt.NDArray[np.float32]


class SampledImage(Protocol):
    """An image of which some pixels can be computed."""

    def sample(self, edge: int) -> tuple[Greys, npt.NDArray[np.bool_] | None]:
        """Return greys of about `edge` x `edge` pixels, evenly distributed, and which of them are padding; None: none is."""


def require_contrast(image: SampledImage) -> None:
    """Raise PixelsUnreadable for a picture that is black, white, of one grey or of black and white alone."""
    with np.errstate(all="ignore"):
        greys, padding = image.sample(SAMPLED_EDGE)
    visible = greys[~padding] if padding is not None else greys
    low, high = np.percentile(visible, CENTRAL)
    contrast = high - low if padding is None else min(high - low, np.ptp(np.percentile(greys, CENTRAL)))
    if not contrast >= MIN_RANGE:  # also where it is not a number
        raise PixelsUnreadable(
            f"its picture has no contrast: nearly all of it has greys between {low:.2f} and {high:.2f} of 1", hint=_HINT
        )
    if np.count_nonzero((visible > 0) & (visible < 1)) < MIN_GREY_SHARE * visible.size:
        raise PixelsUnreadable("its picture has no greys: nearly all of it is black or white", hint=_HINT)


_HINT = "compare window, rescale and look-up tables in its header (dcmdump) with its values; a blank exposure needs no remedy"
