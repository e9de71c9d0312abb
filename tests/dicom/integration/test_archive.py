"""The archive client with Orthanc and with the embedded archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ComprehensiveSRStorage, generate_uid
from pynetdicom import AE, evt

from adapters.demo.embedded_archive import EmbeddedArchive
from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import OrthancServer, find_program
from adapters.dicom.image import part10
from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from pipeline.domain import Delivery, DeliveryState
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, RadclipdError, RefusedByArchive
from tests.builders import peers
from tests.builders.dicom_files import COMPREHENSIVE_3D_SR, dx, file_of
from tests.builders.report_of import report_on


@dataclass
class Peer:
    """A running archive and a client for it."""

    client: DicomArchive
    settings: ArchiveSettings


@pytest.fixture(scope="module", params=["embedded", pytest.param("orthanc", marks=pytest.mark.orthanc)])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        archive = EmbeddedArchive(folder)
        yield _peer(archive.port, "ORTHANC")
        archive.stop()
        return
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    (unused_port,) = free_ports(1)
    with OrthancServer(folder, radclipd_port=unused_port, forward=False) as orthanc:
        yield _peer(orthanc.dicom_port, "ORTHANC")


def _peer(port: int, ae_title: str) -> Peer:
    settings = ArchiveSettings(ae_title=ae_title, port=port, calling_ae_title="RADCLIPD", timeout_seconds=10)
    return Peer(DicomArchive(settings), settings)


def test_the_archive_answers_an_echo(peer: Peer) -> None:
    peer.client.echo()


def test_a_report_sent_twice_is_stored_and_counted_once(peer: Peer) -> None:
    report = file_of(report_on(dx(PatientName="PHANTOM^ARCHIVE")))
    study = report_study(report)
    assert peer.client.count_instances(study, limit_seconds=10) in (0, None)
    assert peer.client.store(report) == "0x0000"
    assert peer.client.store(report) in ("0x0000", "0x0111")
    assert peer.client.count_instances(study, limit_seconds=10) == 1


def report_study(content: bytes) -> str:
    return part10.read_header(*part10.split_file(content)).study_instance_uid


def test_the_archive_tells_which_objects_it_holds(peer: Peer) -> None:
    report = file_of(report_on(dx(PatientName="PHANTOM^PROOF")))
    header = part10.read_header(*part10.split_file(report))
    held = Delivery(
        id=1,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_instance_uid=header.series_instance_uid,
        study_instance_uid=header.study_instance_uid,
        destination="ORTHANC",
        state=DeliveryState.SENT,
    )
    lost = replace(held, sop_instance_uid=generate_uid())
    assert peer.client.find_instances([held], limit_seconds=10) == set()
    assert not peer.client.holds_study(held.study_instance_uid, limit_seconds=10)
    peer.client.store(report)
    assert peer.client.find_instances([lost, held, lost], limit_seconds=10) == {held.sop_instance_uid}
    assert peer.client.holds_study(held.study_instance_uid, limit_seconds=10)


def test_images_of_every_bit_depth_are_stored(peer: Peer) -> None:
    study = generate_uid()
    for bits in (8, 12, 16):
        peer.client.store(file_of(dx(bits=bits, StudyInstanceUID=study)))
    assert peer.client.count_instances(study, limit_seconds=10) == 3


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pynetdicom leaves the refused socket to the collector
def test_a_missing_archive_is_unreachable_for_every_request() -> None:
    (port,) = free_ports(1)
    missing = DicomArchive(ArchiveSettings(port=port, timeout_seconds=2))
    with pytest.raises(ArchiveUnreachable, match=f"127.0.0.1:{port}") as caught:
        missing.store(file_of(dx()))
    assert "archive.port" in caught.value.hint
    with pytest.raises(ArchiveUnreachable):
        missing.echo()
    with pytest.raises(ArchiveUnreachable):
        missing.count_instances("1.2", limit_seconds=2)


@pytest.mark.orthanc
def test_a_rejected_called_ae_title_is_unreachable(tmp_path: Path) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    (unused_port,) = free_ports(1)
    strict: dict[str, Any] = {"DicomAlwaysAllowStore": False, "DicomCheckCalledAet": True}
    with OrthancServer(tmp_path, radclipd_port=unused_port, forward=False, overrides=strict) as orthanc:
        wrong = replace(_peer(orthanc.dicom_port, "WRONG").settings)
        with pytest.raises(ArchiveUnreachable, match="rejects the association"):
            DicomArchive(wrong).store(file_of(report_on(dx())))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x0000, None),
        (0xB000, None),
        (0xB007, None),
        (0x0111, None),
        (0xA700, ArchiveBusy),
        (0x0110, ArchiveBusy),
        (0xA900, RefusedByArchive),
        (0xC000, RefusedByArchive),
        (0x0122, RefusedByArchive),
    ],
)
def test_every_store_status_is_temporary_or_permanent(status: int, error: type[RadclipdError] | None) -> None:
    with answering(status) as settings:
        archive = DicomArchive(settings)
        content = file_of(report_on(dx()))
        if error is None:
            assert archive.store(content) == f"0x{status:04X}"
        else:
            with pytest.raises(error, match=f"0x{status:04X}") as caught:
                archive.store(content)
            assert caught.value.hint


def test_a_sop_class_that_the_archive_does_not_accept_names_the_setting() -> None:
    with answering(0x0000, ComprehensiveSRStorage) as settings:
        with pytest.raises(RefusedByArchive) as caught:
            DicomArchive(settings).store(file_of(report_on(dx())))
        assert "report.sop_class" in caught.value.hint
        DicomArchive(settings).store(file_of(report_on(dx(), sop_class="comprehensive")))


class answering:
    """An SCP that answers each C-STORE with one status."""

    def __init__(self, status: int, sop_class: str = COMPREHENSIVE_3D_SR) -> None:
        ae = AE("PACS")
        ae.add_supported_context(sop_class)
        handlers: list[Any] = [(evt.EVT_C_STORE, lambda _event: status)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    def __enter__(self) -> ArchiveSettings:
        assert self._server is not None
        return ArchiveSettings(ae_title="PACS", port=self._server.server_address[1], timeout_seconds=5)

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
