"""A picture without contrast is never scored: it is unreadable, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from adapters.dicom.image.pixels import DicomImageReader
from adapters.ipc.decoded_image import HostTransform
from pipeline.domain import Image
from pipeline.errors import PixelsUnreadable
from tests.builders.dicom_files import dx, file_of, gradient, lookup_item
from tests.builders.dicom_files import pixels as put_pixels
from tests.builders.fakes.images import FakeImageStore, stored_instance

RANDOM = np.random.default_rng(4)


def read(film: Dataset) -> Image:
    store = FakeImageStore()
    return DicomImageReader(store).read(stored_instance(store, file_of(film)))


def showing(values: np.ndarray[Any, Any], **elements: Any) -> Dataset:
    film = dx(rows=300, columns=260, **({"WindowCenter": 2048, "WindowWidth": 4096} | elements))
    put_pixels(film, values, bits=12)
    return film


def _with_marker(grey: int) -> np.ndarray[Any, Any]:
    values = np.full((300, 260), grey)
    values[10:30, 10:40] = 4095 - grey
    return values


SHAPE = (300, 260)
WITHOUT_CONTRAST = {
    "black": showing(np.zeros(SHAPE)),
    "white": showing(np.full(SHAPE, 4095)),
    "one grey": showing(np.full(SHAPE, 1777)),
    "nearly one grey": showing(1777 + RANDOM.integers(0, 30, SHAPE)),
    "a marker on black": showing(_with_marker(0)),
    "a marker on white": showing(_with_marker(4095)),
    "a window above all values": showing(gradient(300, 260, 12) // 4, WindowCenter=3500, WindowWidth=100),
    "a window below all values": showing(gradient(300, 260, 12) // 4 + 3000, WindowCenter=500, WindowWidth=100),
    "a window of one value": showing(gradient(300, 260, 12), WindowCenter=2048, WindowWidth=1),
    "a window far too wide": showing(gradient(300, 260, 12), WindowCenter=0, WindowWidth=1_000_000),
    "a rescale out of the window": showing(gradient(300, 260, 12), RescaleSlope=1, RescaleIntercept=-30_000),
    "a table of one grey": showing(gradient(300, 260, 12), VOILUTSequence=[lookup_item(np.full(4096, 900), bits=12)]),
    "a table that begins above all values": showing(
        gradient(300, 260, 12), VOILUTSequence=[lookup_item(np.arange(4096), bits=12, first=20_000)]
    ),
    "one value without a window": dx(rows=8, columns=8, PixelData=b"\7\0" * 64),
    "nearly all padding": showing(
        np.where(np.arange(300)[:, None] < 297, 0, gradient(300, 260, 12)), PixelPaddingValue=0, WindowCenter=2048
    ),
    "one grey beside padding": showing(
        np.where(np.arange(300)[:, None] < 100, 0, 1500) + np.zeros(SHAPE, int), PixelPaddingValue=0
    ),
    "values that are no numbers": showing(gradient(300, 260, 12), RescaleSlope="1e200", RescaleIntercept=0),
}


@pytest.mark.parametrize("film", WITHOUT_CONTRAST.values(), ids=WITHOUT_CONTRAST)
def test_a_picture_without_contrast_is_refused_with_the_reason(film: Dataset) -> None:
    with pytest.raises(PixelsUnreadable, match="its picture has no") as caught:
        read(film)
    assert "window" in caught.value.hint


def test_the_gate_stands_before_every_transform() -> None:
    store = FakeImageStore()
    black, sound = (stored_instance(store, file_of(film)) for film in (WITHOUT_CONTRAST["black"], dx()))
    found = list(DicomImageReader(store).read_ahead([black, sound], HostTransform()))
    assert isinstance(found[0], PixelsUnreadable)
    assert not isinstance(found[1], PixelsUnreadable)


def _collimated() -> np.ndarray[Any, Any]:
    values = np.zeros(SHAPE)
    values[100:220, 60:200] = gradient(120, 140, 12)
    return values


@pytest.mark.parametrize(
    "film",
    [
        showing(gradient(300, 260, 12)),
        showing(_collimated()),
        showing(_collimated(), PixelPaddingValue=0),
        showing(gradient(300, 260, 12) // 8 + 1000),
        showing(gradient(300, 260, 12), WindowCenter=2048, WindowWidth=400),
        showing(gradient(300, 260, 12), photometric="MONOCHROME1"),
        dx(rows=2, columns=3),
        dx(bits=8, rows=500, columns=31),
    ],
    ids=["full", "collimated", "collimated with padding", "flat", "narrow window", "inverse", "tiny", "narrow"],
)
def test_a_picture_with_contrast_is_read(film: Dataset) -> None:
    assert read(film).std() > 0.02
