"""Storage commitment (PS3.4 annex J) in both roles, with pynetdicom's own implementation and with Orthanc's."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, build_role, evt

from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import MODALITY, OrthancServer, find_program
from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from adapters.dicom.network.commitment import CommitmentRequest, ReferencedObject, build_request, build_result, read_result
from adapters.dicom.network.commitment_service import CommitmentService, CommitmentSettings
from adapters.dicom.network.dimse import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, VERIFICATION
from adapters.service.systemd import bind
from pipeline.commitment import CommitmentFault
from pipeline.domain import Delivery, DeliveryState, Sender
from pipeline.errors import ArchiveUnreachable, OutOfResources, RefusedByArchive
from tests.builders import peers
from tests.builders.dicom_files import dx, file_of
from tests.builders.reception import FakeReception, listening, wait_for

DX = "1.2.840.10008.5.1.4.1.1.1.1"
HELD, LOST, MISTAKEN = ReferencedObject(DX, "1.2.1"), ReferencedObject(DX, "1.2.2"), ReferencedObject(DX, "1.2.3")


@dataclass
class Safekeeping:
    """The steps behind the service: it holds `held`, and keeps the results that archives report."""

    held: set[str] = field(default_factory=lambda: {HELD.sop_instance_uid})
    asked: list[Sender] = field(default_factory=list)
    results: dict[str, Mapping[str, str]] = field(default_factory=dict)
    knows_transactions: bool = True
    error: Exception | None = None

    def find_uncommitted(self, objects: Sequence[tuple[str, str]], sender: Sender) -> dict[str, CommitmentFault]:
        self.asked.append(sender)
        if self.error:
            raise self.error
        faults = {MISTAKEN.sop_instance_uid: CommitmentFault.OTHER_CLASS}
        return {uid: faults.get(uid, CommitmentFault.UNKNOWN) for _, uid in objects if uid not in self.held}

    def record_commitment(self, transaction_uid: str, result: Mapping[str, str]) -> bool:
        self.results[transaction_uid] = result
        return self.knows_transactions

    def service(self, **settings: Any) -> CommitmentService:
        return CommitmentService(CommitmentSettings(**settings), self.find_uncommitted, self.record_commitment)


@dataclass
class Requestor:
    """pynetdicom's Storage Commitment SCU. `results`: what was reported, on whichever association."""

    results: queue.Queue[Dataset] = field(default_factory=queue.Queue)

    def take_result(self, event: evt.Event) -> tuple[int, None]:
        self.results.put(event.event_information)
        return 0x0000, None

    @contextlib.contextmanager
    def associate(self, port: int, *, syntax: str = ExplicitVRLittleEndian) -> Iterator[Any]:
        ae = AE("ORTHANC")
        association = ae.associate(
            "127.0.0.1",
            port,
            contexts=[build_context(STORAGE_COMMITMENT, syntax), build_context(VERIFICATION)],
            ae_title="RADCLIPD",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take_result)],
        )
        assert association.is_established
        yield association
        association.release()

    @contextlib.contextmanager
    def serve(self) -> Iterator[int]:
        ae = AE("ORTHANC")
        ae.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take_result)])
        assert server is not None
        yield int(server.server_address[1])
        server.shutdown()


