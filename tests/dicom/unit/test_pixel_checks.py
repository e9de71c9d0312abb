"""Decoded stored values are those of the header (one frame, its size, bits and colours), or are refused with the reason."""

from __future__ import annotations

import struct
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import compress
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from adapters.dicom.image import encapsulation, part10, pixels, stored_values
from pipeline.errors import PixelsUnreadable
from tests.builders import peers
from tests.builders.dicom_files import dx, encoded, file_of, gradient, lookup_item

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
GREYS = gradient(40, 32, 12)
COMPRESSED = [JPEG2000Lossless, JPEGLSLossless, RLELossless]


def read(content: bytes) -> np.ndarray[Any, Any]:
    return stored_values.read(content)[1]


def values_of(film: Dataset, syntax: str = EXPLICIT) -> np.ndarray[Any, Any]:
    return read(file_of(film, syntax))


def compressed(film: Dataset, syntax: UID) -> FileDataset:
    packed: FileDataset = dcmread(BytesIO(file_of(film)))
    compress(packed, syntax)
    return packed


def content_of(packed: FileDataset) -> bytes:
    out = BytesIO()
    packed.save_as(out)
    return out.getvalue()


def refused(content: bytes, words: str) -> None:
    with pytest.raises(PixelsUnreadable, match=words) as caught:
        read(content)
    assert caught.value.hint


@pytest.mark.parametrize("high_bit", [11, 12, 13, 15])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
def test_samples_are_aligned_by_their_high_bit(high_bit: int, signed: bool, syntax: str) -> None:
    values = GREYS.astype(int) - (2048 if signed else 0)
    film, order = dx(PixelRepresentation=int(signed), HighBit=high_bit), ">u2" if syntax == BIG_ENDIAN else "<u2"
    above, below = ~0 << (high_bit + 1), (1 << (high_bit - 11)) - 1
    for other_bits in (0, above & 0xFFFF, below):
        sample = ((values & 0xFFF) << (high_bit - 11)) | other_bits
        film.PixelData = sample.astype(np.uint16).astype(order).tobytes()
        assert np.array_equal(values_of(film, syntax), values)


@pytest.mark.parametrize("signed", [False, True])
def test_samples_of_32_bits_are_read(signed: bool) -> None:
    values = GREYS.astype(np.int32) - (2048 if signed else 0)
    film = dx(BitsAllocated=32, BitsStored=20, HighBit=19, PixelRepresentation=int(signed))
    film.PixelData = (values & 0xFFFFF).astype("<u4").tobytes()
    assert np.array_equal(values_of(film), values)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name)
