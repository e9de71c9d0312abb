"""What stands before the pixel data must not hide them, and a deflated file never grows beyond the reader's limit."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import compress
from pydicom.uid import JPEG2000Lossless

from adapters.dicom.image import image_file, part10, stored_values
from adapters.dicom.image.pixels import DicomImageReader
from adapters.dicom.sr.evidence import evidence_of
from adapters.dicom.sr.label_reader import DicomDocumentReader, DocumentSettings
from adapters.dicom.sr.text import lines_of_file
from pipeline.errors import DataSetUnreadable, PixelsUnreadable, ReportImpossible
from tests.builders.dicom_files import dx, encoded, file_of, gradient, sr
from tests.builders.fakes.images import FakeImageStore, stored_instance

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
GREYS = gradient(40, 32, 12)


def deflated(dataset: Dataset, *, behind: bytes = b"") -> bytes:
    """The file of a data set, deflated; `behind`: more encoded elements at its end."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = compressor.compress(encoded(dataset) + behind) + compressor.flush()
    return part10.file_bytes(
        body,
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=DEFLATED,
    )


def zeros(tag: int, length: int) -> bytes:
    """An element of VR OB full of zeros."""
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"OB", 0, length) + b"\0" * length


BOMB_BYTES = image_file.MAX_INFLATED_BYTES + (1 << 20)


def test_a_deflated_file_is_inflated_within_its_limit() -> None:
    content = deflated(dx())
    assert np.array_equal(stored_values.read(content)[1], GREYS)
    assert dcmread(BytesIO(image_file.inflate_file(content))).Rows == 40
    with pytest.raises(DataSetUnreadable, match="inflates to more than 1000"):
        image_file.inflate_file(content, max_bytes=1000)


def test_a_file_that_was_not_deflated_is_returned_as_it_is() -> None:
    content = file_of(dx(StudyDescription=f"about {DEFLATED}"))
    assert image_file.inflate_file(content) is content


def test_a_deflate_bomb_is_refused_by_every_reader() -> None:
    film = deflated(dx(), behind=zeros(0x7FE10010, BOMB_BYTES))
    assert len(film) < BOMB_BYTES // 500
    with pytest.raises(DataSetUnreadable, match="inflates to more than"):
        stored_values.read(film)
    with pytest.raises(ReportImpossible):
        evidence_of(film)
    document = deflated(sr(), behind=zeros(0x7FE10010, image_file.MAX_INFLATED_DOCUMENT_BYTES + 2))
    assert "inflates to more than" in DicomDocumentReader(DocumentSettings()).read(document).reason
    with pytest.raises(DataSetUnreadable):
        list(lines_of_file(document))


@pytest.mark.parametrize(("first", "last"), [(0, -30), (0, -1)])
def test_a_truncated_or_damaged_deflated_file_is_refused(first: int, last: int) -> None:
    with pytest.raises(DataSetUnreadable, match="truncated"):
        image_file.inflate_file(deflated(dx())[first:last])
    content = bytearray(deflated(dx()))
    content[-40:] = b"\xff" * 40
    with pytest.raises(DataSetUnreadable, match=r"damaged|truncated"):
        image_file.inflate_file(bytes(content))


def test_the_film_of_a_bomb_is_unreadable_with_the_reason() -> None:
    store = FakeImageStore()
    instance = stored_instance(store, deflated(dx(), behind=zeros(0x7FE10010, BOMB_BYTES)))
    with pytest.raises(PixelsUnreadable, match=rf"instance {instance.header.sop_instance_uid}: .* inflates to more than"):
        DicomImageReader(store).read(instance)


def header_and_values(body: bytes, syntax: str) -> tuple[bool, str, Any]:
    """What the listener learns from the beginning and from the whole, and the stored values."""
    header = part10.read_header(body, syntax)
    content = part10.file_bytes(body, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=syntax)
    return header.has_pixels, header.view_position, stored_values.read(content)[1]


def with_element(element: bytes, before: int, syntax: str = EXPLICIT, **elements: Any) -> bytes:
    """An encoded film with one more encoded element before the first whose tag is larger than `before`."""
    film = dx(**elements)
    if syntax == BIG_ENDIAN:
        film.PixelData = GREYS.astype(">u2").tobytes()
    head, tail = Dataset(), Dataset()
    for each in film:
        (head if each.tag < before else tail)[each.tag] = each
    return encoded(head, syntax) + element + encoded(tail, syntax)


