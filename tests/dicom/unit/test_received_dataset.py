"""A data set on its way to the disk: the header is read early where it can be, from the file where it is long, and faults wait."""

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


class Disk(FakeIncomingFile):
    """Full after so many bytes; says how often it was read back."""

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


def taken(film: Dataset, body: bytes, syntax: str = EXPLICIT, *, disk: Disk | None = None, step: int = 10_000) -> ReceivedDataset:
    arriving = disk or Disk()
    intake = ReceivedDataset(
        lambda: arriving, sop_class_uid=film.SOPClassUID, sop_instance_uid=film.SOPInstanceUID, transfer_syntax_uid=syntax
    )
    for begin in range(0, len(body), step):
        assert intake.write(body[begin : begin + step]) == len(body[begin : begin + step])
    return intake


def long_header() -> Dataset:
    """A film with a private element longer than what is looked at first, before everything of interest from group 0010 on."""
    film = dx(rows=300, columns=300)
    film.add_new(0x00090010, "LO", "RADCLIPD TEST")
    film.add_new(0x00091001, "OB", b"x" * (3 * HEADER_PREFIX_BYTES))
    return film


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_ordinary_header_is_read_on_the_way(syntax: str) -> None:
    film, disk = dx(rows=300, columns=300), Disk()
    header, arriving = taken(film, encoded(film, syntax), syntax, disk=disk).finish()
    assert header == part10.read_header(encoded(film, syntax), syntax)
    assert arriving is disk
    assert disk.opened == 0
    assert part10.split_file(disk.content) == (encoded(film, syntax), syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_long_header_is_read_from_the_file(syntax: str) -> None:
    film, disk = long_header(), Disk()
    header, _ = taken(film, encoded(film, syntax), syntax, disk=disk).finish()
    assert (header.patient_id, header.rows, header.has_pixels) == ("T-1", 300, True)
    assert disk.opened == 1


def test_what_has_no_pixels_and_what_is_deflated_is_read_at_the_end() -> None:
    document = sr()
    header, _ = taken(document, encoded(document)).finish()
    assert not header.has_pixels
    film, deflate = dx(rows=300, columns=300), zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = deflate.compress(encoded(film)) + deflate.flush()
    header, _ = taken(film, deflated, DeflatedExplicitVRLittleEndian).finish()
    assert (header.sop_instance_uid, header.has_pixels) == (film.SOPInstanceUID, True)


@given(st.integers(1, 40_000), st.integers(0, 60_000))
def test_early_or_late_the_header_is_the_same_or_refused_alike(step: int, cut: int) -> None:
    film = dx(rows=150, columns=150)
    body = encoded(film)[:cut] if cut < 50_000 else encoded(film)
    told: list[object] = []
    readers: list[Callable[[], object]] = [
        lambda: part10.read_header(body, EXPLICIT),
        lambda: taken(film, body, step=step).finish()[0],
    ]
    for read in readers:
        try:
            told.append(read())
        except RadclipdError as error:
            told.append(type(error))
    assert told[0] == told[1]


def test_a_disk_that_fills_up_on_the_way_is_told_at_the_end_and_nothing_stays() -> None:
    film, disk = dx(rows=300, columns=300), Disk(room=50_000)
    intake = taken(film, encoded(film), disk=disk)
    with pytest.raises(OutOfResources), intake:
        intake.finish()
    assert disk.discarded


def test_a_disk_that_takes_nothing_at_all_is_told_at_the_end() -> None:
    def refuse() -> FakeIncomingFile:
        raise OutOfResources("disk below the guard")

    intake = ReceivedDataset(refuse, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=EXPLICIT)
    assert intake.write(b"film") == 4
    with pytest.raises(OutOfResources), intake:
        intake.finish()


def test_another_instance_than_the_request_named_is_refused() -> None:
    film = dx(rows=300, columns=300)
    with pytest.raises(DataSetMismatch, match="SOPInstanceUID"):
        taken(dx(), encoded(film)).finish()


def test_a_header_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "LARGEST_HEADER", 10_000)
    film = dx(rows=300, columns=300, ViewCodeSequence=[Dataset() for _ in range(5000)])
    with pytest.raises(DataSetUnreadable):
        taken(film, encoded(film)).finish()
    film = long_header()  # passed over, not read
    assert taken(film, encoded(film)).finish()[0].rows == 300