def test_compressed_samples_are_aligned_where_the_codestream_holds_all_bits(syntax: UID) -> None:
    film = dx(BitsStored=16, HighBit=15)
    film.PixelData = (GREYS << 4).astype("<u2").tobytes()
    packed = compressed(film, syntax)
    packed.BitsStored = 12
    assert np.array_equal(read(content_of(packed)), GREYS)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_compressed_samples_without_unused_bits_are_not_shifted(syntax: UID) -> None:
    packed = compressed(dx(), syntax)
    packed.HighBit = 15
    assert np.array_equal(read(content_of(packed)), GREYS)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"BitsStored": 16, "HighBit": 11}, "16 bits stored below high bit 11"),
        ({"BitsStored": 12, "HighBit": 7}, "12 bits stored below high bit 7"),
        ({"BitsStored": 20, "HighBit": 19}, "do not fit 16"),
        ({"BitsAllocated": 12}, "12 bits allocated"),
        ({"BitsAllocated": 1}, "1 bits allocated"),
        ({"BitsAllocated": None}, "BitsAllocated is missing"),
        ({"Rows": None}, "Rows is missing"),
        ({"PhotometricInterpretation": None}, "is missing"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"PhotometricInterpretation": "ARGB"}, "ARGB"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_422"}, "YBR_PARTIAL_422"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, "MONOCHROME3"),
        ({"SamplesPerPixel": 3}, "3 samples a pixel"),
        ({"SamplesPerPixel": 4}, "4 samples a pixel"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples a pixel contradict RGB"),
        ({"Rows": 20_000, "Columns": 20_000}, "no radiograph"),
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_refused(elements: dict[str, Any], words: str) -> None:
    film = dx()
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    refused(file_of(film), words)


def test_missing_bits_stored_and_high_bit_follow_from_the_others() -> None:
    film = dx(bits=16)
    for keyword in ("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"):
        del film[keyword]
    assert np.array_equal(values_of(film), gradient(40, 32, 16))


@pytest.mark.parametrize("interpretation", ["monochrome2", " MONOCHROME2 ", "MONOCHROME2\0"])
def test_a_photometric_interpretation_is_read_in_any_case(interpretation: str) -> None:
    assert np.array_equal(values_of(dx(photometric=interpretation)), GREYS)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("times", [2, 3])
def test_more_frames_than_the_header_says_are_refused(syntax: str, times: int) -> None:
    film = dx()
    film.PixelData *= times
    refused(file_of(film, syntax), "one frame")


@pytest.mark.parametrize(("excess", "is_read"), [(0, True), (2, True), (512, True), (2000, True), (2560, False), (5000, False)])
def test_padding_behind_the_frame_is_left_out(excess: int, is_read: bool) -> None:
    film = dx()
    film.PixelData += b"\x7f" * excess
    if is_read:
        assert np.array_equal(values_of(film), GREYS)
    else:
        refused(file_of(film), "one frame")


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize("has_offsets", [False, True])
def test_more_compressed_frames_than_the_header_says_are_refused(syntax: UID, has_offsets: bool) -> None:
    packed = compressed(dx(), syntax)
    frame = encapsulation.join_frame(encapsulation.split_items(memoryview(packed.PixelData), little_endian=True), syntax)
    packed.PixelData = encapsulate([frame, frame], has_bot=has_offsets)
    refused(content_of(packed), "2 frames where one is expected")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_a_frame_in_several_fragments_is_joined(syntax: UID) -> None:
    packed = compressed(dx(rows=200, columns=200), syntax)
    frame = encapsulation.join_frame(encapsulation.split_items(memoryview(packed.PixelData), little_endian=True), syntax)
    packed.PixelData = encapsulate([frame], fragments_per_frame=3)
    assert np.array_equal(read(content_of(packed)), gradient(200, 200, 12))


def test_a_frame_without_an_offset_table_before_it_is_read() -> None:
    packed = compressed(dx(), JPEG2000Lossless)
    packed.PixelData = packed.PixelData[packed.PixelData.index(b"\xfe\xff\x00\xe0", 4) :]
    assert np.array_equal(read(content_of(packed)), GREYS)


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize("elements", [{"Rows": 32, "Columns": 40}, {"Rows": 20}, {"Columns": 64}], ids=str)
def test_a_codestream_of_another_size_is_refused(syntax: UID, elements: dict[str, int]) -> None:
    packed = compressed(dx(), syntax)
    for keyword, edge in elements.items():
        setattr(packed, keyword, edge)
    if syntax == RLELossless and elements.get("Rows") == 32:
        return  # RLE states no size, and the number of its pixels is that of the header
    refused(content_of(packed), "cannot be decoded" if syntax == RLELossless else "codestream holds 40 rows x 32 columns")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.name)
def test_a_codestream_that_claims_an_enormous_image_is_refused_before_it_is_decoded(syntax: UID) -> None:
    packed = compressed(dx(), syntax)
    rows, columns = (struct.pack(">L" if syntax == JPEG2000Lossless else ">H", edge) for edge in (40, 32))
    stated = columns + rows if syntax == JPEG2000Lossless else rows + columns
    enormous = struct.pack(">LL", 60_000, 60_000) if syntax == JPEG2000Lossless else struct.pack(">HH", 60_000, 60_000)
    assert stated in packed.PixelData
    packed.PixelData = packed.PixelData.replace(stated, enormous)
    refused(content_of(packed), "codestream")


def test_uncompressed_pixels_under_a_compressed_syntax_are_refused() -> None:
    film = dx()
    content = part10.file_bytes(
        encoded(film), sop_class_uid=film.SOPClassUID, sop_instance_uid="1.2", transfer_syntax_uid=JPEG2000Lossless
    )
    refused(content, "items")