def icon(syntax: str, *, lie: int, item_lie: int | None = None, private: bool = False) -> bytes:
    """An icon, or a private sequence, whose stated length is wrong by `lie` bytes, that of its item by `item_lie`."""
    inner = Dataset()
    inner.SamplesPerPixel, inner.PhotometricInterpretation, inner.Rows, inner.Columns = 1, "MONOCHROME2", 8, 8
    inner.BitsAllocated = inner.BitsStored = 8
    inner.HighBit, inner.PixelRepresentation = 7, 0
    inner.add_new(0x7FE00010, "OW", bytes(range(64)))
    order = ">" if syntax == BIG_ENDIAN else "<"
    content = encoded(inner, syntax)
    stated = len(content) + (lie if item_lie is None else item_lie)
    item = struct.pack(f"{order}HHL", 0xFFFE, 0xE000, stated) + content
    tag = (0x0029, 0x1010) if private else (0x0088, 0x0200)
    vr = b"" if syntax == IMPLICIT else b"SQ\0\0"
    return struct.pack(f"{order}HH", *tag) + vr + struct.pack(f"{order}L", len(item) + lie) + item


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("lie", "item_lie"), [(0, 0), (-24, -24), (-10, 0), (-2, -2), (40, 0), (6, 0)], ids=str)
def test_a_sequence_of_a_wrong_length_does_not_hide_the_pixels(syntax: str, private: bool, lie: int, item_lie: int) -> None:
    body = with_element(
        icon(syntax, lie=lie, item_lie=item_lie, private=private), 0x00880200 if not private else 0x00290000, syntax
    )
    has_pixels, view, values = header_and_values(body, syntax)
    assert (has_pixels, view) == (True, "PA")
    assert np.array_equal(values, GREYS)
    assert part10.read_header_from_prefix(body, syntax) in (None, part10.read_header(body, syntax))


@pytest.mark.parametrize(("lie", "item_lie"), [(30, 5001), (100_000, 0)])
def test_a_sequence_that_cannot_be_followed_loses_the_pixels_with_the_reason(lie: int, item_lie: int) -> None:
    body = with_element(icon(EXPLICIT, lie=lie, item_lie=item_lie), 0x00880200)
    header = part10.read_header(body, EXPLICIT)
    assert (header.has_pixels, header.view_position, header.rows) == (True, "PA", 40)  # so that the reader is asked
    content = part10.file_bytes(body, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=EXPLICIT)
    with pytest.raises(PixelsUnreadable, match="no pixel data"):
        stored_values.read(content)


@pytest.mark.parametrize("vr", [b"ZZ", b"QQ", b"AA", b"OX"])
@pytest.mark.parametrize("length", [0, 4, 5, 200])
@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("tag", [0x00090010, 0x00290001, 0x00291001])
def test_an_unknown_vr_is_skipped_in_either_form(vr: bytes, length: int, is_long: bool, tag: int) -> None:
    field = struct.pack("<HL", 0, length) if is_long else struct.pack("<H", length)
    element = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr) + field + b"A" * length
    has_pixels, view, values = header_and_values(with_element(element, tag), EXPLICIT)
    assert (has_pixels, view) == (True, "PA")
    assert np.array_equal(values, GREYS)


@pytest.mark.parametrize(("vr", "value"), [(b"LO", b"odd"), (b"DS", b"1,5"), (b"US", b"\1\2\3"), (b"IS", b"one"), (b"DA", b"x")])
@pytest.mark.parametrize("tag", [0x00181164, 0x00280030, 0x00280009, 0x00291001, 0x00080018 + 0x10])
def test_an_element_that_nobody_needs_never_costs_a_film(vr: bytes, value: bytes, tag: int) -> None:
    film = dx()
    if tag in film:
        del film[tag]
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
    parts = [Dataset(), Dataset()]
    for each in film:
        parts[each.tag > tag][each.tag] = each
    has_pixels, view, values = header_and_values(encoded(parts[0]) + element + encoded(parts[1]), EXPLICIT)
    assert (has_pixels, view) == (True, "PA")
    assert np.array_equal(values, GREYS)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_group_length_and_extended_offset_table_stand_before_the_pixels(syntax: str) -> None:
    film = dx(ExtendedOffsetTable=b"\0" * 8, ExtendedOffsetTableLengths=struct.pack("<Q", 2560))
    group_length = (
        struct.pack("<HH", 0x7FE0, 0) + (b"" if syntax == IMPLICIT else b"UL\4\0") + b"\4\0\0\0" * (1 + (syntax == IMPLICIT))
    )
    body = encoded(film, syntax)
    at = body.index(struct.pack("<HH", 0x7FE0, 1))
    has_pixels, _, values = header_and_values(body[:at] + group_length + body[at:], syntax)
    assert has_pixels
    assert np.array_equal(values, GREYS)


def test_a_compressed_film_with_an_extended_offset_table_is_read() -> None:
    packed, out = dcmread(BytesIO(file_of(dx()))), BytesIO()
    compress(packed, JPEG2000Lossless, encapsulate_ext=True)
    assert "ExtendedOffsetTable" in packed
    packed.save_as(out)
    has_pixels, _, values = header_and_values(*part10.split_file(out.getvalue()))
    assert has_pixels
    assert np.array_equal(values, GREYS)


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_count_as_pixels(keyword: str) -> None:
    film = dx()
    del film.PixelData
    setattr(film, keyword, b"\0" * 40 * 32 * 8)
    assert part10.read_header(encoded(film), EXPLICIT).has_pixels
