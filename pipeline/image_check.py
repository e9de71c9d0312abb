"""image_check: thumbnails of scored images -> their distance from the archive: unusable images are not asked for by the worklist.

A ranking by the scores of a finding calls up many unusable images. The reference is made once of the newest images and frozen, so
that a distance does not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.ports.services import Catalog
from pipeline.thumbnails import ImageReference

MIN_REFERENCE_IMAGES, MAX_REFERENCE_IMAGES = 200, 1000
"""Images from which on a reference is made, and the largest number of its thumbnails."""
IMAGES_PER_TURN = 2000
"""Largest number of images measured in one call of `check_images`."""


@dataclass(frozen=True, slots=True)
class ImageCheckResult:
    """Number of images measured and of unusable ones among them; whether the reference was made."""

    measured: int
    unusable: int
    made_reference: bool


def check_images(*, catalog: Catalog) -> ImageCheckResult:
    """Measure images without a distance, at most IMAGES_PER_TURN; make the reference where there is none and images suffice."""
    with catalog.begin() as tx:
        reference = tx.thumbnails.reference()
        made = reference is None
        if reference is None:
            newest = tx.thumbnails.newest(limit=MAX_REFERENCE_IMAGES)
            if len(newest) < MIN_REFERENCE_IMAGES:
                return ImageCheckResult(0, 0, made_reference=False)
            reference = ImageReference.of_archive(newest)
            tx.thumbnails.add_reference(reference)
        unmeasured = tx.thumbnails.unmeasured(limit=IMAGES_PER_TURN)
        distances = reference.distances(list(unmeasured.values())) if unmeasured else np.zeros(0)
        tx.thumbnails.put_distances({uid: float(distance) for uid, distance in zip(unmeasured, distances, strict=True)})
    return ImageCheckResult(len(unmeasured), int((distances > 1).sum()), made_reference=made)
