"""thumbnails: coarse pictures of images, and their distance from those of an archive.

Rotated, inverted, wrongly collimated images and images of another region of the body lie far from all images of an archive. A
thumbnail shows them better than the encoder's features: the coarse layout of a chest radiograph is common to all, whatever the
findings, while a rare finding lies far from the others in the features.

The distance is 1 - the correlation with the fifth nearest thumbnail of a reference, in units of a limit, which is robust to
unusable images within the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

THUMBNAIL_SIDE = 14
"""Side of a thumbnail in pixels."""
_NEIGHBOURS = 5
_LIMIT_SPREADS = 5.0  # limit: median + 5 standard deviations, by the upper quartile; chosen on phantoms of three sites
_QUARTILE_SPREAD = 0.6745  # of a normal distribution, in standard deviations
_TRIMMING_ROUNDS = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageReference:
    """Thumbnails of an archive, uint8 [M, THUMBNAIL_SIDE^2], and the distance from which on an image is unusable."""

    thumbnails: npt.NDArray[np.uint8]
    limit: float

    @classmethod
    def of_archive(cls, thumbnails: Sequence[bytes]) -> Self:
        """Return the reference of an archive's thumbnails; those least like the others are left out."""
        pixels = _stack_thumbnails(thumbnails)
        layout = _standardise_pixels(pixels)
        kept = np.ones(len(layout), dtype=bool)
        for _ in range(_TRIMMING_ROUNDS):
            centre = _normalise_rows(layout[kept].mean(axis=0, keepdims=True))
            from_centre = 1 - (layout @ centre.T)[:, 0]
            kept = from_centre <= _choose_limit(from_centre)
        distances = _measure_nearest(layout[kept], layout[kept], _NEIGHBOURS + 1)  # each is its own nearest
        return cls(pixels[kept], _choose_limit(distances))

    def distances(self, thumbnails: Sequence[bytes]) -> Floats:
        """Return the distances [n] of thumbnails in units of the limit: above 1 an image is unusable."""
        layout = _standardise_pixels(_stack_thumbnails(thumbnails))
        return _measure_nearest(layout, _standardise_pixels(self.thumbnails), _NEIGHBOURS) / max(
            self.limit, np.finfo(np.float64).tiny
        )


def _stack_thumbnails(thumbnails: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(len(thumbnails), THUMBNAIL_SIDE**2)


def _standardise_pixels(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return thumbnails of mean 0 and length 1: their scalar products are correlations. An even thumbnail is 0."""
    return _normalise_rows(pixels - pixels.mean(axis=1, keepdims=True))


def _normalise_rows(layout: Floats) -> Floats:
    return np.asarray(layout / np.maximum(np.linalg.norm(layout, axis=1, keepdims=True), 1e-6))


def _choose_limit(distances: Floats) -> float:
    """Return median + _LIMIT_SPREADS standard deviations, these by the upper quartile: few unusable images do not change it."""
    middle, upper = np.quantile(distances, [0.5, 0.75])
    return float(middle + _LIMIT_SPREADS * (upper - middle) / _QUARTILE_SPREAD)


def _measure_nearest(layout: Floats, references: Floats, neighbours: int) -> Floats:
    """Return 1 - the correlation [n] with the `neighbours`-th nearest of the references [M]."""
    likeness = layout @ references.T
    place = max(likeness.shape[1] - neighbours, 0)
    return np.asarray(1 - np.partition(likeness, place, axis=1)[:, place])
