"""Augmentation preserves the side, the background and the range of an image."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.images.augment import augment_inputs
from models.training.recipe import Augmentation

SIZE = 48
STILL = Augmentation(degrees=0, shift=0, zoom=0, brightness=0, contrast=0, gamma=0)
SEEDS = st.integers(0, 2**31 - 1)


def changed(films: torch.Tensor, amounts: Augmentation, seed: int) -> torch.Tensor:
    return augment_inputs(films, amounts, torch.Generator().manual_seed(seed))


def marker(row: int, column: int) -> torch.Tensor:
    """Return an image, grey in the middle, with one bright square in a quadrant."""
    film = torch.zeros(1, 1, SIZE, SIZE)
    film[..., 6:42, 6:42] = 0.3
    film[..., row - 3 : row + 3, column - 3 : column + 3] = 1.0
    return film


def centre(film: torch.Tensor) -> tuple[float, float]:
    """Return row and column of the centroid of the bright pixels."""
    bright = (film[0, 0] - 0.6).clamp(min=0)
    at = torch.arange(SIZE, dtype=torch.float32)
    return float((bright.sum(1) * at).sum() / bright.sum()), float((bright.sum(0) * at).sum() / bright.sum())


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, row=st.sampled_from([14, 34]), column=st.sampled_from([14, 34]))
def test_the_quadrant_of_a_marker_is_preserved(seed: int, row: int, column: int) -> None:
    found_row, found_column = centre(changed(marker(row, column), Augmentation(), seed))
    assert (found_row < SIZE / 2) == (row < SIZE / 2)
    assert (found_column < SIZE / 2) == (column < SIZE / 2)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_no_view_is_mirrored(seed: int) -> None:
    """The signed area of a triangle changes its sign only under a reflection."""
    films = torch.cat([marker(14, 14), marker(14, 34), marker(34, 14)])
    amounts = replace(Augmentation(), degrees=7.0)
    same = [changed(film[None], amounts, seed) for film in films]  # one seed per image: the same change of each
    (ay, ax), (by, bx), (cy, cx) = (centre(film) for film in same)
    assert (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) > 0


def test_zero_amounts_change_nothing() -> None:
    films = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert changed(films, STILL, 1).numpy() == pytest.approx(films.numpy(), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_range_black_and_order_of_greys_are_preserved(seed: int) -> None:
    ramp = torch.linspace(0, 1, SIZE).expand(1, 1, SIZE, SIZE)
    film = changed(ramp, replace(Augmentation(), degrees=0, shift=0, zoom=0), seed)
    assert float(film.min()) >= 0 and float(film.max()) <= 1
    assert bool((film[..., 0] == 0).all())
    assert bool((film.diff(dim=-1) >= 0).all())


@pytest.mark.parametrize(
    ("amounts", "moved"),
    [
        (replace(STILL, degrees=7.0), lambda row, column: math.hypot(row - 23.5, column - 23.5)),
        (replace(STILL, brightness=0.15, contrast=0.15, gamma=0.15), lambda row, column: row),
    ],
)
def test_rotation_preserves_the_distance_from_the_centre_and_tones_the_position(amounts: Augmentation, moved: object) -> None:
    assert callable(moved)
    film = marker(14, 34)
    assert moved(*centre(changed(film, amounts, 5))) == pytest.approx(moved(*centre(film)), abs=0.3)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_shift_and_zoom_are_bounded_by_their_amounts(seed: int) -> None:
    film = marker(14, 34)
    shifted = centre(changed(film, replace(STILL, shift=0.05), seed))
    assert all(abs(there - here) <= 0.05 * SIZE + 0.3 for there, here in zip(shifted, centre(film), strict=True))
    zoomed = centre(changed(film, replace(STILL, zoom=0.1), seed))
    assert all(abs((there - 23.5) / (here - 23.5) - 1) <= 0.13 for there, here in zip(zoomed, centre(film), strict=True))


def test_each_image_changes_independently_and_reproducibly_by_seed() -> None:
    films = marker(14, 14).expand(4, -1, -1, -1)
    first, again, other = changed(films, Augmentation(), 1), changed(films, Augmentation(), 1), changed(films, Augmentation(), 2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({film.sum().item() for film in first}) == 4


def test_the_batch_size_does_not_change_the_result() -> None:
    films = torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(3)
    parts = torch.cat([augment_inputs(chunk, Augmentation(), generator) for chunk in torch.split(films, 2)])
    assert torch.equal(parts, changed(films, Augmentation(), 3))
