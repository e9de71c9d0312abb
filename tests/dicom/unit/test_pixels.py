"""Stored values to images: every codec, every step of the rendering pipeline."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import compress
from pydicom.sequence import Sequence

from adapters.dicom.image import part10, pixels
from pipeline.domain import Image, StoredInstance
from pipeline.errors import PixelsUnreadable
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of, gradient, stream_of
from tests.builders.dicom_files import pixels as put_pixels
from tests.builders.fakes.images import FakeImageStore


def rendered(dataset: Dataset) -> Image:
    return pixels.render(dcmread(stream_of(dataset)))


PLAIN = gradient(40, 32, 12).astype(np.float32) / 4095


def windowed(**elements: Any) -> Dataset:
    return dx(WindowCenter=2048, WindowWidth=4096, **elements)


def test_a_window_over_all_values_scales_them_to_0_to_1() -> None:
    image = rendered(windowed())
    assert image.dtype == np.float32
    assert image == pytest.approx(PLAIN, abs=1e-3)


def test_sixteen_bit_values_are_not_quantised() -> None:
    film = dx(bits=16, rows=64, columns=64, WindowCenter=32768, WindowWidth=65536)
    assert len(np.unique(rendered(film))) > 120  # each diagonal of the gradient: an 8-bit intermediate would merge some
    narrow = dx(bits=16)
    put_pixels(narrow, (30000 + np.arange(40 * 32) % 200).reshape(40, 32).astype(np.uint16), bits=16)
    narrow.WindowCenter, narrow.WindowWidth = 32768, 65536
    assert len(np.unique(rendered(narrow))) == 200


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    ],
)
def test_inversion_happens_once_for_every_combination_of_attributes(elements: dict[str, str]) -> None:
    assert rendered(windowed(**elements)) == pytest.approx(1 - PLAIN, abs=1e-3)


def test_monochrome1_and_monochrome2_give_the_same_image() -> None:
    other = windowed(PhotometricInterpretation="MONOCHROME1")
    put_pixels(other, (4095 - gradient(40, 32, 12)).astype(np.uint16), bits=12, photometric="MONOCHROME1")
    assert rendered(other) == pytest.approx(rendered(windowed()), abs=1e-3)


def test_padding_is_black_and_ignored_by_the_range_also_when_inverted() -> None:
    film = gradient(40, 32, 12)
    film[:5] = 4095
    padded = dx(PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    put_pixels(padded, film, bits=12, photometric="MONOCHROME1")
    image = rendered(padded)
    assert (image[:5] == 0).all()
    assert image[5:].max() == pytest.approx(1, abs=1e-3)
    padded.PixelPaddingRangeLimit = 4000
    assert (rendered(padded)[film >= 4000] == 0).all()


def test_the_window_applies_after_the_rescale() -> None:
    film = dx(RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=-1000 + 4095, WindowWidth=2 * 4096)
    assert rendered(film) == pytest.approx(PLAIN, abs=1e-3)


def test_the_first_window_and_the_voi_lut_function_are_used() -> None:
    several = dx(WindowCenter=[2048, 1], WindowWidth=[4096, 1])
    assert rendered(several) == pytest.approx(PLAIN, abs=1e-3)
    sigmoid = rendered(dx(WindowCenter=2048, WindowWidth=1000, VOILUTFunction="SIGMOID"))
    assert sigmoid.max() > 0.99
    assert sigmoid.min() < 0.01
    exact = rendered(dx(WindowCenter=2047.5, WindowWidth=4095, VOILUTFunction="LINEAR_EXACT"))
    assert exact == pytest.approx(PLAIN, abs=1e-4)


def test_a_voi_lut_has_precedence_over_the_window() -> None:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 8], list(np.linspace(255, 0, 4096).astype(int))
    table = dx(WindowCenter=1, WindowWidth=1, VOILUTSequence=Sequence([item]))
    table["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    table["VOILUTSequence"].value[0]["LUTData"].VR = "US"
    assert rendered(table) == pytest.approx(1 - PLAIN, abs=1 / 255)


def test_without_a_window_outliers_do_not_set_the_range() -> None:
    film = gradient(100, 100, 11)
    film[0, 0] = 4095
    bare = dx()
    put_pixels(bare, film, bits=12)
    assert 0.4 < float(np.median(rendered(bare))) < 0.6


def test_bits_above_the_stored_bits_are_ignored() -> None:
    film = windowed()
    marked = gradient(40, 32, 12) | 0x8000
    film.PixelData = marked.astype("<u2").tobytes()
    assert rendered(film) == pytest.approx(PLAIN, abs=1e-3)


def test_an_image_of_a_single_value_is_black() -> None:
    flat = dx()
    put_pixels(flat, np.full((8, 8), 7, np.uint16), bits=12)
    assert rendered(flat).max() == 0


def test_colour_is_converted_to_luminance() -> None:
    colour = dx()
    put_pixels(colour, np.zeros((6, 4), np.uint8), bits=8, photometric="RGB")
    colour.SamplesPerPixel, colour.PlanarConfiguration = 3, 0
    colour.PixelData = np.full((6, 4, 3), [255, 0, 0], np.uint8).tobytes()
    assert rendered(colour) == pytest.approx(np.full((6, 4), 0.299), abs=1e-3)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_uncompressed_syntaxes_are_decoded(syntax: str) -> None:
    film = windowed()
    if syntax.endswith("2.2"):
        film.PixelData = gradient(40, 32, 12).astype(">u2").tobytes()
    image = pixels.render(dcmread(BytesIO(file_of(film, syntax))))
    assert image == pytest.approx(PLAIN, abs=1e-3)


@pytest.mark.parametrize(
    ("syntax", "tolerance"),
    [("1.2.840.10008.1.2.5", 0), ("1.2.840.10008.1.2.4.80", 0), ("1.2.840.10008.1.2.4.90", 0), ("1.2.840.10008.1.2.4.81", 2)],
    ids=["RLE", "JPEG-LS", "JPEG 2000 lossless", "JPEG-LS near-lossless"],
)
def test_syntaxes_encoded_by_pydicom_are_decoded(syntax: str, tolerance: int) -> None:
    film = dcmread(stream_of(windowed()))
    compress(film, syntax, jls_error=tolerance or None)
    assert pixels.render(film) == pytest.approx(PLAIN, abs=1e-3 + tolerance / 4095)


@pytest.mark.validators
@pytest.mark.parametrize(
    ("command", "bits", "tolerance"),
    [
        (["dcmcjpeg", "+e1"], 12, 0),
        (["dcmcjpeg", "+el"], 12, 0),
        (["dcmcjpeg", "+eb"], 8, 4),
        (["dcmcjpls", "+el"], 12, 0),
        (["dcmcrle"], 12, 0),
        (["dcmconv", "+td"], 12, 0),
        (["dcmconv", "+tb"], 12, 0),
    ],
    ids=["JPEG lossless SV1", "JPEG lossless P14", "JPEG baseline", "JPEG-LS", "RLE", "deflated", "big endian"],
)
def test_syntaxes_encoded_by_dcmtk_are_decoded(tmp_path: Path, command: list[str], bits: int, tolerance: int) -> None:
    peers.require(command[0], "dcmtk")
    film = dx(bits=bits, rows=64, columns=48, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
    (tmp_path / "in.dcm").write_bytes(file_of(film))
    subprocess.run([*command, tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
    body, syntax = part10.split_file((tmp_path / "out.dcm").read_bytes())
    content = part10.file_bytes(
        body, sop_class_uid=film.SOPClassUID, sop_instance_uid=film.SOPInstanceUID, transfer_syntax_uid=syntax
    )
    expected = gradient(64, 48, bits).astype(np.float32) / (2**bits - 1)
    image = pixels.render(dcmread(BytesIO(content)))
    assert image == pytest.approx(expected, abs=1e-3 + tolerance / (2**bits - 1))


@pytest.mark.validators
def test_twelve_bit_lossy_jpeg_is_decoded_or_the_hint_names_the_codec(tmp_path: Path) -> None:
    peers.require("dcmcjpeg", "dcmtk")
    (tmp_path / "in.dcm").write_bytes(file_of(windowed(rows=64, columns=48)))
    subprocess.run(["dcmcjpeg", "+ee", tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
    try:
        image = pixels.render(dcmread(tmp_path / "out.dcm"))
    except PixelsUnreadable as error:
        assert "gpl-codecs" in error.hint
    else:
        assert image == pytest.approx(gradient(64, 48, 12) / 4095, abs=0.01)


@pytest.mark.validators
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_image_agrees_with_dcmtk_within_one_grey_level(tmp_path: Path, photometric: str) -> None:
    peers.require("dcmj2pnm", "dcmtk")
    film = dx(photometric=photometric, WindowCenter=1800, WindowWidth=2500, rows=64, columns=48)
    (tmp_path / "f.dcm").write_bytes(file_of(film))
    subprocess.run(["dcmj2pnm", "+Wi", "1", "+op", tmp_path / "f.dcm", tmp_path / "f.pgm"], check=True, capture_output=True)
    with PIL.Image.open(tmp_path / "f.pgm") as shown:
        reference = np.asarray(shown, dtype=float) / 255
    assert np.abs(rendered(film) - reference).max() <= 1.01 / 255


def _no_pixels() -> Dataset:
    film = dx()
    del film.PixelData
    return film


def _truncated() -> Dataset:
    film = dx()
    film.PixelData = film.PixelData[:100]
    return film


@pytest.mark.parametrize(
    ("film", "words"),
    [
        (_no_pixels(), "no pixel data"),
        (_truncated(), "truncated"),
        (dx(Rows=0), "is no radiograph"),
        (dx(Rows=65535, Columns=65535), "is no radiograph"),
        (dx(NumberOfFrames=9), "9 frames"),
    ],
    ids=["none", "truncated", "empty", "absurd", "frames"],
)
def test_data_sets_without_a_valid_image_are_refused(film: Dataset, words: str) -> None:
    with pytest.raises(PixelsUnreadable, match=words) as caught:
        rendered(film)
    assert caught.value.hint


def test_a_damaged_codestream_is_refused_with_its_instance_uid() -> None:
    film: FileDataset = dcmread(stream_of(dx()))
    compress(film, "1.2.840.10008.1.2.4.90")
    film.PixelData = film.PixelData[:60] + b"\0" * (len(film.PixelData) - 60)
    store, out = FakeImageStore(), BytesIO()
    film.save_as(out)
    header = part10.read_header(*part10.split_file(out.getvalue()))
    instance = StoredInstance(header, store.write(out.getvalue()), datetime.now(UTC))
    with pytest.raises(PixelsUnreadable, match=header.sop_instance_uid):
        pixels.DicomImageReader(store).read(instance)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("CR-MONO1-10-chest_nometa.dcm", (440, 440)),
        ("CR-ModalityLUT_jpegll_notchest.dcm", (1576, 1976)),
        ("siim_nih_jpegbaseline_1024.dcm", (1024, 1024)),
        ("nih_1024_rle.dcm", (1024, 1024)),
        ("nih_1024_explicit_be.dcm", (1024, 1024)),
        ("nih_google_implicit_1024.dcm", (1024, 1024)),
    ],
)
def test_real_images_are_decoded(name: str, shape: tuple[int, int]) -> None:
    body, syntax = part10.split_file(peers.shared(f"dicom/{name}").read_bytes())
    header = part10.read_header(body, syntax)
    content = part10.file_bytes(
        body, sop_class_uid=header.sop_class_uid, sop_instance_uid=header.sop_instance_uid, transfer_syntax_uid=syntax
    )
    image = pixels.render(dcmread(BytesIO(content)))
    assert image.shape == shape
    assert image.std() > 0.1
    assert (image.min(), image.max()) >= (0, 0.9)


def test_real_transcodings_are_identical() -> None:
    films = [
        rendered_file(f"dicom/{name}")
        for name in ("CR-MONO1-10-chest_nometa.dcm", "crmono1_10bit_jpegll_sv1.dcm", "crmono1_10bit_jpegls.dcm")
    ]
    assert (films[0] == films[1]).all()
    assert (films[0] == films[2]).all()


def rendered_file(path: str) -> Image:
    body, syntax = part10.split_file(peers.shared(path).read_bytes())
    return pixels.render(
        dcmread(BytesIO(part10.file_bytes(body, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=syntax)))
    )


def _table(**elements: Any) -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 12], np.arange(4096)[::-1].astype(np.uint16).tobytes()
    return dx(VOILUTSequence=Sequence([item]), **elements)


@pytest.mark.parametrize(
    "film",
    [
        windowed(),
        windowed(VOILUTFunction="SIGMOID", RescaleSlope=2, RescaleIntercept=-100),
        dx(photometric="MONOCHROME1", PixelPaddingValue=0, PixelPaddingRangeLimit=30),
        _table(),
    ],
)
def test_rows_equal_those_of_the_whole_image(film: Dataset) -> None:
    rendering = pixels.build_rendering(dcmread(stream_of(film)))
    whole = rendering[:]
    assert np.array_equal(np.concatenate([rendering[first : first + 7] for first in range(0, rendering.shape[0], 7)]), whole)
    assert np.array_equal(pixels.render(dcmread(stream_of(film))), whole)
