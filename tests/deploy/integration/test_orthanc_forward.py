"""A real Orthanc with our script: what it forwards, what it does not, and that it does not give up."""

from __future__ import annotations

import io
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Comprehensive3DSRStorage, Verification  # type: ignore[attr-defined]  # made at run time

from adapters.demo.loopback import LOOPBACK, free_ports
from adapters.demo.orthanc import MODALITY, OrthancServer, find_program
from adapters.dicom.image.comparison_process import ComparisonProcess
from adapters.dicom.network.listener import Listener, ListenerSettings
from adapters.simulator import scanner
from adapters.storage.image_store import FileImageStore
from pipeline.domain import VisibleKind
from pipeline.receive import InstanceReceiver, ReceivePolicy
from tests.builders import peers
from tests.builders.dicom_files import file_of
from tests.builders.fakes.catalog import FakeCatalog
from tests.builders.report_of import report_on, visible_on

pytestmark = pytest.mark.orthanc
RADIOGRAPHS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
PATIENCE = 25.0


class Receiver:
    """A small storage SCP in radclipd's place: keeps what it gets; answers `status`, or that of an instance in `statuses`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[str] = []
        self.modalities: list[str] = []
        self.status = 0x0000
        self.statuses: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server: object = None

    def start(self) -> None:
        entity = AE("RADCLIPD")
        entity.add_supported_context(Verification)
        for sop_class in (*RADIOGRAPHS, SecondaryCaptureImageStorage, BasicTextSRStorage, Comprehensive3DSRStorage):
            entity.add_supported_context(sop_class, ALL_TRANSFER_SYNTAXES)
        self._server = entity.start_server((LOOPBACK, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()  # type: ignore[attr-defined]  # pynetdicom ships no types
            self._server = None

    def _store(self, event: evt.Event) -> int:
        with self._lock:
            self.received.append(str(event.dataset.SOPInstanceUID))
            self.modalities.append(str(event.dataset.Modality))
        return self.statuses.get(self.received[-1], self.status)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver(free_ports(1)[0])
    yield running
    running.stop()


@pytest.fixture
def orthanc(tmp_path: Path, receiver: Receiver) -> Iterator[OrthancServer]:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    impatient = {"ExecuteLuaEnabled": True, "Radclipd": {"FirstWait": 1, "LongestWait": 1, "MostRefusals": 4}}
    with OrthancServer(tmp_path / "orthanc", radclipd_port=receiver.port, overrides=impatient) as server:
        yield server


def until(true: Callable[[], bool], patience: float = PATIENCE) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.1)
    return False


def film(number: int = 1, **technique: object) -> scanner.Examination:
    who = scanner.draw_patient(number, seed=5)
    return scanner.examine_patient(who, [scanner.Technique(**technique)], seed=5, size=(64, 64))  # type: ignore[arg-type]  # keywords are tried out


def elements(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def own_report(content: bytes) -> bytes:
    return document(content)


def document(content: bytes, *, modality: str = "SR", maker: str = "radclipd") -> bytes:
    """A document in the study of this image."""
    image = elements(content)
    report = pydicom.Dataset()
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        setattr(report, keyword, image[keyword].value)
    report.SOPClassUID, report.SOPInstanceUID, report.SeriesInstanceUID = Comprehensive3DSRStorage, generate_uid(), generate_uid()
    report.Modality, report.ManufacturerModelName = modality, maker
    report.file_meta = pydicom.dataset.FileMetaDataset()
    report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, report, enforce_file_format=True)
    return buffer.getvalue()


def send(orthanc: OrthancServer, examination: scanner.Examination) -> None:
    for scan in examination.instances:
        orthanc.upload(scan.content)


def image_uids(examination: scanner.Examination) -> list[str]:
    return [str(elements(scan.content).SOPInstanceUID) for scan in examination.instances]


def quiet(orthanc: OrthancServer, receiver: Receiver) -> list[str]:
    """What has been received by when two stable ages have passed with nothing running."""
    time.sleep(3)
    assert until(lambda: not [job for job in orthanc.get("/jobs?expand") if job["State"] in ("Pending", "Running")])
    return list(receiver.received)


def test_a_stable_study_is_forwarded_once_and_its_report_sends_nothing(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    examination = film()
    send(orthanc, examination)
    assert until(lambda: receiver.received == image_uids(examination))
    content = examination.instances[0].content
    card = visible_on(content, kind=VisibleKind.CARD, card_modality="DX")  # as a site may have it, to be routed as a film
    for own in (report_on(content), visible_on(content), card):
        orthanc.upload(file_of(own))
    assert quiet(orthanc, receiver) == image_uids(examination)
    assert orthanc.count_instances() == 4
    assert len(orthanc.find_instances(examination.study_instance_uid, "SR")) == 2


def test_readers_documents_follow_the_films_of_their_study(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    examination, other = film(1), film(2)
    content = examination.instances[0].content
    documents = [document(content, modality=modality, maker="Reading Station") for modality in ("SR", "KO")]
    for each in (*documents, own_report(content), document(other.instances[0].content, maker="CT Station")):
        orthanc.upload(each)
    send(orthanc, examination)
    expected = image_uids(examination) + [str(elements(each).SOPInstanceUID) for each in documents]
    assert until(lambda: len(receiver.received) >= 3)
    received = quiet(orthanc, receiver)
    assert received[0] == expected[0]
    assert sorted(received) == sorted(expected)  # nothing of ours, and nothing of a study without films


def test_a_late_image_goes_alone(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    both = scanner.examine_patient(
        scanner.draw_patient(1, seed=5), [scanner.Technique(), scanner.Technique(view="LL")], seed=5, size=(64, 64)
    )
    first, second = image_uids(both)
    orthanc.upload(both.instances[0].content)
    assert until(lambda: receiver.received == [first])
    orthanc.upload(both.instances[1].content)
    assert until(lambda: receiver.received == [first, second])
    assert quiet(orthanc, receiver) == [first, second]


def test_what_is_no_radiograph_stays(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    image = elements(film().instances[0].content)
    image.Modality = "OT"
    image.StudyInstanceUID = generate_uid()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    orthanc.upload(buffer.getvalue())
    orthanc.upload(own_report(film().instances[0].content))
    assert quiet(orthanc, receiver) == []


def test_what_failed_is_sent_again_when_radclipd_is_there(orthanc: OrthancServer, receiver: Receiver) -> None:
    one, two = film(1), film(2)
    send(orthanc, one)
    send(orthanc, two)
    assert until(lambda: [job["State"] for job in orthanc.get("/jobs?expand")] == ["Failure", "Failure"])
    receiver.start()
    assert until(lambda: sorted(receiver.received) == sorted(image_uids(one) + image_uids(two)))
    assert len(quiet(orthanc, receiver)) == 2


def test_a_restarted_orthanc_finishes_what_it_had_begun(orthanc: OrthancServer, receiver: Receiver) -> None:
    examination = film()
    send(orthanc, examination)
    assert until(lambda: any(job["State"] == "Failure" for job in orthanc.get("/jobs?expand")))
    orthanc.stop()
    receiver.start()
    orthanc.start()
    assert until(lambda: image_uids(examination)[0] in receiver.received)


def test_a_study_that_is_refused_is_left_alone_in_the_end_and_blocks_no_other(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    receiver.status = 0xA900
    refused = film(1)
    send(orthanc, refused)
    assert until(lambda: len(receiver.received) == 1)
    assert until(lambda: len(receiver.received) == 4)
    receiver.status = 0x0000
    fine = film(2)
    send(orthanc, fine)
    assert until(lambda: image_uids(fine)[0] in receiver.received)
    assert quiet(orthanc, receiver).count(image_uids(refused)[0]) == 4
    assert "is not retried" in orthanc.log.read_text(errors="replace")


def test_a_refused_instance_holds_back_no_other_and_is_not_sent_for_ever(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    views = [scanner.Technique(), scanner.Technique(view="LL"), scanner.Technique(view="AP"), scanner.Technique()]
    examination = scanner.examine_patient(scanner.draw_patient(1, seed=5), views, seed=5, size=(64, 64))
    *early, late = image_uids(examination)
    refused = early[0]
    receiver.statuses[refused] = 0xC001
    for scan in examination.instances[:3]:
        orthanc.upload(scan.content)
    assert until(lambda: set(early) <= set(receiver.received))
    assert until(lambda: "is not retried" in orthanc.log.read_text(errors="replace"))
    sent = quiet(orthanc, receiver)
    assert sent.count(refused) <= 5  # once with the others, then four times singly
    orthanc.upload(examination.instances[3].content)
    assert until(lambda: late in receiver.received)
    assert quiet(orthanc, receiver) == [*sent, late]
    orthanc.stop()
    orthanc.start()
    assert quiet(orthanc, receiver) == [*sent, late]  # remembered


def test_a_study_can_be_sent_by_rest(orthanc: OrthancServer, receiver: Receiver) -> None:
    receiver.start()
    examination = film()
    send(orthanc, examination)
    assert until(lambda: len(receiver.received) == 1)
    study = orthanc.find_study(examination.study_instance_uid)
    job = orthanc.post(f"/modalities/{MODALITY}/store", {"Resources": [study], "Synchronous": False})["ID"]
    assert until(lambda: orthanc.get(f"/jobs/{job}")["State"] == "Success")
    assert receiver.received == image_uids(examination) * 2


def test_where_orthanc_beats_no_shell_is_needed(orthanc: OrthancServer, receiver: Receiver) -> None:
    """Orthanc 1.11.1 calls OnHeartBeat by itself; here it is called by REST, and shells are out of order."""
    lua(orthanc, "io.popen = function() return nil end")
    examination = film()
    send(orthanc, examination)
    assert until(lambda: [job["State"] for job in orthanc.get("/jobs?expand")] == ["Failure"])
    receiver.start()
    assert not until(lambda: bool(receiver.received), patience=2)
    lua(orthanc, "OnHeartBeat()")
    assert until(lambda: receiver.received == image_uids(examination))


@pytest.fixture
def catalog(receiver: Receiver, tmp_path: Path) -> Iterator[FakeCatalog]:
    """The catalog of our own listener, in the place of the receiver."""
    kept, images = FakeCatalog(), FileImageStore(tmp_path / "images")
    comparison = ComparisonProcess(images.root)
    taking = InstanceReceiver(catalog=kept, images=images, policy=ReceivePolicy(min_free_bytes=0), comparison=comparison)
    events = kept.tables.audit  # what the listener itself refuses
    listener = Listener(
        ListenerSettings(host=LOOPBACK, port=receiver.port, calling_ae_titles=("*",)),
        open_incoming=taking.open_incoming,
        receive=taking.receive,
        mark_released=lambda studies, events: None,
        audit=events.append,
    )
    listener.start()
    yield kept
    listener.drain(1)
    comparison.close()


def test_a_corrected_patient_arrives_once_and_other_pixels_are_not_sent_for_ever(
    orthanc: OrthancServer, catalog: FakeCatalog
) -> None:
    """Orthanc takes an instance of another patient for a new one, and forwards it by itself."""
    image = elements(film().instances[0].content)
    uid, study = str(image.SOPInstanceUID), str(image.StudyInstanceUID)
    orthanc.upload(file_of_dataset(image))
    assert until(lambda: uid in catalog.tables.instances)
    image.PatientID = "CORRECTED"
    orthanc.upload(file_of_dataset(image))
    assert until(lambda: catalog.tables.instances[uid].revision == 1)
    assert catalog.tables.studies[study].patient_key.startswith("CORRECTED")
    image.PatientID = "OTHER"
    image.PixelData = bytes(len(image.PixelData))
    orthanc.upload(file_of_dataset(image))
    assert until(lambda: "is not retried" in orthanc.log.read_text(errors="replace"))
    jobs = len(orthanc.get("/jobs"))
    time.sleep(4)  # several times the longest wait between two attempts
    assert len(orthanc.get("/jobs")) == jobs
    assert jobs <= 2 + 5  # one job for each accepted film; one and four refusals
    assert catalog.tables.instances[uid].revision == 1
    assert catalog.tables.studies[study].patient_key.startswith("CORRECTED")


def file_of_dataset(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def lua(orthanc: OrthancServer, script: str) -> None:
    request = urllib.request.Request(f"{orthanc.url}/tools/execute-script", data=script.encode(), method="POST")
    urllib.request.urlopen(request, timeout=10).close()
