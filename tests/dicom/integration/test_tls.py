"""DICOM TLS as SCP and SCU, with dcmtk and Orthanc: who gets in, who does not and why, and that nobody waits for a stalled peer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from adapters.demo.loopback import free_ports
from adapters.demo.orthanc import MODALITY, OrthancServer, find_program
from adapters.dicom.network.archive import ArchiveSettings, DicomArchive
from adapters.dicom.network.handshakes import HANDSHAKE_THREADS
from adapters.dicom.network.listener import Listener
from adapters.dicom.network.tls import PeerCertificate, TlsEndpoint
from adapters.service.systemd import bind
from pipeline.errors import ArchiveBusy, ArchiveUnreachable, ConfigurationError
from tests.builders import peers
from tests.builders.certificates import CertificateAuthority, IssuedFiles
from tests.builders.dicom_files import dx, file_of
from tests.builders.reception import FakeReception, associate, listening, send, wait_for


@dataclass(frozen=True)
class Hospital:
    """The certificates of a hospital: ours, those of its devices, and those that must not get in."""

    authority: CertificateAuthority
    own: IssuedFiles
    orthanc: IssuedFiles
    expired: IssuedFiles
    foreign: IssuedFiles
    folder: Path

    def endpoint(self, files: IssuedFiles | None = None, **options: Any) -> TlsEndpoint:
        return self.authority.endpoint(files or self.own, **options)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    folder = tmp_path_factory.mktemp("certificates")
    authority, foreign = CertificateAuthority(folder), CertificateAuthority(folder, "foreign")
    return Hospital(
        authority,
        own=authority.issue("radclipd.example"),
        orthanc=authority.issue("orthanc.example"),
        expired=authority.issue("expired.example", days=-0.5, begun_days_ago=9),
        foreign=foreign.issue("foreign.example"),
        folder=folder,
    )


@contextlib.contextmanager
def secure_listening(reception: FakeReception, tls: TlsEndpoint, **settings: Any) -> Iterator[tuple[Listener, int]]:
    """Listen without and with TLS; give the listener and the TLS port."""
    plain, secure = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    port = secure.getsockname()[1]
    with listening(reception, plain, secure, tls=tls, tls_port=port, **settings) as listener:
        yield listener, port


def dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [peers.require(program, "dcmtk"), "-v", "-aec", "RADCLIPD", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
    )


def storescu(hospital: Hospital, files: IssuedFiles, port: int, *options: object, film: Dataset | None = None) -> Any:
    path = hospital.folder / "film.dcm"
    path.write_bytes(file_of(film or dx()))
    trust = ("+tls", files.key, files.certificate, "+cf", hospital.authority.ca_file)
    return dcmtk("storescu", "-aet", "ORTHANC", *trust, *options, "127.0.0.1", port, path)


def why_refused(reception: FakeReception) -> str:
    """Return the reason in the audit event of the one refused association."""
    wait_for(lambda: reception.refusals)
    (event,) = reception.refusals
    assert (event.action, event.outcome, event.source) == ("association", "refused", "127.0.0.1")
    return event.detail


# The listener


@pytest.mark.parametrize(("ours", "theirs"), [("bcp195", "+py"), ("bcp195", "+px"), ("bcp195", "+pz"), ("modified-bcp195", "+py")])
def test_dcmtk_stores_in_every_profile(hospital: Hospital, ours: str, theirs: str) -> None:
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint(profile=ours)) as (_, port):
        sent = storescu(hospital, hospital.orthanc, port, theirs, film=(film := dx(bits=16)))
    assert sent.returncode == 0, sent.stderr
    ((header, _, sender),) = reception.received
    assert (header.sop_instance_uid, sender.ae_title, sender.address) == (film.SOPInstanceUID, "ORTHANC", "127.0.0.1")
    assert reception.refusals == []
    assert reception.released_studies == [[film.StudyInstanceUID]]


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ("expired", "TLS: its certificate has expired"),
        ("foreign", "TLS: its certificate is not of an authority in tls.ca_file"),
        ("none", "TLS: it shows no certificate"),
        ("no TLS", "TLS: what it sends is not TLS"),
        ("old", "TLS: it offers neither TLS 1.2 nor TLS 1.3"),
        ("null cipher", "TLS: it offers no cipher suite of BCP 195"),
    ],
)
def test_what_does_not_belong_is_refused_with_its_reason_in_the_audit(hospital: Hospital, shown: str, reason: str) -> None:
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint(), max_associations=1) as (_, port):
        if shown in ("expired", "foreign"):
            assert storescu(hospital, getattr(hospital, shown), port).returncode != 0
        elif shown == "none":
            assert dcmtk("echoscu", "+tla", "-ic", "127.0.0.1", port).returncode != 0
        elif shown == "no TLS":
            assert dcmtk("echoscu", "127.0.0.1", port).returncode != 0
        else:
            with pytest.raises(OSError):
                _connect_with_old_offer(port, shown)
        assert reason in why_refused(reception)
        assert storescu(hospital, hospital.orthanc, port).returncode == 0  # the only place was not taken
    assert len(reception.received) == 1


def _connect_with_old_offer(port: int, shown: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:eNULL:@SECLEVEL=0")
    if shown == "old":
        with pytest.warns(DeprecationWarning):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.minimum_version = ssl.TLSVersion.TLSv1
    else:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA:NULL-SHA256:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as connection:
        connection.recv(1)


def test_tls_on_the_port_without_tls_is_named(hospital: Hospital) -> None:
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint()) as (listener, _):
        assert storescu(hospital, hospital.orthanc, listener.port).returncode != 0
        assert "it speaks TLS on the port without TLS" in why_refused(reception)


def test_a_certificate_has_the_ae_titles_that_the_configuration_gives_it(hospital: Hospital) -> None:
    fingerprint = "sha256:" + _fingerprint(hospital.orthanc)
    other = ["ct1.example", "sha256:" + "0" * 64]
    for names, admitted in ((["ORTHANC.example"], True), ([fingerprint.upper()], True), (other, False)):
        reception = FakeReception()
        with secure_listening(reception, hospital.endpoint(ORTHANC=names)) as (listener, port):
            assert (storescu(hospital, hospital.orthanc, port).returncode == 0) == admitted
            if not admitted:
                assert "tls.peers does not give this AE title to its certificate 'orthanc.example'" in why_refused(reception)
                reception.events.clear()
            assert associate(listener.port).is_rejected  # nor may it come without a certificate
            assert "it must use the TLS port" in why_refused(reception)


def test_an_ae_title_that_the_table_of_certificates_does_not_name_is_refused_over_tls_only(hospital: Hospital) -> None:
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint(CT1=["ct1.example"])) as (listener, port):
        assert storescu(hospital, hospital.orthanc, port).returncode != 0
        assert send(listener.port, dx()).Status == 0


def test_required_tls_leaves_the_other_port_to_the_daemons_own_check(hospital: Hospital) -> None:
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint(), require_tls=True, calling_ae_titles=("*",)) as (listener, port):
        assert associate(listener.port).is_rejected
        assert "listener.require_tls" in why_refused(reception)
        assert storescu(hospital, hospital.orthanc, port).returncode == 0
        own = DicomArchive(ArchiveSettings(ae_title="RADCLIPD", port=listener.port))
        own.echo()
        with pytest.raises(ArchiveBusy, match="0x0124"):
            own.store(file_of(dx()))


@contextlib.contextmanager
def stalled_handshakes(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Open connections of which a third says nothing, a third a part of a ClientHello, and a third goes no further after it."""
    client_hello = _client_hello()
    with contextlib.ExitStack() as closing:
        stalled = [closing.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(count)]
        for connection in stalled[::3]:
            connection.sendall(client_hello[:7])
        for connection in stalled[1::3]:
            connection.sendall(client_hello)
        yield stalled