def ask(association: Any, *objects: ReferencedObject, transaction: str = "2.25.77") -> int:
    information = build_request(CommitmentRequest(transaction, objects))
    answer, _ = association.send_n_action(information, 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
    return int(answer.Status)


EXPECTED = {
    HELD.sop_instance_uid: "",
    LOST.sop_instance_uid: "not committed: 0x0112 no such object",
    MISTAKEN.sop_instance_uid: "not committed: 0x0119 another SOP class",
}

# Our SCP


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_sender_gets_its_result_on_the_same_association(syntax: str) -> None:
    keeping, requestor = Safekeeping(), Requestor()
    service = keeping.service(is_provider=True)
    with (
        listening(FakeReception(), commitment=service) as listener,
        requestor.associate(listener.port, syntax=syntax) as association,
    ):
        assert ask(association, HELD, LOST, MISTAKEN) == 0x0000
        assert read_result(requestor.results.get(timeout=5)) == ("2.25.77", EXPECTED)
        assert ask(association, HELD, transaction="2.25.78") == 0x0000
        assert read_result(requestor.results.get(timeout=5)) == ("2.25.78", {HELD.sop_instance_uid: ""})
        assert association.send_c_echo().Status == 0x0000
    assert keeping.asked == [Sender("ORTHANC", "127.0.0.1", "RADCLIPD")] * 2


def test_a_sender_with_an_address_gets_its_result_there() -> None:
    keeping, requestor = Safekeeping(), Requestor()
    with requestor.serve() as port:
        service = keeping.service(is_provider=True, reply_to={"ORTHANC": ("127.0.0.1", port)})
        with listening(FakeReception(), commitment=service) as listener, requestor.associate(listener.port) as association:
            assert ask(association, HELD, LOST, MISTAKEN) == 0x0000
        assert read_result(requestor.results.get(timeout=10)) == ("2.25.77", EXPECTED)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"error": OutOfResources("the catalog is away")}, 0x0110),
        ({"error": ValueError("anything")}, 0x0110),
    ],
)
def test_a_request_that_cannot_be_answered_now_is_no_success(change: dict[str, Any], status: int) -> None:
    requestor = Requestor()
    service = Safekeeping(**change).service(is_provider=True)
    with listening(FakeReception(), commitment=service) as listener, requestor.associate(listener.port) as association:
        assert ask(association, HELD) == status
        assert association.send_c_echo().Status == 0x0000
    assert requestor.results.empty()


def test_a_request_without_uids_is_refused_and_the_association_goes_on() -> None:
    keeping, requestor = Safekeeping(), Requestor()
    service = keeping.service(is_provider=True)
    with listening(FakeReception(), commitment=service) as listener, requestor.associate(listener.port) as association:
        assert ask(association) == 0x0115
        assert ask(association, ReferencedObject(DX, "")) == 0x0115
        assert association.send_c_echo().Status == 0x0000
    assert keeping.asked == []


