"""`radclipd check`: a wrong configuration is one line with the remedy, and never called a fault of radclipd's own."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from adapters.app.compose import Parts
from adapters.app.listen import build_listener, open_sockets
from adapters.cli import check
from adapters.config.sections import BackfillConfig, Config
from adapters.demo.embedded_archive import EmbeddedArchive
from adapters.dicom.network.certificates import read_certificates
from adapters.service.systemd import bind
from pipeline.errors import ConfigurationError
from tests.builders.certificates import CertificateAuthority, IssuedFiles
from tests.builders.installation import free_port
from tests.builders.reception import FakeReception, listening
from tests.builders.syslog_receiver import make_certificate, receiving

Verdict = Callable[..., str]


@pytest.fixture
def verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verdict:
    """Return what runs one check on a configuration, and returns its line."""

    def run(name: str, **sections: dict[str, Any]) -> str:
        config = Config(**make_sections(tmp_path, **sections))
        (wanted,) = (one for one in check.preflight_checks(None) if one.name == name)
        with Parts(config) as parts:
            check._run_check(wanted, parts)
        said = capsys.readouterr().out
        assert said.count("\n") == 1
        assert "fault in radclipd" not in said
        return said.strip()

    return run


def make_sections(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "listener": {"host": "127.0.0.1", "port": free_port()},
        "storage": {"directory": folder / "images"},
        "catalog": {"url": f"sqlite:///{folder}/catalog.db"},
        "model": {"directory": folder / "models"},
        "activation_cache": {"directory": folder / "activations"},
        "archive": {"host": "127.0.0.1", "port": free_port(), "timeout_seconds": 2},
    }
    return {name: usual.get(name, {}) | sections.get(name, {}) for name in (*usual, *sections)}


def test_little_free_space_is_a_warning_before_images_are_refused(verdict: Verdict, tmp_path: Path, sqlite_template: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    said = verdict("disk", storage={"min_free": 1, "warn_free": 1 << 60})
    assert said.startswith("warn disk")
    assert "storage.warn_free is" in said


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        yield int(taken.getsockname()[1])


def test_a_free_listener_port_is_well(verdict: Verdict) -> None:
    assert verdict("listener").startswith("ok")


@pytest.mark.parametrize("host", ["203.0.113.9", "2001:db8::9"])
def test_a_host_that_is_not_ours_is_named(verdict: Verdict, host: str) -> None:
    line = verdict("listener", listener={"host": host})
    assert line.startswith("FAIL")
    assert f"listener.host = '{host}' is not an address of this host" in line


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "1.2.3.4.5", "x" * 70])
def test_a_host_that_does_not_resolve_is_named(verdict: Verdict, host: str) -> None:
    for name, sections in (
        ("listener", {"listener": {"host": host}}),
        ("metrics", {"metrics": {"enabled": True, "address": host}}),
        ("archive", {"archive": {"host": host}}),
    ):
        line = verdict(name, **sections)
        assert line.startswith("FAIL")
        assert f"= '{host}' is no address, and no name that this host resolves  hint: " in line


def test_a_listener_port_of_another_program_is_named(verdict: Verdict, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LISTENER_SECONDS", 0.5)
    line = verdict("listener", listener={"port": taken_port})
    assert line.startswith("FAIL")
    assert "Address already in use  hint: another program has the port (ss -ltnp), or set listener.port" in line


def test_a_listener_port_of_another_dicom_node_is_named(verdict: Verdict, tmp_path: Path) -> None:
    archive = EmbeddedArchive(tmp_path / "archive", port=(port := free_port()))
    try:
        line = verdict("listener", listener={"port": port, "called_ae_titles": ["*"]})
    finally:
        archive.stop()
    assert line.startswith("FAIL")
    assert "another program has the port" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_our_own_daemon_may_have_the_listener_port(verdict: Verdict, tmp_path: Path, sqlite_template: Path, host: str) -> None:
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    port = free_port()
    with Parts(Config(**make_sections(tmp_path, listener={"host": host, "port": port}))) as parts:
        listener = build_listener(parts)
        listener.start()
        try:
            line = verdict("listener", listener={"host": host, "port": port})
        finally:
            listener.drain(5)
    assert line.startswith("ok")
    assert "radclipd answers as RADCLIPD" in line


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def tls_section(authority: CertificateAuthority, files: IssuedFiles) -> dict[str, Any]:
    return {"certificate_file": str(files.certificate), "key_file": str(files.key), "ca_file": str(authority.ca_file)}


def test_tls_is_off_without_a_certificate(verdict: Verdict) -> None:
    assert verdict("tls") == "ok   tls              off: [tls] names no certificate"


def test_the_way_in_over_tls_is_tried_with_our_own_certificate(
    verdict: Verdict, authority: CertificateAuthority, tmp_path: Path, sqlite_template: Path
) -> None:
    (tmp_path / "catalog.db").write_bytes(sqlite_template.read_bytes())
    files = authority.issue("radclipd.example")
    listener, tls = {"port": free_port(), "tls_port": free_port(), "require_tls": True}, tls_section(authority, files)
    assert f"until {files_end(files)}; port {listener['tls_port']} is free" in verdict("tls", listener=listener, tls=tls)
    with Parts(Config(**make_sections(tmp_path, listener=listener, tls=tls))) as parts:
        running = build_listener(parts)
        running.start(*open_sockets(parts.config))
        try:
            line = verdict("tls", listener=listener, tls=tls)
            stranger = verdict("tls", listener=listener, tls=tls_section(authority, authority.issue("other.example")))
        finally:
            running.drain(5)
    assert line.startswith("ok   tls ")
    assert f"RADCLIPD answered C-ECHO over TLS on port {listener['tls_port']}" in line
    assert stranger.startswith("FAIL")
    assert "tls.peers gives RADCLIPD no certificate 'radclipd.example'" in stranger


def files_end(files: IssuedFiles) -> str:
    return f"{read_certificates(files.certificate)[0].not_after:%Y-%m-%d}"


def test_a_certificate_near_its_end_is_a_warning_and_one_beyond_it_a_failure(
    verdict: Verdict, authority: CertificateAuthority
) -> None:
    soon = verdict("tls", tls=tls_section(authority, authority.issue("soon.example", days=12.5)))
    assert soon.startswith("warn tls ")
    assert "certificate soon.example ends in 12 days  hint: put the new one into the file" in soon
    assert verdict("tls", tls=tls_section(authority, authority.issue("later.example", days=31))).startswith("ok")
    over = verdict("tls", tls=tls_section(authority, authority.issue("over.example", days=-3.2, begun_days_ago=9)))
    assert over.startswith("FAIL")
    assert "certificate over.example ended 3 days ago" in over


def test_the_way_out_over_tls_is_tried_and_the_archives_certificate_watched(
    verdict: Verdict, authority: CertificateAuthority, tmp_path: Path
) -> None:
    reception = FakeReception()
    archive = bind("127.0.0.1", 0)
    port = archive.getsockname()[1]
    own = tls_section(authority, authority.issue("radclipd.example"))
    shown = authority.issue("archive.example", days=20.5)
    plain = bind("127.0.0.1", 0)
    with listening(reception, plain, archive, tls=authority.endpoint(shown), tls_port=port, calling_ae_titles=("RADCLIPD",)):
        line = verdict("archive", archive={"port": port, "tls": True, "ae_title": "RADCLIPD", "host": "localhost"}, tls=own)
    assert line.startswith("warn archive ")
    assert "answered C-ECHO over TLS; its certificate archive.example ends in 20 days" in line


def test_listener_and_metrics_on_one_port_are_named(verdict: Verdict) -> None:
    line = verdict("listener", listener={"port": 9612}, metrics={"enabled": True})
    assert "listener.port and metrics.port are both 9612" in line


def test_a_metrics_port_of_another_program_is_named(verdict: Verdict, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "METRICS_SECONDS", 0.5)
    line = verdict("metrics", metrics={"enabled": True, "port": taken_port})
    assert line.startswith("FAIL")
    assert "another program has the port" in line


def test_a_metrics_port_of_another_web_server_is_named(verdict: Verdict) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        line = verdict("metrics", metrics={"enabled": True, "port": server.server_port})
        server.shutdown()
    assert line.startswith("FAIL")
    assert "another program has the port" in line


@pytest.mark.parametrize(
    ("name", "key", "sections"),
    [
        ("image store", "image store", {"storage": {"directory": Path("/dev/null/images")}}),
        ("image store", "image store", {"storage": {"directory": Path("/dev/null")}}),
        ("model", "model.directory", {"model": {"directory": Path("/dev/null/models")}}),
        ("activation cache", "activation_cache.directory", {"activation_cache": {"directory": Path("/dev/null/a")}}),
        ("catalog", "the folder of catalog.url", {"catalog": {"url": "sqlite:////dev/null/catalog.db"}}),
        ("catalog", "catalog.url names the folder", {"catalog": {"url": "sqlite:////tmp"}}),
    ],
)
def test_a_folder_that_cannot_be_is_named_with_its_key(
    verdict: Verdict, name: str, key: str, sections: dict[str, dict[str, Any]]
) -> None:
    line = verdict(name, **sections)
    assert line.startswith("FAIL")
    assert key in line
    assert "  hint: " in line


def test_no_check_of_folders_makes_one(verdict: Verdict, tmp_path: Path) -> None:
    for name in ("image store", "disk", "model", "activation cache"):
        verdict(name)
    assert not any((tmp_path / folder).exists() for folder in ("images", "models", "activations"))


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"", "holds nothing"), (b"\xff", "not UTF-8")])
def test_an_authorization_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    secret = tmp_path / "authorization"
    if content is not None:
        secret.write_bytes(content)
    path = tmp_path / "radclipd.toml"
    path.write_text(f'[backfill]\nauthorization_file = "{secret}"\n')
    with (
        Parts(Config(backfill=BackfillConfig(authorization_file=str(secret)))) as parts,
        pytest.raises(ConfigurationError, match=says),
    ):
        check._check_authorization(path, parts)


def test_a_credential_of_a_unit_is_not_tried(tmp_path: Path) -> None:
    with Parts(Config(backfill=BackfillConfig(authorization_file="token"))) as parts:
        assert "not tried" in check._check_authorization(tmp_path / "radclipd.toml", parts)


def test_the_audit_repository_is_tried_over_tls(verdict: Verdict, tmp_path: Path) -> None:
    assert "stay in the catalog" in verdict("audit repository")
    certificate, key = make_certificate(tmp_path, "repository")
    with receiving(certificate, key) as receiver:
        wanted = {"syslog_host": "127.0.0.1", "syslog_port": receiver.port, "syslog_ca_file": str(certificate)}
        assert f"127.0.0.1:{receiver.port} answers over TLS" in verdict("audit repository", audit=wanted)
    refused = verdict("audit repository", audit=wanted)
    assert "FAIL" in refused
    assert "out of reach" in refused
