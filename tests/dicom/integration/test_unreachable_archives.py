"""Whatever keeps a request from its archive is `ArchiveUnreachable`, in every client, within a bounded time."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from adapters.dicom.sources.dicomweb import DicomWebSource, OrthancSource, WebSettings
from adapters.dicom.sources.query_retrieve import RetrieveSettings, RetrieveSource, _build_query
from pipeline.domain import JobKind, JobState
from pipeline.errors import ArchiveUnreachable, RadclipdError
from pipeline.ports.backfill import BackfillUnit
from pipeline.ports.services import ReportContent
from tests.builders.dicom_files import dx, file_of
from tests.builders.fakes.reports import FakeReportWriter
from tests.builders.hospital_in_memory import Hospital
from tests.builders.odd_archives import RAW_BEHAVIOURS, associating_peer, endless_archive, raw_peer
from tests.builders.report_of import report_on

Call = Callable[[], object]

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # pynetdicom leaves the refused socket to the collector

SYSTEM_ERRORS = [OSError(number, os.strerror(number)) for number in errno.errorcode]
NAME_ERRORS = [socket.gaierror(number, name) for name, number in vars(socket).items() if name.startswith("EAI_")]
OTHER_ERRORS = [
    socket.gaierror("Address resolution failed"),
    socket.herror(1, "Unknown host"),
    TimeoutError("timed out"),
    OSError("no number"),
    ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
    ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed"),
    UnicodeError("label empty or too long"),
]
EVERY_ERROR = [*SYSTEM_ERRORS, *NAME_ERRORS, *OTHER_ERRORS]
HTTP_ERRORS = [
    http.client.BadStatusLine("SSH-2.0"),
    http.client.RemoteDisconnected("closed"),
    http.client.IncompleteRead(b"", 10),
    http.client.LineTooLong("header line"),
    http.client.InvalidURL("nonnumeric port"),
    http.client.UnknownProtocol("HTTP/9"),
    http.client.CannotSendRequest(),
]


@cache
def an_sr() -> bytes:
    return file_of(report_on(dx()))


def dimse_calls(host: str, port: int, timeout_seconds: float = 1) -> dict[str, Call]:
    """Every request of every client over DIMSE."""
    settings = ArchiveSettings(host=host, port=port, timeout_seconds=timeout_seconds)
    archive = DicomArchive(settings)
    getting = RetrieveSource(settings, RetrieveSettings(modalities=("DX",)))
    unit = BackfillUnit(key="1.2", study_instance_uid="1.2")
    return {
        "store": partial(archive.store, an_sr()),
        "echo": archive.echo,
        "count": partial(archive.count_instances, "1.2", limit_seconds=2 * timeout_seconds),
        "find": partial(getting.list_units, None),
        "fetch": partial(getting.fetch, unit, lambda _uids: set(), lambda _object: None),
        "get": partial(getting._retrieve_by_get, [], {"1.2"}, lambda _object: None),
        "move": partial(getting._retrieve_by_move, [], {"1.2"}, lambda _uids: set()),
    }


def web_calls(url: str) -> dict[str, Call]:
    """Every request of every client over HTTP."""
    settings = WebSettings(url=url, modalities=("DX",), timeout_seconds=1)
    dicomweb, orthanc = DicomWebSource(settings), OrthancSource(settings)
    unit = BackfillUnit(key="1.2", study_instance_uid="1.2", locations=("1",))
    return {
        "qido": partial(dicomweb.list_units, None),
        "wado": partial(dicomweb._read_instance, "/studies/1"),
        "fetch": partial(dicomweb.fetch, unit, lambda _uids: set(), lambda _object: None),
        "orthanc": partial(orthanc.list_units, None),
        "orthanc file": partial(orthanc._read_instance, "/instances/1/file"),
    }


class Failure:
    """A function that raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_args: object, **_options: object) -> object:
        raise self.error


def assert_unreachable(call: Call) -> None:
    with pytest.raises(ArchiveUnreachable) as caught:
        call()
    assert caught.value.hint
    assert "\n" not in str(caught.value)


DIMSE_CALLS = ("store", "echo", "count", "find", "fetch", "get", "move")
WEB_CALLS = ("qido", "wado", "fetch", "orthanc", "orthanc file")


@pytest.mark.parametrize("name", DIMSE_CALLS)
def test_an_archive_whose_name_gives_no_address_is_unreachable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, failure = dimse_calls("pacs.example", 4242)[name], Failure(OSError())
    monkeypatch.setattr(socket, "getaddrinfo", failure)
    for failure.error in EVERY_ERROR:
        assert_unreachable(call)


@pytest.mark.parametrize("name", DIMSE_CALLS)
def test_a_process_without_a_free_descriptor_finds_the_archive_unreachable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, failure = dimse_calls("127.0.0.1", 4242)[name], Failure(OSError())
    monkeypatch.setattr(socket.socket, "bind", failure)
    for failure.error in SYSTEM_ERRORS:
        assert_unreachable(call)


