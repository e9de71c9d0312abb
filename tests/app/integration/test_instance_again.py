"""`radclipd listen` and an instance that comes again: in another transfer syntax, with another header, with another image."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGLosslessSV1, JPEGLSLossless
from pynetdicom import AE, build_context

from tests.builders import peers
from tests.builders.dicom_files import EXPLICIT, dx, file_of
from tests.builders.installation import Installation
from tests.builders.reception import wait_for


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, listener={"processes": 1, "calling_ae_titles": ["*"]})
    made.run("db", "upgrade")
    with made.running("listen"):
        wait_for(lambda: _is_listening(made.port), 30)
        yield made


def _is_listening(port: int) -> bool:
    association = AE("PROBE").associate("127.0.0.1", port, contexts=[build_context("1.2.840.10008.1.1")], ae_title="RADCLIPD")
    if association.is_established:
        association.release()
        return True
    return False


def send_file(place: Installation, dataset: FileDataset) -> int:
    syntax = dataset.file_meta.TransferSyntaxUID
    contexts = [build_context(dataset.SOPClassUID, syntax)]
    association = AE("ORTHANC").associate("127.0.0.1", place.port, contexts=contexts, ae_title="RADCLIPD")
    assert association.is_established
    answer = association.send_c_store(dataset)
    association.release()
    return int(answer.Status)


def test_the_same_image_again_is_success_and_another_is_refused(place: Installation) -> None:
    film = dx(StationName="A")
    assert send_file(place, dcmread(BytesIO(file_of(film)))) == 0
    assert send_file(place, dcmread(BytesIO(file_of(film)))) == 0
    packed = dcmread(BytesIO(file_of(film)))
    packed.compress(JPEGLSLossless, generate_instance_uid=False)
    assert send_file(place, packed) == 0
    film.StationName = "B"
    assert send_file(place, dcmread(BytesIO(file_of(film)))) == 0
    film.PixelData = bytes(len(film.PixelData))
    assert send_file(place, dcmread(BytesIO(file_of(film)))) == 0xC001
    wait_for(lambda: len(audit(place)) == 3)
    stored = {dcmread(file).StationName for file in (place.folder / "images").glob("??/*/*.dcm")}
    (current,) = place.rows("SELECT file_key, revision FROM v_instances")
    assert stored == {"A", "B"}  # the former file stays until retention
    assert (dcmread(place.folder / "images" / current["file_key"]).StationName, current["revision"]) == ("B", 1)
    assert [outcome for outcome, _ in audit(place)] == ["done", "done", "refused"]
    details = [detail for _, detail in audit(place)]
    assert JPEGLSLossless in details[0]
    assert "StationName" in details[1]
    assert details[2].startswith("0xC001")


def audit(place: Installation) -> list[tuple[str, str]]:
    rows = place.rows("SELECT outcome, detail FROM audit_events WHERE action = 'receive' ORDER BY id")
    return [(row["outcome"], row["detail"]) for row in rows]


def test_the_pair_of_a_real_sender_is_accepted_in_every_syntax(place: Installation) -> None:
    source, implicit, lossless = (dcmread(peers.shared(f"faults/{name}.dcm")) for name in ("dup_src", "dup_impl", "dup_jll"))
    assert [one.file_meta.TransferSyntaxUID for one in (source, implicit, lossless)] == [
        EXPLICIT,
        ImplicitVRLittleEndian,
        JPEGLosslessSV1,
    ]
    assert [send_file(place, one) for one in (source, implicit, lossless)] == [0, 0, 0]
    (former,) = place.rows("SELECT difference FROM v_instance_revisions")
    # The lossless file tells of its compression; the implicit one differs in encoding alone.
    assert former["difference"].endswith("another value of DerivationDescription")


def test_an_unmounted_store_refuses_and_is_not_made_anew(place: Installation) -> None:
    assert send_file(place, dcmread(BytesIO(file_of(dx())))) == 0
    images = place.folder / "images"
    images.rename(place.folder / "unmounted")
    images.mkdir()
    assert send_file(place, dcmread(BytesIO(file_of(dx())))) == 0xA700
    assert list(images.iterdir()) == []
    shutil.rmtree(images)
    (place.folder / "unmounted").rename(images)
    assert send_file(place, dcmread(BytesIO(file_of(dx())))) == 0
