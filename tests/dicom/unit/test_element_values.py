"""Values that break their VR, VM or length count as absent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from adapters.dicom.image import pixels
from adapters.dicom.image.element_values import decode_sign, get_decimals, get_integer, get_items, get_text
from tests.builders.dicom_files import dx, gradient, stream_of


def written(dataset: Dataset, keyword: str, vr: str, value: bytes) -> Dataset:
    """Put the encoded value of an element, as a sender has written it."""
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return dataset


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DS", b"2048", [2048.0]),
        ("DS", b"2048\\1 ", [2048.0, 1.0]),
        ("DS", b"2048,0", [None]),
        ("DS", b" 20.5 ", [20.5]),
        ("DS", b"", []),
        ("DS", b"nan\\inf\\1e400", [None, None, None]),
        ("FD", b"\0" * 7, []),
        ("US", b"\1", []),
        ("US", b"\1\0\2\0", [1.0, 2.0]),
        ("LO", b"7 px", [None]),
    ],
)
def test_decimals_are_read_as_far_as_they_can_be(vr: str, value: bytes, expected: list[float | None]) -> None:
    assert get_decimals(written(Dataset(), "WindowCenter", vr, value), "WindowCenter") == expected


@pytest.mark.parametrize(
    ("vr", "value", "expected"), [("US", b"\x28\0", 40), ("IS", b"40 ", 40), ("IS", b"1.5", None), ("US", b"\x28\0\1\0", 40)]
)
def test_the_first_integer_is_read(vr: str, value: bytes, expected: int | None) -> None:
    assert get_integer(written(Dataset(), "Rows", vr, value), "Rows") == expected


def test_texts_and_items_are_read() -> None:
    assert get_text(written(Dataset(), "VOILUTFunction", "CS", b"sigmoid\0"), "VOILUTFunction") == "SIGMOID"
    assert get_text(Dataset(), "VOILUTFunction") == ""
    assert not any(get_items(written(Dataset(), "VOILUTSequence", "SQ", b"no items"), "VOILUTSequence"))


@pytest.mark.parametrize(
    ("value", "signed", "bits", "expected"),
    [
        (63536, True, 16, -2000),
        (-2000, True, 16, -2000),
        (2000, True, 16, 2000),
        (-2000, False, 16, 63536),
        (2096, True, 12, -2000),
        (2000, True, 12, 2000),
        (100_000, True, 16, 100_000),
    ],
)
def test_the_sign_is_that_of_pixel_representation(value: int, signed: bool, bits: int, expected: int) -> None:
    assert decode_sign(value, signed=signed, bits=bits) == expected


@pytest.mark.parametrize(("vr", "value"), [("US", 65536 - 2000), ("SS", -2000)])
def test_the_padding_of_a_signed_film_is_found_in_either_vr(vr: str, value: int) -> None:
    film, stored = dx(PixelRepresentation=1, BitsStored=16, HighBit=15), gradient(40, 32, 12).astype(np.int16)
    stored[:6] = -2000
    film.PixelData = stored.astype("<i2").tobytes()
    film.add_new("PixelPaddingValue", vr, value)
    image = pixels.render(dcmread(stream_of(film)))
    assert (image[:6] == 0).all()
    assert image[6:].std() > 0.2


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": b"2048,0", "WindowWidth": b"4096"},
        {"WindowCenter": b"2048", "WindowWidth": b"4096,0"},
        {"WindowCenter": b"", "WindowWidth": b"4096"},
        {"WindowCenter": b"a\\2048", "WindowWidth": b"4"},
        {"WindowCenter": b"2048", "WindowWidth": b"-4"},
    ],
)
def test_a_window_that_cannot_be_read_is_absent(elements: dict[str, bytes]) -> None:
    film = dx()
    for keyword, value in elements.items():
        written(film, keyword, "DS", value)
    assert np.array_equal(pixels.render(film_with_meta(film)), pixels.render(film_with_meta(dx())))


def test_the_first_whole_window_is_used() -> None:
    film = written(written(dx(), "WindowCenter", "DS", b"x\\2048"), "WindowWidth", "DS", b"10\\4096")
    assert pixels.render(film_with_meta(film)) == pytest.approx(gradient(40, 32, 12) / 4095, abs=1e-3)


@pytest.mark.parametrize("slope", ["0", "0.0", "-0"])
def test_a_rescale_without_slope_is_left_out(slope: str) -> None:
    film = dx(RescaleSlope=slope, RescaleIntercept=-1000, WindowCenter=2048, WindowWidth=4096)
    assert pixels.render(film_with_meta(film)) == pytest.approx(gradient(40, 32, 12) / 4095, abs=1e-3)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_cannot_be_read_takes_its_window_along(keyword: str) -> None:
    film = dx(RescaleSlope=1, RescaleIntercept=-1000, WindowCenter=1000, WindowWidth=10)
    written(film, keyword, "DS", b"-1000,0")
    assert np.array_equal(pixels.render(film_with_meta(film)), pixels.render(film_with_meta(dx())))


@pytest.mark.parametrize("number", [b"", b"1 ", b"one ", b"1,0 ", b"0 "])
def test_a_number_of_frames_that_cannot_be_read_is_one(number: bytes) -> None:
    film = written(dx(), "NumberOfFrames", "IS", number)
    assert pixels.render(film_with_meta(film)).shape == (40, 32)


def film_with_meta(film: Any) -> Dataset:
    """The data set as read from its file."""
    return dcmread(stream_of(film))