def test_a_request_without_end_is_aborted() -> None:
    """A data set of more than a mebibyte: about 7000 objects are asked for at a time."""
    reception = FakeReception()
    service = Safekeeping().service(is_provider=True)
    objects = [ReferencedObject(DX, f"1.2.3.{'9' * 50}.{number}") for number in range(12_000)]
    with listening(reception, commitment=service) as listener:
        association = AE("ORTHANC").associate(
            "127.0.0.1", listener.port, contexts=[build_context(STORAGE_COMMITMENT)], ae_title="RADCLIPD"
        )
        information = build_request(CommitmentRequest("2.25.77", objects))
        association.send_n_action(information, 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
        wait_for(lambda: reception.events)
    assert "the data set of a storage commitment message is too long" in reception.events[0].detail


def test_commitment_is_off_unless_configured() -> None:
    with (
        listening(FakeReception()) as listener,
        Requestor().associate(listener.port) as association,
        pytest.raises(ValueError, match="No presentation context"),
    ):
        ask(association, HELD)
    service = Safekeeping().service(takes_results=True)
    with listening(FakeReception(), commitment=service) as listener, Requestor().associate(listener.port) as association:
        assert ask(association, HELD) == 0x0124


# Our SCU


@dataclass
class Provider:
    """pynetdicom's Storage Commitment SCP: it reports on the same association, or to `report_to`, a port, on another one."""

    held: set[str]
    report_to: int | None = None
    status: int = 0x0000
    port: int = 0

    @contextlib.contextmanager
    def serve(self) -> Iterator[DicomArchive]:
        ae = AE("ARCHIVE")
        ae.add_supported_context(STORAGE_COMMITMENT)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, self._answer)])
        assert server is not None
        settings = ArchiveSettings(ae_title="ARCHIVE", port=server.server_address[1], timeout_seconds=5)
        yield DicomArchive(settings)
        server.shutdown()

    def _answer(self, event: evt.Event) -> tuple[int, None]:
        if self.status == 0x0000:
            information = event.action_information
            objects = [
                ReferencedObject(str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
                for one in information.ReferencedSOPSequence
            ]
            lost = {one.sop_instance_uid: 0x0112 for one in objects if one.sop_instance_uid not in self.held}
            result = build_result(CommitmentRequest(str(information.TransactionUID), objects), lost)
            if self.report_to is None:
                threading.Timer(0.2, self._report, (event.assoc, *result)).start()
            else:
                association = AE("ORTHANC").associate(
                    "127.0.0.1",
                    self.report_to,
                    contexts=[build_context(STORAGE_COMMITMENT)],
                    ae_title="RADCLIPD",
                    ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
                )
                assert association.accepted_contexts[0].as_scp
                self._report(association, *result)
                association.release()
        return self.status, None

    def _report(self, association: Any, event_type: int, information: Dataset) -> None:
        association.send_n_event_report(information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)


def delivery(sop_instance_uid: str, sop_class_uid: str = DX) -> Delivery:
    return Delivery(
        id=1,
        sop_instance_uid=sop_instance_uid,
        sop_class_uid=sop_class_uid,
        series_instance_uid="1.2.0",
        study_instance_uid="1.2",
        destination="ARCHIVE",
        state=DeliveryState.SENT,
    )


SENT = [delivery(HELD.sop_instance_uid), delivery(LOST.sop_instance_uid)]
RESULT = {HELD.sop_instance_uid: "", LOST.sop_instance_uid: "not committed: 0x0112 no such object"}


def test_a_result_on_the_same_association_is_returned() -> None:
    with Provider({HELD.sop_instance_uid}).serve() as archive:
        assert archive.request_commitment("2.25.5", SENT, limit_seconds=10) == RESULT


def test_a_result_on_another_association_goes_to_the_listener() -> None:
    keeping = Safekeeping()
    with listening(FakeReception(), commitment=keeping.service(takes_results=True)) as listener:
        with Provider({HELD.sop_instance_uid}, report_to=listener.port).serve() as archive:
            assert archive.request_commitment("2.25.6", SENT, limit_seconds=10) is None
        assert keeping.results == {"2.25.6": RESULT}


def test_an_archive_without_the_service_or_unwilling_refuses_and_one_away_is_unreachable() -> None:
    with listening(FakeReception(), ae_title="ARCHIVE", calling_ae_titles=("RADCLIPD",)) as plain:
        archive = DicomArchive(ArchiveSettings(ae_title="ARCHIVE", port=plain.port, timeout_seconds=5))
        with pytest.raises(RefusedByArchive):
            archive.request_commitment("2.25.5", SENT, limit_seconds=10)
    with Provider(set(), status=0x0110).serve() as archive, pytest.raises(RefusedByArchive, match="0x0110"):
        archive.request_commitment("2.25.5", SENT, limit_seconds=10)
    (port,) = free_ports(1)
    with pytest.raises(ArchiveUnreachable):
        DicomArchive(ArchiveSettings(port=port, timeout_seconds=1)).request_commitment("2.25.5", SENT, limit_seconds=2)


# Orthanc


@pytest.mark.orthanc
def test_orthanc_commits_our_reports_and_asks_us_for_its_films(tmp_path: Path) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    keeping = Safekeeping()
    (port,) = free_ports(1)
    with OrthancServer(tmp_path, radclipd_port=port, forward=False) as orthanc:
        service = keeping.service(is_provider=True, takes_results=True, reply_to={"ORTHANC": ("127.0.0.1", orthanc.dicom_port)})
        with listening(FakeReception(), bind("127.0.0.1", port), commitment=service):
            film, missing = dx(), generate_uid()
            archive = DicomArchive(ArchiveSettings(port=orthanc.dicom_port, timeout_seconds=10))
            archive.store(file_of(film))
            sent = [delivery(film.SOPInstanceUID), delivery(missing)]
            result = archive.request_commitment("2.25.9", sent, limit_seconds=10)
            if result is None:
                wait_for(lambda: keeping.results, 20)
                result = keeping.results["2.25.9"]
            assert result[film.SOPInstanceUID] == ""
            assert result[missing].startswith("not committed: 0x0112")

            keeping.held = {film.SOPInstanceUID}
            stored = [{"SOPClassUID": DX, "SOPInstanceUID": uid} for uid in (film.SOPInstanceUID, missing)]
            request = orthanc.post(f"/modalities/{MODALITY}/storage-commitment", {"DicomInstances": stored})
            wait_for(lambda: orthanc.get(request["Path"])["Status"] != "Pending", 20)
            found = orthanc.get(request["Path"])
    assert found["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in found["Success"]] == [film.SOPInstanceUID]
    assert [one["SOPInstanceUID"] for one in found["Failures"]] == [missing]