def test_pixel_data_cut_inside_a_fragment_are_refused() -> None:
    content = content_of(compressed(dx(), JPEG2000Lossless))
    refused(content[:-200], "truncated")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.94", "1.2.3"])
def test_a_transfer_syntax_that_cannot_be_decoded_is_named(syntax: str) -> None:
    film = dx()
    content = part10.file_bytes(encoded(film), sop_class_uid=film.SOPClassUID, sop_instance_uid="1.2", transfer_syntax_uid=syntax)
    refused(content, "transfer syntax .* cannot be decoded")


def _in_items(values: bytes, syntax: str, *, table: bytes | None) -> bytes:
    order = ">" if syntax == BIG_ENDIAN else "<"
    parts = [] if table is None else [table]
    items = b"".join(struct.pack(f"{order}HHL", 0xFFFE, 0xE000, len(part)) + part for part in (*parts, values))
    return items + struct.pack(f"{order}HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("table", [None, b"", b"\0\0\0\0"], ids=["no table", "empty table", "table"])
def test_uncompressed_pixels_in_an_item_are_unwrapped(syntax: str, table: bytes | None) -> None:
    film = dx()
    del film.PixelData
    order = ">" if syntax == BIG_ENDIAN else "<"
    tag = struct.pack(f"{order}HH", 0x7FE0, 0x0010) + (b"" if syntax == IMPLICIT else b"OW\0\0") + b"\xff" * 4
    values = GREYS.astype(f"{order}u2").tobytes()
    content = file_of(film, syntax) + tag + _in_items(values, syntax, table=table)
    assert np.array_equal(read(content), GREYS)
    refused(file_of(film, syntax) + tag + _in_items(values[:-2], syntax, table=table), "items")
    refused(file_of(film, syntax) + tag + _in_items(values + values, syntax, table=table), "items")


def colour(photometric: str, values: np.ndarray[Any, Any], *, planar: int | None = 0) -> Dataset:
    film = dx(bits=8, photometric=photometric, rows=40, columns=32, SamplesPerPixel=3)
    if planar is not None:
        film.PlanarConfiguration = planar
    film.PixelData = np.ascontiguousarray(np.moveaxis(values, -1, 0) if planar else values).tobytes()
    return film


RGB = np.random.default_rng(3).integers(0, 256, (40, 32, 3)).astype(np.uint8)
LUMINANCE = RGB @ np.array([0.299, 0.587, 0.114]) / 255


@pytest.mark.parametrize("planar", [0, 1, None])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_colours_by_pixel_and_by_plane_give_the_same_luminance(planar: int | None, syntax: str) -> None:
    film = colour("RGB", RGB, planar=planar)
    film["PixelData"].VR = "OB"
    assert pixels.render(dcmread(BytesIO(file_of(film, syntax)))) == pytest.approx(LUMINANCE, abs=1e-5)


def test_compressed_colours_give_the_same_luminance() -> None:
    for syntax in COMPRESSED:
        packed = compressed(colour("RGB", RGB), syntax)
        assert pixels._build_rendering(*stored_values.read(content_of(packed)))[:] == pytest.approx(LUMINANCE, abs=1 / 100)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_uncompressed_ybr_full_422_has_two_bytes_a_pixel(syntax: str) -> None:
    luma = gradient(40, 32, 8).astype(np.uint8)
    neutral = np.full((40, 16, 2), 128, np.uint8)
    film = colour("YBR_FULL_422", RGB)
    film.PixelData = np.concatenate([luma.reshape(40, 16, 2), neutral], axis=2).tobytes()
    assert pixels.render(dcmread(BytesIO(file_of(film, syntax)))) == pytest.approx(luma / 255, abs=2 / 255)
    film.PixelData = film.PixelData[:-100]
    refused(file_of(film, syntax), "truncated")
    film.PixelData = RGB.tobytes()
    film.Columns = 31
    refused(file_of(film, syntax), "even number")


def palette(entries: np.ndarray[Any, Any], bits: int, *, packed: bool = False, first: int = 0) -> Dataset:
    film, table = dx(bits=8, photometric="PALETTE COLOR"), lookup_item(entries, bits=bits, packed=packed, first=first)
    for name in ("Red", "Green", "Blue"):
        film.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", list(table.LUTDescriptor))
        film.add_new(f"{name}PaletteColorLookupTableData", "OW", table.LUTData)
    return film


@pytest.mark.parametrize(
    "film",
    [
        palette(np.arange(256)[::-1] * 257, 16),
        palette(np.arange(256)[::-1], 16),
        palette(np.arange(256)[::-1], 8, packed=True),
        palette(np.arange(256)[::-1], 8),
    ],
    ids=["16 bits", "8 in 16", "8 packed", "8 in words"],
)
def test_a_palette_is_applied(film: Dataset) -> None:
    shown = 1 - gradient(40, 32, 8) / 255
    assert pixels.render(dcmread(BytesIO(file_of(film)))) == pytest.approx(shown, abs=1e-4)


def test_a_palette_that_is_missing_or_in_segments_is_refused() -> None:
    film = palette(np.arange(256), 16)
    film.SegmentedBluePaletteColorLookupTableData = film.BluePaletteColorLookupTableData
    del film.BluePaletteColorLookupTableData
    for content in (file_of(film), file_of(dx(bits=8, photometric="PALETTE COLOR"))):
        with pytest.raises(PixelsUnreadable, match="palette"):
            pixels.render(dcmread(BytesIO(content)))


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("FloatPixelData", np.zeros((40, 32), "<f4").tobytes(), "floating-point"),
        ("DoubleFloatPixelData", np.zeros((40, 32), "<f8").tobytes(), "floating-point"),
        ("PixelDataProviderURL", "http://elsewhere.example/1", "URL"),
        ("PixelData", b"", "empty"),
        (None, None, "no pixel data"),
    ],
)
def test_the_reason_names_what_stands_where_the_pixels_should_be(keyword: str | None, value: Any, words: str) -> None:
    film = dx()
    del film.PixelData
    if keyword is not None:
        setattr(film, keyword, value)
    refused(file_of(film), words)
    with pytest.raises(PixelsUnreadable, match=words):
        stored_values.decode(dcmread(BytesIO(file_of(film))))


