from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import CheckpointIncompatible, ImageUnusable
from models.images.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from tests.builders import tiny

PLAIN = Preprocess(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
EDGES = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(EDGES, EDGES, st.sampled_from(["pad", "crop"]))
def test_an_image_of_any_size_becomes_the_encoders_input(height: int, width: int, fit: str) -> None:
    pixels = replace(PLAIN, fit=fit)(tiny.film(height, width))  # type: ignore[arg-type] # one of the two literals
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    assert float(pixels.min()) >= 0.0
    assert float(pixels.max()) <= 1.0


@settings(max_examples=60, deadline=None)
@given(EDGES, EDGES)
def test_padding_preserves_the_aspect_ratio_and_centres_the_image(height: int, width: int) -> None:
    visible = PLAIN(np.ones((height, width), dtype=np.float32))[0] > 0.5
    rows, columns = torch.nonzero(visible.any(dim=1)).flatten(), torch.nonzero(visible.any(dim=0)).flatten()
    assert (len(rows), len(columns)) == PLAIN.scaled_size(height, width)
    assert max(len(rows), len(columns)) == 64
    assert abs(len(rows) - 64 * height / max(height, width)) <= 1
    assert abs(len(columns) - 64 * width / max(height, width)) <= 1
    for indices in (rows, columns):
        assert abs(int(indices[0]) - (63 - int(indices[-1]))) <= 1


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
@pytest.mark.parametrize("shape", [(300, 240), (240, 300), (128, 128), (700, 100)])
def test_padding_preserves_all_corners(shape: tuple[int, int], corner: tuple[int, int]) -> None:
    film = np.zeros(shape, dtype=np.float32)
    rows, columns = (slice(0, 20) if c == 0 else slice(-20, None) for c in corner)
    film[rows, columns] = 1.0
    assert float(PLAIN(film).max()) > 0.3
    if shape[0] != shape[1]:
        assert float(replace(PLAIN, fit="crop")(film).max()) < 0.01  # cropping loses the corner


def test_a_circle_stays_circular() -> None:
    y, x = np.mgrid[0:400, 0:250]
    disc = ((y - 200) ** 2 + (x - 125) ** 2 < 80**2).astype(np.float32)
    visible = PLAIN(disc)[0] > 0.5
    assert abs(int(visible.any(dim=0).sum()) - int(visible.any(dim=1).sum())) <= 1


def test_the_resize_is_antialiased() -> None:
    stripes = np.zeros((1024, 1024), dtype=np.float32)
    stripes[::2] = 1.0
    assert float((PLAIN(stripes) - 0.5).abs().max()) < 0.02


def test_the_resize_equals_pillows_as_in_clips_training() -> None:
    film = tiny.film(512, 512)
    pillow = np.asarray(PIL.Image.fromarray(film).resize((64, 64), PIL.Image.Resampling.BICUBIC)).clip(0, 1)
    assert PLAIN(film)[0].numpy() == pytest.approx(pillow, abs=1e-4)


def test_grey_levels_finer_than_8_bit_are_preserved() -> None:
    film = np.full((64, 64), 0.5, dtype=np.float32)
    film[:, 32:] += 1 / 65535
    pixels = PLAIN(film)[0]
    assert float(pixels[0, 63] - pixels[0, 0]) == pytest.approx(1 / 65535, rel=0.01)


def test_each_channel_is_normalised_by_its_own_mean_and_deviation() -> None:
    pixels = Preprocess(size=64)(np.full((64, 64), 0.25, dtype=np.float32))
    for channel, mean, std in zip(pixels, OPENAI_MEAN, OPENAI_STD, strict=True):
        assert float(channel[5, 5]) == pytest.approx((0.25 - mean) / std, abs=1e-6)


def test_the_given_image_is_not_modified() -> None:
    film = tiny.film(50, 40)
    film.setflags(write=False)
    PLAIN(film[::-1])
    assert np.array_equal(film, tiny.film(50, 40))


@pytest.mark.parametrize("shape", [(0, 5), (5,), (2, 2, 3)])
def test_an_array_that_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageUnusable):
        PLAIN(np.zeros(shape, dtype=np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_pixels_are_refused(value: float) -> None:
    film = tiny.film(8, 8)
    film[3, 3] = value
    with pytest.raises(ImageUnusable):
        PLAIN(film)


def test_the_fingerprint_depends_on_every_field() -> None:
    changed = [
        replace(PLAIN, size=96),
        replace(PLAIN, fit="crop"),
        replace(PLAIN, interpolation="bilinear"),
        replace(PLAIN, mean=(0.1, 0.0, 0.0)),
        replace(PLAIN, std=(1.0, 1.0, 2.0)),
    ]
    assert len({PLAIN.fingerprint, *(other.fingerprint for other in changed)}) == 6
    assert Preprocess().fingerprint.startswith("c149090945692")  # stable across releases unless ALGORITHM is incremented


def test_a_card_round_trips_and_another_algorithm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Preprocess(size=96).card
    assert Preprocess.from_card(card) == Preprocess(size=96)
    monkeypatch.setattr("models.images.preprocess.ALGORITHM", 2)
    with pytest.raises(CheckpointIncompatible):
        Preprocess.from_card(card)
    with pytest.raises(CheckpointIncompatible):
        Preprocess.from_card({"size": 96})
