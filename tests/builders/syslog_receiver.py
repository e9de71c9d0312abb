"""A syslog receiver over TLS, RFC 5425: it keeps the messages of its frames."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class SyslogReceiver:
    """`port` accepts one connection after another. `cuts`: connections that are reset before they are read."""

    port: int
    messages: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    cuts: int = 0


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a self-signed certificate for the loopback, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*words, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60)
    return certificate, key


@contextmanager
def receiving(certificate: Path, key: Path, *, clients: Path | None = None) -> Iterator[SyslogReceiver]:
    """Receive until the context ends. `clients`: the authority of the certificates that clients must show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = SyslogReceiver(server.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(server, context, receiver), daemon=True)
        thread.start()
        yield receiver
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _serve(server: socket.socket, context: ssl.SSLContext, receiver: SyslogReceiver) -> None:
    while True:
        try:
            plain, _ = server.accept()
        except OSError:
            return
        with plain:
            plain.settimeout(10)
            if receiver.cuts:
                receiver.cuts -= 1
                continue
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    _read_frames(connection, receiver)
                    connection.unwrap()
            except OSError as error:
                receiver.errors.append(str(error))


def _read_frames(connection: ssl.SSLSocket, receiver: SyslogReceiver) -> None:
    """Read frames, `LENGTH SP MESSAGE`, until the sender's end of TLS."""
    stream = b""
    while received := connection.recv(65536):
        stream += received
    while stream:
        length, _, rest = stream.partition(b" ")
        receiver.messages.append(rest[: int(length)])
        stream = rest[int(length) :]
