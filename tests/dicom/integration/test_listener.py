"""The listener with dcmtk and pynetdicom senders: storage, refusals, the association limit, shutdown."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import cast

import pytest
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_context
from pynetdicom.dimse_primitives import C_STORE

from adapters.dicom.image import part10
from adapters.dicom.network.dimse import VERIFICATION
from adapters.dicom.network.listener import Listener
from pipeline.errors import DifferentInstance, OutOfResources, RadclipdError
from tests.builders import peers
from tests.builders.dicom_files import EXPLICIT, dx, encoded, file_of, instance, sr
from tests.builders.reception import CT, DX, FakeReception, associate, listening, send, wait_for, with_meta


@pytest.fixture
def reception() -> FakeReception:
    return FakeReception()


@pytest.fixture
def listener(reception: FakeReception) -> Iterator[Listener]:
    with listening(reception) as running:
        yield running


def test_a_data_set_is_passed_to_receive_unchanged(listener: Listener, reception: FakeReception) -> None:
    film = dx()
    assert send(listener.port, film).Status == 0x0000
    ((header, content, sender),) = reception.received
    assert header.sop_instance_uid == film.SOPInstanceUID
    assert part10.split_file(content) == (encoded(film), EXPLICIT)
    assert (sender.ae_title, sender.called_ae_title) == ("ORTHANC", "RADCLIPD")
    wait_for(lambda: reception.released_studies == [[film.StudyInstanceUID]])


@pytest.mark.validators
def test_dcmtk_can_echo_and_store(listener: Listener, reception: FakeReception, tmp_path: Path) -> None:
    address = ["-aet", "ORTHANC", "-aec", "RADCLIPD", "127.0.0.1", str(listener.port)]
    subprocess.run([peers.require("echoscu", "dcmtk"), *address], check=True, capture_output=True)
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(file_of(dx()))
    subprocess.run([peers.require("dcmsend", "dcmtk"), *address, *tmp_path.glob("*.dcm")], check=True, capture_output=True)
    subprocess.run([peers.require("storescu", "dcmtk"), *address, tmp_path / "0.dcm"], check=True, capture_output=True)
    assert len(reception.received) == 4


def test_every_transfer_syntax_is_accepted(listener: Listener) -> None:
    for syntax in ALL_TRANSFER_SYNTAXES:
        association = AE("ORTHANC").associate("127.0.0.1", listener.port, contexts=[build_context(DX, syntax)], ae_title="RADCLIPD")
        assert [str(c.transfer_syntax[0]) for c in association.accepted_contexts] == [str(syntax)]
        association.release()


@pytest.mark.parametrize(
    ("calling", "called", "why"),
    [("STRANGER", "RADCLIPD", "calling_ae_titles"), ("ORTHANC", "WRONG", "called_ae_titles")],
)
def test_unknown_ae_titles_are_rejected_and_audited(
    listener: Listener, reception: FakeReception, calling: str, called: str, why: str
) -> None:
    association = associate(listener.port, calling=calling, called=called)
    assert association.is_rejected
    wait_for(lambda: reception.events)
    (event,) = reception.events
    assert (event.action, event.outcome) == ("association", "refused")
    assert why in event.detail
    assert send(listener.port, dx()).Status == 0


def test_a_wildcard_accepts_any_ae_title(reception: FakeReception) -> None:
    with listening(reception, calling_ae_titles=("*",), called_ae_titles=("*",)) as open_listener:
        assert send(open_listener.port, dx(), calling="WHO", called="EVER").Status == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfResources("disk below the guard"), 0xA700),
        (DifferentInstance("other content"), 0xC001),
        (RuntimeError("Doe^John"), 0xC002),
    ],
)
def test_an_error_of_receive_gives_a_failure_status(
    listener: Listener, reception: FakeReception, error: Exception, status: int
) -> None:
    reception.error = error
    answer = send(listener.port, dx())
    assert answer.Status == status
    assert "Doe" not in str(answer.get("ErrorComment"))
    (event,) = [e for e in reception.events if e.action == "receive"]
    assert event.detail.startswith(f"0x{status:04X}")
    assert "Doe" not in event.detail
    assert isinstance(error, RadclipdError) or "unexpected RuntimeError" in event.detail
    reception.error = None
    assert send(listener.port, dx()).Status == 0


def raw_store(port: int, body: bytes, *, sop_class: str = DX, uid: str = "1.2.3") -> int:
    """Send arbitrary bytes as the data set of a C-STORE; return the status."""
    association = associate(port)
    request = C_STORE()
    request.MessageID, request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = 1, sop_class, uid
    request.Priority, request.DataSet = 2, BytesIO(body)
    context = association.accepted_contexts[0].context_id
    assert context is not None
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert answer is not None
    return int(cast(C_STORE, answer).Status or 0)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"garbage that is no data set", 0xC000),
        (b"\0\0", 0xC000),
        (encoded(dx(SOPInstanceUID="1.2.3"))[:40], 0xA900),
        (encoded(dx(SOPInstanceUID="9.9.9")), 0xA900),
        (encoded(dx(SOPInstanceUID="1.2.3", SOPClassUID=CT)), 0xA900),
        (encoded(dx(SOPInstanceUID="1.2.3", StudyInstanceUID="")), 0xA900),
        (encoded(dx(SOPInstanceUID="1.2.3", StudyInstanceUID="../../etc/passwd")), 0xA900),
    ],
    ids=["garbage", "two bytes", "cut short", "another instance", "another class", "no study", "path as UID"],
)
def test_an_invalid_data_set_is_refused_and_the_next_one_stored(
    listener: Listener, reception: FakeReception, body: bytes, status: int
) -> None:
    assert raw_store(listener.port, body) == status
    assert not reception.received
    assert reception.events[0].outcome == "refused"
    assert send(listener.port, dx()).Status == 0


def test_unusual_but_legal_data_sets_are_stored(listener: Listener, reception: FakeReception) -> None:
    without_pixels = dx()
    del without_pixels.PixelData
    odd = [dx(PatientName="X" * 10_000, StudyDescription="Y" * 10_000), dx(Rows=65535, Columns=65535), without_pixels]
    assert [send(listener.port, film).Status for film in odd] == [0, 0, 0]
    assert [header.has_pixels for header, _, _ in reception.received] == [True, True, False]
    assert len(reception.received[0][0].study_description) <= 128


def test_reports_are_accepted_and_other_classes_by_configuration(listener: Listener, reception: FakeReception) -> None:
    assert send(listener.port, sr()).Status == 0
    assert not associate(listener.port, classes=(CT,)).is_established
    with listening(reception, other_storage="keep") as keeper:
        assert send(keeper.port, instance(CT, Modality="CT")).Status == 0
        assert send(keeper.port, instance("1.2.826.0.1.3680043.2.1143.1", Modality="OT")).Status == 0


def test_above_the_association_limit_senders_wait_and_are_served(reception: FakeReception) -> None:
    reception.gate.clear()
    with listening(reception, max_associations=1) as narrow:
        threads = [threading.Thread(target=send, args=(narrow.port, dx())) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        own = associate(narrow.port, calling="RADCLIPD", classes=(VERIFICATION, DX))  # the watchdog needs no slot
        assert own.send_c_echo().Status == 0
        assert own.send_c_store(with_meta(dx())).Status == 0x0124  # for C-VERIFICATION only
        own.release()
        reception.gate.set()
        for thread in threads:
            thread.join(15)
        assert len(reception.received) == 3
        assert [event.detail[:6] for event in reception.events if event.outcome == "refused"] == ["0x0124"]


def test_silent_and_invalid_connections_do_not_block_other_senders(listener: Listener) -> None:
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(5)]
    with socket.create_connection(("127.0.0.1", listener.port)) as rude:
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        begun = time.monotonic()
        assert send(listener.port, dx()).Status == 0
        assert time.monotonic() - begun < 2
    for client in silent:
        client.close()


def test_draining_lets_open_associations_end_and_accepts_no_more(reception: FakeReception) -> None:
    with listening(reception) as running:
        port = running.port
        association = associate(port)
        drained = threading.Thread(target=running.drain, args=(10,))
        drained.start()
        time.sleep(0.7)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        assert association.send_c_store(with_meta(dx())).Status == 0
        assert drained.is_alive()
        association.release()
        drained.join(5)
        assert not drained.is_alive()


def test_draining_aborts_open_associations_at_its_deadline(reception: FakeReception) -> None:
    with listening(reception) as running:
        association = associate(running.port)
        begun = time.monotonic()
        running.drain(0.5)
        assert 0.4 < time.monotonic() - begun < 4
        wait_for(lambda: association.is_aborted)


def test_an_adopted_socket_outlives_the_listener(reception: FakeReception) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as adopted:
        port = adopted.getsockname()[1]
        with listening(reception, adopted.dup()) as first:
            assert first.port == port
            assert send(port, dx()).Status == 0
        waiting = threading.Thread(target=send, args=(port, dx()))
        waiting.start()  # without a listener the connection waits in the backlog
        time.sleep(0.3)
        with listening(reception, adopted.dup()):
            waiting.join(10)
        assert len(reception.received) == 2


def test_the_watchdog_is_recognised_on_a_dual_stack_socket(reception: FakeReception) -> None:
    adopted = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with adopted, listening(reception, adopted.dup()) as running:
        own = associate(running.port, calling="RADCLIPD", classes=(VERIFICATION,))
        assert own.send_c_echo().Status == 0
        own.release()
        assert send(running.port, dx()).Status == 0
    assert reception.received[0][2].address == "127.0.0.1"


def test_instances_of_an_aborted_association_stay_and_no_study_is_released(listener: Listener, reception: FakeReception) -> None:
    association = associate(listener.port)
    assert association.send_c_store(with_meta(dx())).Status == 0
    association.abort()
    wait_for(lambda: any(event.detail == "aborted" for event in reception.events))
    assert (len(reception.received), reception.released_studies) == (1, [])
    told = [(event.action, event.outcome, event.detail) for event in reception.events]
    assert told[0] == ("association", "done", "1 instances stored, 0 known already; aborted")


def test_an_association_leaves_one_event_for_each_study(listener: Listener, reception: FakeReception) -> None:
    association = associate(listener.port)
    studies = ("1.2.1", "1.2.2", "1.2.1")
    for number, study in enumerate(studies):
        film = dx()
        film.StudyInstanceUID, film.SOPInstanceUID = study, f"1.2.3.{number}"
        assert association.send_c_store(with_meta(film)).Status == 0
    association.release()
    wait_for(lambda: len(reception.events) == 2)
    assert [(event.subject, event.detail, event.source) for event in reception.events] == [
        ("1.2.1", "2 instances stored, 0 known already; released", "ORTHANC 127.0.0.1"),
        ("1.2.2", "1 instances stored, 0 known already; released", "ORTHANC 127.0.0.1"),
    ]
