"""A data set while it is received: early or late parsing of the header, and errors raised at the end."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from adapters.dicom.image import part10
from adapters.dicom.network.received_dataset import HEADER_PREFIX_BYTES, ReceivedDataset
from pipeline.errors import DataSetMismatch, DataSetUnreadable, OutOfResources, RadclipdError
from pipeline.ports.services import Buffer
from tests.builders.dicom_files import EXPLICIT, dx, encoded, sr
from tests.builders.fakes.images import FakeIncomingFile

SYNTAXES = [EXPLICIT, ImplicitVRLittleEndian, ExplicitVRBigEndian]


class LimitedFile(FakeIncomingFile):
    """A file that is full after `room` bytes and counts how often it is read back."""

    def __init__(self, room: int = 1 << 40) -> None:
        super().__init__()
        self.room, self.opened = room, 0

    def write(self, content: Buffer) -> None:
        if len(self.content) + len(content) > self.room:
            raise OutOfResources("no room")
        super().write(content)

    def open(self) -> BinaryIO:
        self.opened += 1
        return super().open()


def received(
    film: Dataset, body: bytes, syntax: str = EXPLICIT, *, disk: LimitedFile | None = None, step: int = 10_000
) -> ReceivedDataset:
    file = disk or LimitedFile()
    dataset = ReceivedDataset(
        lambda: file, sop_class_uid=film.SOPClassUID, sop_instance_uid=film.SOPInstanceUID, transfer_syntax_uid=syntax
    )
    for begin in range(0, len(body), step):
        assert dataset.write(body[begin : begin + step]) == len(body[begin : begin + step])
    return dataset


def long_header() -> Dataset:
    """An image with a private element longer than the header prefix, before the elements of group 0010."""
    film = dx(rows=300, columns=300)
    film.add_new(0x00090010, "LO", "RADCLIPD TEST")
    film.add_new(0x00091001, "OB", b"x" * (3 * HEADER_PREFIX_BYTES))
    return film


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_short_header_is_parsed_during_reception(syntax: str) -> None:
    film, disk = dx(rows=300, columns=300), LimitedFile()
    header, file = received(film, encoded(film, syntax), syntax, disk=disk).finish()
    assert header == part10.read_header(encoded(film, syntax), syntax)
    assert file is disk
    assert disk.opened == 0
    assert part10.split_file(disk.content) == (encoded(film, syntax), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_long_header_is_read_from_the_file_at_the_end(syntax: str) -> None:
    film, disk = long_header(), LimitedFile()
    header, _ = received(film, encoded(film, syntax), syntax, disk=disk).finish()
    assert (header.patient_id, header.rows, header.has_pixels) == ("T-1", 300, True)
    assert disk.opened == 1


def test_data_sets_without_pixels_or_deflated_are_parsed_at_the_end() -> None:
    document = sr()
    header, _ = received(document, encoded(document)).finish()
    assert not header.has_pixels
    film, deflate = dx(rows=300, columns=300), zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflate.compress(encoded(film)) + deflate.flush()
    header, _ = received(film, deflated, DeflatedExplicitVRLittleEndian).finish()
    assert (header.sop_instance_uid, header.has_pixels) == (film.SOPInstanceUID, True)


@given(st.integers(1, 40_000), st.integers(0, 60_000))
def test_early_and_late_parsing_give_the_same_header_or_error(step: int, cut: int) -> None:
    film = dx(rows=150, columns=150)
    body = encoded(film)[:cut] if cut < 50_000 else encoded(film)
    results: list[object] = []
    readers: list[Callable[[], object]] = [
        lambda: part10.read_header(body, EXPLICIT),
        lambda: received(film, body, step=step).finish()[0],
    ]
    for read in readers:
        try:
            results.append(read())
        except RadclipdError as error:
            results.append(type(error))
    assert results[0] == results[1]


def test_a_full_disk_during_reception_is_raised_at_the_end_and_leaves_no_file() -> None:
    film, disk = dx(rows=300, columns=300), LimitedFile(room=50_000)
    dataset = received(film, encoded(film), disk=disk)
    with pytest.raises(OutOfResources), dataset:
        dataset.finish()
    assert disk.discarded


def test_a_file_that_cannot_be_opened_is_raised_at_the_end() -> None:
    def refuse() -> FakeIncomingFile:
        raise OutOfResources("disk below the guard")

    dataset = ReceivedDataset(refuse, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=EXPLICIT)
    assert dataset.write(b"film") == 4
    with pytest.raises(OutOfResources), dataset:
        dataset.finish()


def test_an_instance_other_than_the_requested_one_is_refused() -> None:
    film = dx(rows=300, columns=300)
    with pytest.raises(DataSetMismatch, match="SOPInstanceUID"):
        received(dx(), encoded(film)).finish()


def test_a_header_above_the_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "MAX_HEADER_BYTES", 10_000)
    film = dx(rows=300, columns=300, ViewCodeSequence=[Dataset() for _ in range(5000)])
    with pytest.raises(DataSetUnreadable):
        received(film, encoded(film)).finish()
    film = long_header()  # skipped, not read
    assert received(film, encoded(film)).finish()[0].rows == 300
