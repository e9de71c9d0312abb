"""Pixel data read in place equals pydicom's, and windowing after the resize gives the same image."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import compress
from pydicom.sequence import Sequence

from adapters.dicom.image import part10, pixels, stored_values
from models.images.preprocess import Preprocess
from pipeline.errors import PixelsUnreadable
from tests.builders.dicom_files import dx, encoded, file_of, gradient, instance
from tests.builders.dicom_files import pixels as put_pixels

ROWS, COLUMNS = 210, 190
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


def large(**elements: Any) -> Dataset:
    """An image whose pixel data is read in place."""
    film = dx(rows=ROWS, columns=COLUMNS, **elements)
    return film


def read(content: bytes) -> np.ndarray[Any, Any]:
    """Read as in the product, compared with decoding the whole data set."""
    dataset, values = stored_values.read(content)
    assert dataset.SOPInstanceUID
    assert np.array_equal(values, stored_values.decode(dcmread(BytesIO(content))))
    return values


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_uncompressed_values_are_a_view_of_the_file(syntax: str) -> None:
    film, values = large(), gradient(ROWS, COLUMNS, 12)
    if syntax == BIG_ENDIAN:
        film.PixelData = values.astype(">u2").tobytes()
    found = read(file_of(film, syntax))
    assert np.array_equal(found, values)
    assert not found.flags.writeable


def test_a_deflated_file_is_decoded_as_a_whole() -> None:
    film = large()
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = compressor.compress(encoded(film)) + compressor.flush()
    content = part10.file_bytes(
        body, sop_class_uid=film.SOPClassUID, sop_instance_uid=film.SOPInstanceUID, transfer_syntax_uid=DEFLATED
    )
    assert np.array_equal(read(content), gradient(ROWS, COLUMNS, 12))


def test_a_compressed_file_is_decoded_as_a_whole() -> None:
    noise = np.random.default_rng(5).integers(0, 4096, (ROWS, COLUMNS), dtype=np.uint16)
    film = large()
    put_pixels(film, noise, bits=12)
    packed, out = dcmread(BytesIO(file_of(film))), BytesIO()
    compress(packed, "1.2.840.10008.1.2.5")
    packed.save_as(out)
    assert np.array_equal(read(out.getvalue()), noise)


def test_bits_above_the_stored_bits_are_masked() -> None:
    film = large()
    film.PixelData = (gradient(ROWS, COLUMNS, 12) | 0x9000).astype("<u2").tobytes()
    assert np.array_equal(read(file_of(film)), gradient(ROWS, COLUMNS, 12))


def test_signed_values_keep_their_sign() -> None:
    film, values = large(PixelRepresentation=1), gradient(ROWS, COLUMNS, 12).astype(np.int16) - 2048
    film.PixelData = (values & 0x0FFF).astype("<u2").tobytes()
    assert np.array_equal(read(file_of(film)), values)


def test_a_truncated_file_is_reported() -> None:
    with pytest.raises(PixelsUnreadable, match="truncated") as caught:
        stored_values.read(file_of(large())[:-1000])
    assert caught.value.hint


def test_missing_pixels_and_absurd_dimensions_are_refused() -> None:
    for film, words in ((instance("1.2"), "no pixel data"), (large(Rows=65535), "is no radiograph")):
        with pytest.raises(PixelsUnreadable, match=words):
            stored_values.read(file_of(film))


def table() -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 12], np.arange(4096)[::-1].astype(np.uint16).tobytes()
    return large(VOILUTSequence=Sequence([item]))


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize(
    "film",
    [
        large(WindowCenter=2000, WindowWidth=900),
        large(WindowCenter=100.5, WindowWidth=333.25, VOILUTFunction="LINEAR_EXACT", RescaleSlope=0.5, RescaleIntercept=-100),
        large(WindowCenter=2000, WindowWidth=900, PresentationLUTShape="INVERSE"),
        large(WindowCenter=2048, WindowWidth=4096, VOILUTFunction="SIGMOID"),
        large(photometric="MONOCHROME1", PixelPaddingValue=0, PixelPaddingRangeLimit=60),
        large(),
        table(),
    ],
    ids=["window", "exact and rescaled", "inverse", "sigmoid", "padded", "no window", "table"],
)
def test_windowing_after_the_resize_gives_the_same_image(film: Dataset, fit: Any) -> None:
    rendering = pixels.build_rendering(dcmread(BytesIO(file_of(film))))
    preprocess = Preprocess(size=64, fit=fit)
    assert preprocess.make_model_input_array(rendering) == pytest.approx(preprocess.make_model_input_array(rendering[:]), abs=2e-6)
