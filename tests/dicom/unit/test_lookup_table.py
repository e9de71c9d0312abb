"""LUT items as senders write them: the table decides, not its descriptor."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from adapters.dicom.image import pixels
from adapters.dicom.image.lookup_table import LookupTable, read_lookup_table
from pipeline.domain import Image
from tests.builders.dicom_files import dx, file_of, gradient, lookup_item

BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT = "1.2.840.10008.1.2"
CURVE = (np.sqrt(np.arange(4096) / 4095) * 4095).astype(int)
"""Entries of 12 bits for values of 12 bits."""
EXPECTED = CURVE[gradient(40, 32, 12)] / 4095


def image_of(film: Dataset, syntax: str = "1.2.840.10008.1.2.1") -> Image:
    return pixels.render(dcmread(BytesIO(file_of(film, syntax))))


def with_voi(item: Dataset, **elements: Any) -> Dataset:
    return dx(VOILUTSequence=[item], **elements)


def table_of(item: Dataset) -> LookupTable:
    found = read_lookup_table(item, little_endian=True)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("item", "tolerance"),
    [
        (lookup_item(CURVE, bits=12), 1e-6),
        (lookup_item(CURVE, bits=16), 1e-6),
        (lookup_item(CURVE * 16 + 15, bits=16), 2e-3),
        (lookup_item(CURVE // 16, bits=8), 1 / 200),
        (lookup_item(CURVE // 16, bits=16), 1 / 200),
        (lookup_item(CURVE // 16, bits=8, packed=True), 1 / 200),
        (lookup_item(CURVE // 16, bits=16, packed=True), 1 / 200),
    ],
    ids=["12 bits", "12 in 16", "16 bits", "8 bits in words", "8 in 16", "8 bits packed", "8 bits packed, 16 stated"],
)
def test_a_voi_lut_of_any_width_gives_the_same_image(item: Dataset, tolerance: float) -> None:
    assert image_of(with_voi(item)) == pytest.approx(EXPECTED, abs=tolerance)


@pytest.mark.parametrize("packed", [False, True])
def test_a_voi_lut_in_big_endian_gives_the_same_image(packed: bool) -> None:
    film = with_voi(lookup_item(CURVE // 16, bits=8, packed=packed))
    item = film.VOILUTSequence[0]
    item["LUTData"].value = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    film.PixelData = gradient(40, 32, 12).astype(">u2").tobytes()
    assert image_of(film, BIG_ENDIAN) == pytest.approx(EXPECTED, abs=1 / 200)


@pytest.mark.parametrize("vr", ["US", "SS", "OW", "UN"])
def test_the_vr_of_the_entries_does_not_matter(vr: str) -> None:
    entries = (np.arange(4096) * 16).astype(np.uint16)
    item = lookup_item(entries, bits=16)
    words = entries.astype(np.int16 if vr == "SS" else np.uint16)
    item.add_new("LUTData", vr, entries.astype("<u2").tobytes() if vr in ("OW", "UN") else [int(word) for word in words])
    assert image_of(with_voi(item)) == pytest.approx(gradient(40, 32, 12) * 16 / 65535, abs=1e-5)


def test_a_voi_lut_in_implicit_vr_gives_the_same_image() -> None:
    assert image_of(with_voi(lookup_item(CURVE, bits=12)), IMPLICIT) == pytest.approx(EXPECTED, abs=1e-6)


def test_a_descriptor_of_no_entries_means_65536() -> None:
    table = table_of(lookup_item(np.arange(65536), bits=16, count=0))
    assert len(table.entries) == 65536
    assert table.full_scale == 65535


@pytest.mark.parametrize(("stated", "held"), [(5000, 4096), (300, 300), (4096, 4096)])
def test_the_entries_that_there_are_count(stated: int, held: int) -> None:
    assert len(table_of(lookup_item(CURVE, bits=12, count=stated)).entries) == held


@pytest.mark.parametrize(
    ("bits", "largest", "white"),
    [(12, 4095, 4095), (16, 4095, 4095), (16, 4000, 4095), (12, 3000, 4095), (12, 5000, 5000), (0, 255, 255), (8, 0, 1)],
)
def test_white_is_by_the_depth_of_the_entries(bits: int, largest: int, white: int) -> None:
    assert table_of(lookup_item([0, largest], bits=bits)).full_scale == white


def _without(*keywords: str) -> Dataset:
    item = lookup_item(CURVE, bits=12)
    for keyword in keywords:
        del item[keyword]
    return item


def _emptied(keyword: str) -> Dataset:
    item = lookup_item(CURVE, bits=12)
    item[keyword].value = None
    return item


NO_TABLES = {
    "an empty item": Dataset(),
    "no data": _without("LUTData"),
    "no descriptor": _without("LUTDescriptor"),
    "empty data": _emptied("LUTData"),
    "empty descriptor": _emptied("LUTDescriptor"),
}


@pytest.mark.parametrize("item", NO_TABLES.values(), ids=NO_TABLES)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_an_item_without_a_table_counts_as_absent(item: Dataset, sequence: str) -> None:
    film = dx(WindowCenter=2048, WindowWidth=4096)
    setattr(film, sequence, [item])
    assert image_of(film) == pytest.approx(gradient(40, 32, 12) / 4095, abs=1e-3)


def test_the_first_item_with_a_table_is_used() -> None:
    film = dx(VOILUTSequence=[Dataset(), lookup_item(CURVE, bits=12), lookup_item(CURVE[::-1], bits=12)])
    assert image_of(film) == pytest.approx(EXPECTED, abs=1e-6)


@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", IMPLICIT])
def test_the_first_input_value_is_signed_by_pixel_representation(vr: str, syntax: str) -> None:
    film = with_voi(lookup_item(CURVE, bits=12), PixelRepresentation=1)
    film.VOILUTSequence[0].add_new("LUTDescriptor", vr, [4096, -2048 if vr == "SS" else 65536 - 2048, 12])
    film.PixelData = (gradient(40, 32, 12).astype(int) - 2048).astype("<i2").tobytes()
    assert image_of(film, syntax) == pytest.approx(EXPECTED, abs=1e-6)


@pytest.mark.parametrize("vr", ["US", "SS"])
def test_the_first_input_value_of_unsigned_pixels_is_unsigned(vr: str) -> None:
    film = with_voi(lookup_item(CURVE, bits=12), BitsStored=16, HighBit=15)
    film.VOILUTSequence[0].add_new("LUTDescriptor", vr, [4096, 40000 if vr == "US" else 40000 - 65536, 12])
    film.PixelData = (gradient(40, 32, 12).astype(int) + 40000).astype("<u2").tobytes()
    assert image_of(film) == pytest.approx(EXPECTED, abs=1e-6)


def test_a_rescale_to_negative_values_makes_the_first_input_value_signed() -> None:
    film = with_voi(lookup_item(CURVE, bits=12, first=-1000), RescaleSlope=1, RescaleIntercept=-1000)
    assert image_of(film) == pytest.approx(EXPECTED, abs=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_a_modality_lut_precedes_the_window(packed: bool) -> None:
    film = dx(
        ModalityLUTSequence=[lookup_item(CURVE // 16, bits=8, packed=packed)],
        RescaleSlope=100,
        RescaleIntercept=-7,
        WindowCenter=127.5,
        WindowWidth=255,
        VOILUTFunction="LINEAR_EXACT",
    )
    assert image_of(film) == pytest.approx(CURVE[gradient(40, 32, 12)] // 16 / 255, abs=1e-5)


def test_a_modality_lut_of_signed_pixels_begins_below_zero() -> None:
    film = dx(
        ModalityLUTSequence=[lookup_item(CURVE, bits=12, first=-2048)],
        PixelRepresentation=1,
        WindowCenter=2047.5,
        WindowWidth=4095,
        VOILUTFunction="LINEAR_EXACT",
    )
    film.PixelData = (gradient(40, 32, 12).astype(int) - 2048).astype("<i2").tobytes()
    assert image_of(film) == pytest.approx(EXPECTED, abs=1e-5)
