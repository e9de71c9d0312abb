"""Unusable images: found by the distance of their thumbnails from the archive, and not asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.image_check import MIN_REFERENCE_IMAGES, check_images
from pipeline.thumbnails import THUMBNAIL_SIDE, ImageReference
from tests.builders.fakes.catalog import FakeCatalog

Pixels = npt.NDArray[np.uint8]
ROWS, COLUMNS = np.mgrid[0:THUMBNAIL_SIDE, 0:THUMBNAIL_SIDE] / (THUMBNAIL_SIDE - 1)


def chest(rng: np.random.Generator, *, finding: bool = False) -> Pixels:
    """Return two dark lungs of varying place and size beside a bright mediastinum; a finding is four brighter tiles of a lung."""
    left, right = 0.25 + rng.normal(0, 0.03), 0.75 + rng.normal(0, 0.03)
    width, base = 0.14 + rng.normal(0, 0.015), 0.7 + rng.normal(0, 0.05)
    lungs = np.exp(-(((COLUMNS - left) / width) ** 2)) + np.exp(-(((COLUMNS - right) / width) ** 2))
    grey = 190 - 120 * lungs * (base > ROWS) + rng.normal(0, 9, ROWS.shape) + rng.normal(0, 12)
    if finding:
        row, column = rng.integers(2, 7), rng.integers(2, 4)
        grey[row : row + 2, column : column + 2] += 60
    return np.asarray(grey.clip(0, 255).astype(np.uint8))


SPOILT: dict[str, Callable[[Pixels], Pixels]] = {
    "rotated by 90 degrees": np.rot90,
    "upside down": np.flipud,
    "inverted": lambda image: np.asarray(255 - image, dtype=np.uint8),
    "shifted": lambda image: np.roll(image, 5, axis=1),
    "collimated": lambda image: np.asarray(np.where((ROWS > 0.5) & (COLUMNS > 0.5), image, 0), dtype=np.uint8),
}


@pytest.fixture(scope="module")
def reference() -> ImageReference:
    """Return the reference of an archive with 5 % of unusable images."""
    rng = np.random.default_rng(0)
    archive = [chest(rng, finding=number % 10 == 0) for number in range(285)] + [np.rot90(chest(rng)) for _ in range(15)]
    return ImageReference.of_archive([image.tobytes() for image in archive])


def test_sound_images_are_usable_with_and_without_a_finding(reference: ImageReference) -> None:
    rng = np.random.default_rng(1)
    for finding in (False, True):
        distances = reference.distances([chest(rng, finding=finding).tobytes() for _ in range(300)])
        assert (distances > 1).mean() <= 0.02


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_image_is_unusable(reference: ImageReference, fault: str) -> None:
    rng = np.random.default_rng(2)
    spoilt = [np.ascontiguousarray(SPOILT[fault](chest(rng)), dtype=np.uint8).tobytes() for _ in range(40)]
    assert (reference.distances(spoilt) > 1).mean() >= 0.95


def test_an_even_image_is_unusable(reference: ImageReference) -> None:
    assert reference.distances([bytes(THUMBNAIL_SIDE**2)])[0] > 1


def test_the_reference_is_made_once_and_measures_every_image() -> None:
    catalog, rng = FakeCatalog(), np.random.default_rng(3)
    images = {f"1.{number}": chest(rng).tobytes() for number in range(MIN_REFERENCE_IMAGES - 1)}
    with catalog.begin() as tx:
        tx.thumbnails.add(images)
    assert not check_images(catalog=catalog).made_reference  # one image is missing
    with catalog.begin() as tx:
        tx.thumbnails.add({"2.1": np.rot90(chest(rng)).tobytes()})
    checked = check_images(catalog=catalog)
    assert (checked.made_reference, checked.measured) == (True, MIN_REFERENCE_IMAGES)
    assert 1 <= checked.unusable <= 0.02 * MIN_REFERENCE_IMAGES
    with catalog.begin() as tx:
        first = tx.thumbnails.reference()
        assert tx.thumbnails.unusable_among(["2.1", "3.1"]) == {"2.1"}
        tx.thumbnails.add({"3.1": np.flipud(chest(rng)).tobytes()})
    checked = check_images(catalog=catalog)
    assert (checked.made_reference, checked.measured, checked.unusable) == (False, 1, 1)
    with catalog.read() as tx:
        assert tx.thumbnails.reference() is not None
        assert first is not None
        assert np.array_equal(first.thumbnails, catalog.tables.image_reference.thumbnails)  # type: ignore[union-attr]  # it is there
