"""`radclipd web` as a process: users by the command line, a log-in, a film, TLS, and its end."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx2
import pytest

from adapters.app.web import SECRET_BYTES, read_secret
from adapters.catalog import schema
from adapters.catalog.catalog import SqlCatalog
from adapters.dicom.image import part10
from adapters.storage.image_store import FileImageStore
from pipeline.errors import ConfigurationError
from tests.builders.catalog_rows import SENDER
from tests.builders.dicom_files import dx, file_of
from tests.builders.installation import Installation, free_port

PASSWORD = "a long password"
START_SECONDS = 60


def make_certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*words, *names], check=True, capture_output=True, timeout=60)
    return certificate, key


def wait_for(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        assert process.poll() is None
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    pytest.fail("the desk does not answer")


def test_the_process_serves_over_tls_and_ends_on_a_signal(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    web = {"port": port, "directory": str(tmp_path / "web"), "tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    installation = Installation(tmp_path, web=web)
    schema.upgrade(installation.url)
    instance = add_film(installation)
    add_user(installation)
    process = installation.start("web")
    trusted = ssl.create_default_context(cafile=certificate)
    try:
        with httpx2.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted) as client:
            wait_for(client, process)
            origin = {"Origin": f"https://127.0.0.1:{port}"}
            answer = client.post("/log-in", data={"name": "alice", "password": PASSWORD}, headers=origin)
            assert "Secure" in answer.headers["set-cookie"]
            assert "max-age" in answer.headers["strict-transport-security"]
            film = client.get("/films", params={"instance": instance})
            assert (film.status_code, len(film.content)) == (200, 2 * 40 * 32)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
    assert code == 0
    assert PASSWORD not in installation.log.read_text()


def add_film(installation: Installation) -> str:
    content = file_of(dx())
    catalog = SqlCatalog(installation.url)
    with catalog.begin() as tx:
        stored = FileImageStore(installation.folder / "images").write(content)
        header = part10.read_header(*part10.split_file(content))
        tx.studies.add_instance(header, stored, SENDER, opens_study=True)
    catalog.dispose()
    return header.sop_instance_uid


def add_user(installation: Installation) -> None:
    done = installation.run("users", "add", "alice", "--role", "reader", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done.stdout == "user alice added as reader\n"


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        web = {"port": holder.getsockname()[1], "directory": str(tmp_path / "web")}
        installation = Installation(tmp_path, web=web)
        schema.upgrade(installation.url)
        done = installation.run("web", check=False)
    assert done.returncode == 78
    assert "radclipd: the desk cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_secret_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    made = read_secret(tmp_path / "web")
    assert len(made) == SECRET_BYTES
    assert read_secret(tmp_path / "web") == made
    path = tmp_path / "web" / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="no secret"):
        read_secret(tmp_path / "web")
