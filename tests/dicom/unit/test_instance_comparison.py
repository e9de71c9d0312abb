"""Files of one instance: other encodings and other headers are the same instance, other pixels and other statements are not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from adapters.dicom.image import comparison_process, part10
from adapters.dicom.image.comparison_process import ComparisonProcess
from adapters.dicom.image.instance_comparison import compare_files, digest_pixels
from adapters.storage.image_store import FileImageStore
from pipeline.errors import OutOfResources
from tests.builders import peers
from tests.builders.dicom_files import EXPLICIT, dx, encoded, file_of, sr


def describe_difference(stored: bytes, incoming: bytes) -> str | None:
    """What `compare_files` says, in words."""
    found = compare_files(stored, incoming)
    return found.text if found else None


def file_in(dataset: Dataset, syntax: str) -> bytes:
    """The DICOM file of an uncompressed data set, in another transfer syntax."""
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        content = deflate.compress(encoded(dataset)) + deflate.flush()
    elif syntax == ExplicitVRBigEndian and "PixelData" in dataset:
        swapped = deepcopy(dataset)
        swapped.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        content = encoded(swapped, syntax)
    elif syntax in (EXPLICIT, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        content = encoded(dataset, syntax)
    else:
        return compressed(dataset, syntax)
    uids = {"sop_class_uid": dataset.SOPClassUID, "sop_instance_uid": dataset.SOPInstanceUID}
    return part10.file_bytes(content, transfer_syntax_uid=str(syntax), **uids)


def compressed(dataset: Dataset, syntax: str) -> bytes:
    whole = dcmread(BytesIO(file_of(dataset)))
    whole.compress(syntax, generate_instance_uid=False)
    target = BytesIO()
    whole.save_as(target)
    return target.getvalue()


UNCOMPRESSED = [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
SYNTAXES = [*UNCOMPRESSED, RLELossless, JPEGLSLossless, JPEG2000Lossless]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_another_lossless_transfer_syntax_is_the_same_image(syntax: str) -> None:
    film = dx()
    for stored, incoming in ((EXPLICIT, syntax), (syntax, EXPLICIT)):
        found = describe_difference(file_in(film, stored), file_in(film, incoming))
        assert found is not None
        assert found.startswith(f"transfer syntax {incoming} instead of {stored}")


def test_another_header_is_the_same_image_and_named_without_its_values() -> None:
    film = dx(PatientName="Doe^John", StationName="A")
    stored = file_of(film)
    film.PatientName, film.StudyDescription = "Roe^Jane", "another"
    del film.StationName
    found = describe_difference(stored, file_of(film))
    assert found == "another value of StationName, StudyDescription, PatientName"


def test_many_differing_elements_are_counted() -> None:
    film = dx()
    stored = file_of(film)
    for number in range(20):
        film.add_new((0x0009, 0x1000 + number), "LO", "x")
    found = describe_difference(stored, file_of(film))
    assert found is not None
    assert found.endswith(", 8 more")


def changed_pixel(film: Dataset) -> Dataset:
    film.PixelData = bytes([film.PixelData[0] ^ 1]) + film.PixelData[1:]
    return film


@pytest.mark.parametrize("syntax", [EXPLICIT, *SYNTAXES])
def test_one_other_pixel_is_another_image(syntax: str) -> None:
    film = dx()
    stored = file_of(film)
    assert describe_difference(stored, file_in(changed_pixel(film), syntax)) is None


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_transcoded_image_of_several_frames_is_the_same_image_unless_a_frame_differs(syntax: str) -> None:
    """Tomosynthesis and multi-frame captures: sent again by an archive that has compressed them."""
    film = dx()
    frame = np.frombuffer(film.PixelData, "<u2")
    film.PixelData = np.concatenate([frame, frame[::-1], frame // 2]).tobytes()
    film.NumberOfFrames = 3
    stored = file_of(film)
    for first, second in ((stored, file_in(film, syntax)), (file_in(film, syntax), stored)):
        assert (describe_difference(first, second) or "").startswith("transfer syntax")
    film.PixelData = np.concatenate([frame, frame, frame // 2]).tobytes()
    assert describe_difference(stored, file_in(film, syntax)) is None
    film.PixelData, film.NumberOfFrames = np.concatenate([frame, frame[::-1]]).tobytes(), 2
    assert describe_difference(stored, file_in(film, syntax)) is None


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    film = dx(rows=40, columns=32)
    stored = file_of(film)
    film.Rows, film.Columns = 32, 40
    assert describe_difference(stored, file_of(film)) is None
    del film.PixelData
    assert describe_difference(stored, file_of(film)) is None


@pytest.mark.parametrize("syntax", UNCOMPRESSED)
def test_a_document_in_another_transfer_syntax_is_the_same_and_with_another_statement_is_not(syntax: str) -> None:
    report = sr()
    report.add_new((0x0009, 0x0010), "LO", "SITE")
    report.add_new((0x0009, 0x1001), "LO", "private")
    stored = file_of(report)
    assert describe_difference(stored, file_in(report, syntax)) is not None
    report.CompletionFlag = "PARTIAL"
    assert describe_difference(stored, file_in(report, syntax)) is None


def test_the_digest_of_pixels_is_alike_for_every_lossless_encoding_and_header() -> None:
    film = dx()
    digest = digest_pixels(file_of(film))
    assert {digest_pixels(file_in(film, syntax)) for syntax in SYNTAXES} == {digest}
    film.PatientName = "Roe^Jane"
    assert digest_pixels(file_of(film)) == digest
    assert digest_pixels(file_of(changed_pixel(film))) != digest
    film.Rows, film.Columns = film.Columns * 2, film.Rows // 2
    assert digest_pixels(file_of(film)) != digest


def test_a_document_with_another_patient_is_the_same_document() -> None:
    report = sr()
    stored = file_of(report)
    report.PatientName, report.PatientID, report.AccessionNumber = "Roe^Jane", "P7", "A7"
    found = compare_files(stored, file_of(report))
    assert found is not None
    assert not found.is_encoding_only
    assert "PatientID" in found.text
    assert "P7" not in found.text


@pytest.fixture
def store(tmp_path: Path) -> FileImageStore:
    return FileImageStore(tmp_path / "images")


@pytest.fixture
def comparison(store: FileImageStore) -> Iterator[ComparisonProcess]:
    process = ComparisonProcess(store.root)
    yield process
    process.close()


def compare(comparison: ComparisonProcess, store: FileImageStore, stored: bytes, content: bytes) -> str | None:
    incoming = store.open_incoming()
    incoming.write(content)
    try:
        found = comparison.compare(store.write(stored), incoming)
        return found.text if found else None
    finally:
        incoming.discard()


def test_files_are_compared_in_another_process_that_survives_what_it_reads(
    comparison: ComparisonProcess, store: FileImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = dx()
    stored = file_of(film)
    assert "transfer syntax" in (compare(comparison, store, stored, file_in(film, JPEGLSLossless)) or "")
    assert compare(comparison, store, stored, b"rubbish") is None
    assert compare(comparison, store, stored, stored[:-100]) is None
    assert comparison._worker is not None
    comparison._worker.process.kill()
    comparison._worker.process.wait()
    film.StationName = "B"
    assert compare(comparison, store, stored, file_of(film)) == "another value of StationName"
    monkeypatch.setattr(comparison_process, "COMPARE_SECONDS", 0.0)
    big = dx(rows=3000, columns=3000)
    assert compare(comparison, store, file_of(big), file_in(big, RLELossless)) is None  # too long: different, as far as is known
    monkeypatch.undo()
    assert compare(comparison, store, stored, file_of(film)) == "another value of StationName"


def test_a_decompression_bomb_costs_the_comparison_only(comparison: ComparisonProcess, store: FileImageStore) -> None:
    film = dx()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(encoded(film)) + deflate.flush(zlib.Z_FULL_FLUSH)
    mebibyte = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    bomb += mebibyte * (5 << 10) + deflate.flush()
    uids: dict[str, Any] = {"sop_class_uid": film.SOPClassUID, "sop_instance_uid": film.SOPInstanceUID}
    content = part10.file_bytes(bomb, transfer_syntax_uid=DeflatedExplicitVRLittleEndian, **uids)
    assert compare(comparison, store, file_of(film), content) is None


def test_comparisons_wait_for_their_turn_and_not_for_ever(
    comparison: ComparisonProcess, store: FileImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_process, "QUEUE_SECONDS", 0.1)
    comparison._lock.acquire()
    try:
        with pytest.raises(OutOfResources, match="wait"):
            compare(comparison, store, b"a", b"b")
    finally:
        comparison._lock.release()


@pytest.mark.parametrize("name", ["dup_impl", "dup_jll"])
def test_the_same_film_of_a_real_pair_of_senders_is_the_same_image(name: str) -> None:
    stored, incoming = (peers.shared(f"faults/{one}.dcm").read_bytes() for one in ("dup_src", name))
    assert (describe_difference(stored, incoming) or "").startswith("transfer syntax")