def test_stalled_handshakes_hold_up_nobody(hospital: Hospital) -> None:
    reception = FakeReception()
    with (
        secure_listening(reception, hospital.endpoint(), max_associations=1, first_message_seconds=60) as (_, port),
        stalled_handshakes(port, 60),
    ):
        threads = threading.active_count()
        assert storescu(hospital, hospital.orthanc, port).returncode == 0
        assert reception.refusals == []  # all 60 still have their time
        wait_for(lambda: threading.active_count() <= threads + HANDSHAKE_THREADS)  # those of the association have ended
    assert len(reception.received) == 1


def test_a_stalled_handshake_ends_in_time_and_stands_in_the_audit(hospital: Hospital) -> None:
    reception = FakeReception()
    with (
        secure_listening(reception, hospital.endpoint(), first_message_seconds=0.5) as (_, port),
        stalled_handshakes(port, 6) as stalled,
    ):
        wait_for(lambda: len(reception.refusals) == 4, 10)
        assert {event.detail.partition(": ")[2] for event in reception.refusals} == {"TLS: the handshake was not complete in time"}
        for connection in stalled:
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1 << 14):
                    pass


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_a_sender_that_stops_within_a_tls_record_is_aborted(hospital: Hospital) -> None:
    """A record that never becomes complete is no message: neither the read nor the idle timer waits for it."""
    reception = FakeReception()
    with secure_listening(reception, hospital.endpoint(), network_timeout_seconds=1) as (_, port):
        association = _associate_over_tls(hospital, port)
        assert association.send_c_echo().Status == 0
        lower = socket.socket(fileno=socket.dup(association.dul.socket.socket.fileno()))
        with contextlib.closing(lower), contextlib.suppress(ConnectionError):
            for byte in b"\x17\x03\x03\x40\x00" + bytes(50):
                lower.sendall(bytes([byte]))
                time.sleep(0.2)
        wait_for(lambda: reception.refusals, 1)
        assert reception.refusals[0].detail == "aborted: the peer was silent for too long"
        association.kill()