@given(error=st.sampled_from([*SYSTEM_ERRORS, *OTHER_ERRORS[2:-1]]), name=st.sampled_from(["store", "count", "find", "echo"]))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_connection_that_fails_in_any_way_is_unreachable_over_dimse(error: OSError, name: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", Failure(error))
        assert_unreachable(dimse_calls("127.0.0.1", 4242)[name])


HTTP_MOMENTS: dict[str, tuple[object, str]] = {
    "name": (socket, "getaddrinfo"),
    "connect": (http.client.HTTPConnection, "connect"),
    "answer": (http.client.HTTPConnection, "getresponse"),
    "content": (http.client.HTTPResponse, "read"),
}


@pytest.mark.parametrize("name", WEB_CALLS)
@pytest.mark.parametrize("moment", HTTP_MOMENTS)
def test_a_connection_that_fails_in_any_way_is_unreachable_over_http(
    name: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, failure = web_calls("http://pacs.example:8042")[name], Failure(OSError())
    if moment in ("answer", "content"):
        monkeypatch.setattr(http.client.HTTPConnection, "connect", lambda self: setattr(self, "sock", _answering_socket()))
    monkeypatch.setattr(*HTTP_MOMENTS[moment], failure)
    for failure.error in [*EVERY_ERROR, *HTTP_ERRORS]:
        assert_unreachable(call)


def _answering_socket() -> socket.socket:
    here, there = socket.socketpair()
    there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]")
    there.close()
    return here


@pytest.mark.parametrize("location", ["foo:bar", "http://[::1", "//", "http://pacs.example:port/"])
def test_a_redirection_to_nowhere_is_an_error_with_a_remedy(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(connection: http.client.HTTPConnection) -> None:
        here, there = socket.socketpair()
        there.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
        there.close()
        connection.sock = here

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    with pytest.raises(RadclipdError) as caught:
        web_calls("http://pacs.example:8042")["orthanc file"]()
    assert caught.value.hint


def test_the_reason_is_named_and_no_password() -> None:
    settings = WebSettings(url="http://127.0.0.1:1", modalities=("DX",), authorization="Bearer\nsecret", timeout_seconds=1)
    with pytest.raises(ArchiveUnreachable) as caught:
        DicomWebSource(settings).list_units(None)
    assert "secret" not in str(caught.value)
    refused = WebSettings(url="http://127.0.0.1:1", modalities=("DX",), timeout_seconds=1)
    with pytest.raises(ArchiveUnreachable, match="refused"):
        DicomWebSource(refused).list_units(None)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
def test_a_host_that_is_no_name_is_unreachable(host: str) -> None:
    for call in dimse_calls(host, 4242).values():
        assert_unreachable(call)


PEERS: dict[str, Callable[[], AbstractContextManager[int]]] = {
    **{name: partial(raw_peer, behaviour) for name, behaviour in RAW_BEHAVIOURS.items()},
    **{
        name: partial(associating_peer, name)
        for name in ("abort as established", "cut as established", "abort in the request", "cut in the request", "sleep")
    },
}


@pytest.fixture(params=PEERS)
def odd_port(request: pytest.FixtureRequest) -> Iterator[int]:
    with PEERS[request.param]() as port:
        yield port


def test_a_peer_that_does_not_work_with_us_is_unreachable_within_bounds(odd_port: int) -> None:
    calls = dimse_calls("127.0.0.1", odd_port, timeout_seconds=0.5)
    for name in ("store", "echo", "count"):
        began = time.monotonic()
        assert_unreachable(calls[name])
        assert time.monotonic() - began < 4, name


@pytest.mark.parametrize("service", ["C-FIND", "C-GET", "C-MOVE"])
def test_an_archive_that_answers_without_end_is_given_up(service: str) -> None:
    with endless_archive() as port:
        settings = ArchiveSettings(host="127.0.0.1", port=port, timeout_seconds=0.2)
        source, query = (
            RetrieveSource(settings, RetrieveSettings(modalities=("DX",), move_destination="HERE")),
            _build_query("SERIES", StudyInstanceUID="1.2"),
        )
        calls: dict[str, Callable[[], object]] = {
            "C-FIND": partial(source.list_units, None),
            "C-GET": partial(source._retrieve_by_get, [query], {"1.2"}, lambda _object: None),
            "C-MOVE": partial(source._retrieve_by_move, [query], {"1.2"}, lambda _uids: set()),
        }
        began = time.monotonic()
        assert_unreachable(calls[service])
        assert time.monotonic() - began < 10


class SrWriter(FakeReportWriter):
    """Every report is one real SR."""

    def write(self, content: ReportContent) -> bytes:
        return an_sr()


def test_reports_wait_for_an_archive_whose_name_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Failure(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")))
    hospital = Hospital()
    hospital.archive = DicomArchive(ArchiveSettings(host="pacs.example"))  # type: ignore[assignment]  # the real client
    hospital.writer = SrWriter()
    hospital.receive(hospital.header())
    for _ in range(30):
        hospital.run()
        hospital.catalog.tick(3600)
    (waiting,) = hospital.jobs(JobState.WAITING)
    assert (waiting.kind, waiting.attempts) == (JobKind.SEND, 0)
    assert "Temporary failure in name resolution" in waiting.error
    assert hospital.jobs(JobState.QUARANTINED) == []
    assert "ORTHANC" in hospital.catalog.tables.circuits