@pytest.mark.validators
@pytest.mark.parametrize("high_bit", [11, 13, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_aligned_samples_agree_with_dcmtk(tmp_path: Path, high_bit: int, signed: bool) -> None:
    peers.require("dcm2pnm", "dcmtk")
    values = GREYS.astype(int) - (2048 if signed else 0)
    film = dx(PixelRepresentation=int(signed), HighBit=high_bit, WindowCenter=0 if signed else 2048, WindowWidth=4096)
    film.PixelData = (((values & 0xFFF) << (high_bit - 11)) | 0).astype("<u2").tobytes()
    assert np.abs(pixels.render(dcmread(BytesIO(file_of(film)))) - dcmtk_image(tmp_path, film)).max() <= 1.01 / 255


@pytest.mark.validators
@pytest.mark.parametrize("film", [palette(np.arange(256)[::-1] * 257, 16), palette(np.arange(256)[::-1], 8, packed=True)])
def test_palettes_agree_with_dcmtk(tmp_path: Path, film: Dataset) -> None:
    peers.require("dcm2pnm", "dcmtk")
    assert np.abs(pixels.render(dcmread(BytesIO(file_of(film)))) - dcmtk_image(tmp_path, film)).max() <= 1.01 / 255


def dcmtk_image(folder: Path, film: Dataset) -> np.ndarray[Any, Any]:
    """The image as dcmtk shows it, in its first window where there is one."""
    (folder / "f.dcm").write_bytes(file_of(film))
    window = ["+Wi", "1"] if "WindowCenter" in film else []
    subprocess.run(["dcm2pnm", *window, "+op", folder / "f.dcm", folder / "f.pnm"], check=True, capture_output=True)
    with PIL.Image.open(folder / "f.pnm") as shown:
        return np.asarray(shown.convert("L"), dtype=float) / 255