def _associate_over_tls(hospital: Hospital, port: int) -> Any:
    from pynetdicom import AE

    context = ssl.create_default_context(cafile=hospital.authority.ca_file)
    context.load_cert_chain(hospital.orthanc.certificate, hospital.orthanc.key)
    ae = AE("ORTHANC")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", port, ae_title="RADCLIPD", tls_args=(context, "localhost"))
    assert association.is_established
    return association


def test_a_large_film_in_small_pieces_arrives_unchanged(hospital: Hospital) -> None:
    reception = FakeReception()
    film = dx(bits=16, Rows=1500, Columns=1500, PixelData=bytes(range(250)) * (1500 * 1500 * 2 // 250))
    with secure_listening(reception, hospital.endpoint()) as (_, port), _slowing_proxy(port) as proxy:
        assert storescu(hospital, hospital.orthanc, proxy, "-pdu", 131072, film=film).returncode == 0
    ((_, content, _),) = reception.received
    assert content.endswith(film.PixelData)


@contextlib.contextmanager
def _slowing_proxy(port: int) -> Iterator[int]:
    """Forward one connection, to the listener in pieces of odd size that end within TLS records."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def forward(source: socket.socket, target: socket.socket, size: int) -> None:
            with contextlib.suppress(OSError):
                while content := source.recv(size):
                    target.sendall(content)
                target.shutdown(socket.SHUT_WR)

        def serve() -> None:
            near, _ = server.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                back = threading.Thread(target=forward, args=(far, near, 4096))
                back.start()
                forward(near, far, 7919)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(10)


def test_a_renewed_certificate_serves_from_the_next_connection_on(hospital: Hospital, tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    used, renewed = authority.issue("radclipd.example", file="used"), authority.issue("radclipd.example", file="renewed")
    reception = FakeReception()
    with secure_listening(reception, authority.endpoint(used)) as (_, port):
        before = _shown_certificate(authority, port)
        assert before == _fingerprint(used)
        used.certificate.write_bytes(renewed.certificate.read_bytes())  # half of a renewal: the key does not fit
        assert _shown_certificate(authority, port) == before
        used.key.write_bytes(renewed.key.read_bytes())
        assert _shown_certificate(authority, port) == _fingerprint(renewed) != before
        authority.ca_file.write_bytes(hospital.authority.ca_file.read_bytes())  # another authority is trusted from now on
        assert storescu(hospital, hospital.orthanc, port, "-ic").returncode == 0


def _shown_certificate(authority: CertificateAuthority, port: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as connection:
        return PeerCertificate.of_connection(connection).fingerprint


def _fingerprint(files: IssuedFiles) -> str:
    from adapters.dicom.network.certificates import read_certificates

    return read_certificates(files.certificate)[0].fingerprint


# The client


@contextlib.contextmanager
def storescp(hospital: Hospital, files: IssuedFiles, *options: str) -> Iterator[int]:
    """Run dcmtk's SCP with TLS; it accepts certificates of the hospital's authority only."""
    (port,) = free_ports(1)
    trust = ["+tls", files.key, files.certificate, "+cf", hospital.authority.ca_file]
    process = subprocess.Popen(
        [peers.require("storescp", "dcmtk"), "+B", *map(str, trust), *options, "-od", str(hospital.folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: _is_open(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _is_open(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def client(port: int, tls: TlsEndpoint, **settings: Any) -> DicomArchive:
    usual: dict[str, Any] = {"ae_title": "ARCHIVE", "port": port, "calling_ae_title": "RADCLIPD", "timeout_seconds": 5}
    return DicomArchive(ArchiveSettings(**usual | settings), tls)


@pytest.mark.parametrize("profile", ["+py", "+pz"])
def test_dcmtk_takes_our_reports_over_tls(hospital: Hospital, profile: str) -> None:
    with storescp(hospital, hospital.orthanc, profile) as port:
        archive = client(port, hospital.endpoint())
        archive.echo()
        assert archive.store(file_of(dx())) == "0x0000"
        client(port, hospital.endpoint(ARCHIVE=["orthanc.example"]), host="localhost").echo()
        for endpoint, reason in (
            (hospital.endpoint(ARCHIVE=["pacs.example"]), "no TLS: tls.peers gives ARCHIVE no certificate 'orthanc.example'"),
            (hospital.endpoint(hospital.foreign), "it refuses our certificate or our offer: unknown ca"),
            (hospital.endpoint(hospital.expired), "it refuses our certificate or our offer: certificate expired"),
        ):
            with pytest.raises(ArchiveUnreachable, match=reason):
                client(port, endpoint).store(file_of(dx()))


@pytest.mark.parametrize(
    ("shown", "reason"), [("expired", "its certificate has expired"), ("foreign", "is not of an authority in tls.ca_file")]
)
def test_an_archive_with_a_wrong_certificate_gets_no_report(hospital: Hospital, shown: str, reason: str) -> None:
    with storescp(hospital, getattr(hospital, shown), "-ic") as port, pytest.raises(ArchiveUnreachable, match=reason):
        client(port, hospital.endpoint()).store(file_of(dx()))


def test_an_archive_with_the_certificate_of_another_host_gets_no_report(hospital: Hospital) -> None:
    with storescp(hospital, hospital.orthanc) as port, pytest.raises(ArchiveUnreachable, match="does not name the address"):
        client(port, hospital.endpoint(), host="127.0.0.2").echo()


def test_an_archive_without_tls_and_one_that_stalls_are_named(hospital: Hospital) -> None:
    with listening(FakeReception()) as plain, pytest.raises(ArchiveUnreachable, match="no TLS: "):
        client(plain.port, hospital.endpoint()).echo()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(ArchiveUnreachable, match="the TLS handshake was not complete in time"):
            client(silent.getsockname()[1], hospital.endpoint(), timeout_seconds=0.5).echo()
        assert time.monotonic() - begun < 4


@pytest.mark.orthanc
def test_orthanc_sends_films_and_takes_reports_over_tls(hospital: Hospital, tmp_path: Path) -> None:
    if find_program() is None:
        peers.absent("Orthanc is not installed (Debian package orthanc)")
    reception = FakeReception()
    endpoint = hospital.endpoint(ORTHANC=["orthanc.example"])
    with (
        secure_listening(reception, endpoint) as (_, port),
        OrthancServer(tmp_path, radclipd_port=port, forward=False, overrides=_orthanc_tls(hospital, port)) as orthanc,
    ):
        archive = client(orthanc.dicom_port, endpoint, ae_title="ORTHANC")
        archive.echo()
        film = dx()
        assert archive.store(file_of(film)) == "0x0000"
        assert archive.count_instances(film.StudyInstanceUID, limit_seconds=5) == 1
        orthanc.post(f"/modalities/{MODALITY}/store", orthanc.find_instances(film.StudyInstanceUID))
        with pytest.raises(ArchiveUnreachable, match="it refuses our certificate or our offer"):
            client(orthanc.dicom_port, hospital.endpoint(hospital.foreign), ae_title="ORTHANC").echo()
    ((header, _, sender),) = reception.received
    assert (header.sop_instance_uid, sender.ae_title) == (film.SOPInstanceUID, "ORTHANC")


def _orthanc_tls(hospital: Hospital, port: int) -> dict[str, Any]:
    return {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(hospital.orthanc.certificate),
        "DicomTlsPrivateKey": str(hospital.orthanc.key),
        "DicomTlsTrustedCertificates": str(hospital.authority.ca_file),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {MODALITY: {"AET": "RADCLIPD", "Host": "127.0.0.1", "Port": port, "UseDicomTls": True, "Timeout": 30}},
    }


# The files


@pytest.mark.parametrize(
    ("break_files", "message"),
    [
        (lambda files, _: files.key.unlink(), "No such file"),
        (lambda files, other: files.key.write_bytes(other.key.read_bytes()), "is not the key of tls.certificate_file"),
        (lambda files, _: files.certificate.write_text("nothing"), "no PEM certificate and key"),
        (lambda files, _: _encrypt(files.key), "is protected by a password"),
    ],
)
def test_a_fault_of_the_files_is_named_with_its_remedy(
    tmp_path: Path, hospital: Hospital, break_files: Callable[[IssuedFiles, IssuedFiles], object], message: str
) -> None:
    files = IssuedFiles(tmp_path / "own.crt", tmp_path / "own.key")
    files.replace_with(hospital.own)
    break_files(files, hospital.orthanc)
    with pytest.raises(ConfigurationError, match=message) as caught:
        hospital.endpoint(files).load()
    assert caught.value.hint


def _encrypt(key: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms

    private = forms.load_pem_private_key(key.read_bytes(), None)
    secret = forms.BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, secret))
