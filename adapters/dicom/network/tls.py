"""DICOM over TLS with mutual authentication: the BCP 195 profiles of PS3.15 (B.12, B.13), for SCP and SCU.

A changed file takes effect at the next connection. Both sides show a certificate, and both verify the other's.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

import structlog

from pipeline.errors import ConfigurationError

BCP_195 = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    ":ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""TLS 1.2 suites of RFC 9325 4.2, which PS3.15 B.12 refers to, and those of RFC 7905."""
MODIFIED_BCP_195 = f"{BCP_195}:ECDHE-ECDSA-AES256-CCM:ECDHE-ECDSA-AES256-CCM8:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES128-CCM8"
"""TLS 1.2 suites of PS3.15 B.13. Those of TLS 1.3 are OpenSSL's, the same in both profiles."""
SUITES_OF_PROFILE = {"bcp195": BCP_195, "modified-bcp195": MODIFIED_BCP_195}
SECURITY_LEVEL = "@SECLEVEL=2"  # OpenSSL: RSA and DH keys of 2048 bits, curves of 224 bits and SHA-2 at least
ANY_TITLE = "*"
"""In `tls.peers`: certificates that may use any AE title."""
FINGERPRINT_PREFIX = "sha256:"

CLIENT_HELLO = 0x16
"""First byte of TLS (RFC 8446 5.1), which is no type of a PDU."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

log = structlog.get_logger("radclipd.tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """`[tls]` of the configuration, with paths in place of the names of credentials."""

    certificate_file: Path
    key_file: Path
    ca_file: Path
    profile: str = "bcp195"
    peers: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The verified certificate of a peer: names in lower case, SHA-256 fingerprint, end in seconds since 1970."""

    subject: str
    names: frozenset[str]
    fingerprint: str
    ends_at: float

    @classmethod
    def of_connection(cls, connection: ssl.SSLSocket) -> PeerCertificate:
        """Return the certificate of a connection after its handshake."""
        decoded = cast(dict[str, Any], connection.getpeercert() or {})
        encoded = connection.getpeercert(binary_form=True) or b""
        common = [value for part in decoded.get("subject", ()) for key, value in part if key == "commonName"]
        alternative = [value for _, value in decoded.get("subjectAltName", ()) if isinstance(value, str)]
        names = frozenset(name.casefold() for name in (*common, *alternative))
        ends_at = ssl.cert_time_to_seconds(decoded["notAfter"]) if "notAfter" in decoded else 0.0
        return cls((common or alternative or [""])[0], names, hashlib.sha256(encoded).hexdigest(), ends_at)

    def is_named_in(self, wanted: Sequence[str]) -> bool:
        """Tell whether one of the names, or of the fingerprints "sha256:HEX", is the certificate's."""
        return any(
            normalize_fingerprint(name) == self.fingerprint
            if name.casefold().startswith(FINGERPRINT_PREFIX)
            else name.casefold() in self.names
            for name in wanted
        )


def normalize_fingerprint(text: str) -> str:
    """Return the hexadecimal digits of a fingerprint as `openssl x509 -fingerprint -sha256` prints them, in lower case."""
    return text.casefold().removeprefix(FINGERPRINT_PREFIX).replace(":", "")


class TlsEndpoint:
    """The certificate, key and trust of this daemon; makes the TLS connections of both roles. Safe for threads."""

    def __init__(self, settings: TlsSettings) -> None:
        self.settings = settings
        files = (settings.certificate_file, settings.key_file, settings.ca_file)
        self._server = _ReloadingContext(files, partial(_build_server_context, settings))
        self._clients = {
            checks_host: _ReloadingContext(files, partial(_build_client_context, settings, checks_host))
            for checks_host in (False, True)
        }

    def load(self) -> None:
        """Read the files. ConfigurationError names the file and the remedy."""
        self._server.current()

    def accept(self, connection: socket.socket) -> ssl.SSLSocket:
        """Return the TLS connection of an accepted one; its handshake has not begun. OSError where the peer is gone."""
        return self._server.current().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def prepare_client(self, unconnected: socket.socket, host: str, ae_title: str) -> ClientTlsSocket:
        """Return the TLS socket for a connection to the AE at `host`; connect() also shakes hands and checks the certificate.

        The certificate must have a name that `tls.peers` gives the AE title; where it gives none, that of the host.
        """
        wanted = self.settings.peers.get(ae_title, ())
        context = self._clients[not wanted].current()
        wrapped = cast(ClientTlsSocket, context.wrap_socket(unconnected, server_hostname=host))
        wrapped.peer_title, wrapped.peer_names = ae_title, wanted
        return wrapped

    def find_mismatch(self, ae_title: str, certificate: PeerCertificate | None) -> str:
        """Return why a peer may not call itself by this AE title, "" where it may. `certificate`: None on a port without TLS."""
        peers = self.settings.peers
        if certificate is None:
            return "tls.peers asks for a certificate of this AE title: it must use the TLS port" if ae_title in peers else ""
        if not peers or certificate.is_named_in([*peers.get(ae_title, ()), *peers.get(ANY_TITLE, ())]):
            return ""
        stated = f"certificate {certificate.subject!r}, sha256:{certificate.fingerprint}"
        return f"tls.peers does not give this AE title to its {stated}"


class ClientTlsSocket(ssl.SSLSocket):
    """The connection of a client. `fault`: the TLS error that has ended it, which pynetdicom does not pass on."""

    peer_title = ""
    peer_names: Sequence[str] = ()
    fault: str = ""
    certificate: PeerCertificate | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands and check the names of the certificate. OSError."""
        with self._recording_fault():
            super().do_handshake(block)
        self.certificate = PeerCertificate.of_connection(self)
        if self.peer_names and not self.certificate.is_named_in(self.peer_names):
            self.fault = f"tls.peers gives {self.peer_title} no certificate {self.certificate.subject!r}"
            raise ssl.SSLCertVerificationError(self.fault)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive. With TLS 1.3 the peer's refusal of our certificate comes here, after the handshake."""
        with self._recording_fault():
            return super().recv(buflen, flags)

    @contextmanager
    def _recording_fault(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.fault = "" if self.certificate else "the TLS handshake was not complete in time"
            raise
        except OSError as error:
            self.fault = describe_tls_fault(error)
            raise


class _ReloadingContext:
    """A context that is built anew when one of its files has changed; while the new files have a fault, the old one serves."""

    def __init__(self, files: Sequence[Path], build: Callable[[], ssl.SSLContext]) -> None:
        self._files, self._build = files, build
        self._lock = threading.Lock()
        self._signature: tuple[object, ...] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Return the context of the files as they are now. ConfigurationError where there was never one."""
        signature = tuple(_sign_file(path) for path in self._files)
        with self._lock:
            if self._context is None:
                self._context = self._build()
            elif signature != self._signature:
                try:
                    self._context = self._build()
                    log.info("certificates reloaded", certificate=str(self._files[0]))
                except ConfigurationError as error:
                    log.error("certificates not reloaded, the former ones serve", error=str(error), hint=error.hint)
            self._signature = signature
            return self._context


def _sign_file(path: Path) -> tuple[int, int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _build_server_context(settings: TlsSettings) -> ssl.SSLContext:
    context = _build_context(settings, ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a DICOM peer resumes no session, and a ticket that it does not read resets the connection
    return context


def _build_client_context(settings: TlsSettings, checks_host: bool) -> ssl.SSLContext:
    context = _build_context(settings, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = checks_host
    context.sslsocket_class = ClientTlsSocket
    return context


def _build_context(settings: TlsSettings, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Build a context that shows our certificate and asks for one. ConfigurationError."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{SUITES_OF_PROFILE[settings.profile]}:{SECURITY_LEVEL}")
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = ssl.CERT_REQUIRED
    # What the files list is trusted as it is: a root, an intermediate authority, or the certificate of a single peer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for path in (settings.certificate_file, settings.key_file, settings.ca_file):
        _require_readable(path)
    try:
        context.load_cert_chain(settings.certificate_file, settings.key_file, password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        raise _explain_pair(settings, error) from error
    try:
        context.load_verify_locations(cafile=settings.ca_file)
        context.load_verify_locations(cadata=read_own_certificate(settings.certificate_file))  # for our own checks of the port
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"tls.ca_file {settings.ca_file} holds no certificate in PEM form", hint="begin it with -----BEGIN CERTIFICATE-----"
        ) from error
    return context


def read_own_certificate(path: Path) -> bytes:
    """Return the first certificate of a PEM file, DER-encoded. ConfigurationError."""
    _require_readable(path)
    found = _PEM.search(path.read_bytes())
    if found is None:
        raise ConfigurationError(f"{path} holds no certificate in PEM form", hint="begin it with -----BEGIN CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(found[0].decode("ascii", "replace"))


def _require_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(
            f"[tls] {path}: {error.strerror}", hint="name a file that the user of the service can read, and only that user"
        ) from error


def _refuse_password() -> NoReturn:
    """OpenSSL would ask for the password at the terminal."""
    raise ValueError("the key is encrypted")


def _explain_pair(settings: TlsSettings, error: Exception) -> ConfigurationError:
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return ConfigurationError(
            f"tls.key_file {settings.key_file} is protected by a password",
            hint="openssl pkey -in KEY -out PLAIN_KEY, readable by the user of the service alone",
        )
    reason = getattr(error, "reason", "") or ""
    if reason == "KEY_VALUES_MISMATCH":
        return ConfigurationError(
            f"tls.key_file {settings.key_file} is not the key of tls.certificate_file {settings.certificate_file}",
            hint="name the key that the certificate was requested with",
        )
    if reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
        return ConfigurationError(
            f"tls.certificate_file {settings.certificate_file}: its key or its signature is too weak",
            hint="RSA of 2048 bits, or a curve of 256 bits, and SHA-256 at least (PS3.15 B.13)",
        )
    return ConfigurationError(
        f"tls.certificate_file {settings.certificate_file} and tls.key_file {settings.key_file} are no PEM certificate and key",
        hint="the certificate first, then those of the authorities between it and the root",
    )


FAULT_OF_VERIFICATION = {  # X509_V_ERR_..., openssl-verify(1)
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired",
    18: "its certificate is not of an authority in tls.ca_file",
    19: "its certificate is not of an authority in tls.ca_file",
    20: "its certificate is not of an authority in tls.ca_file",
    21: "its certificate is not of an authority in tls.ca_file",
    26: "its certificate is not made for this: the extended key usage of a sender is clientAuth, of an archive serverAuth",
    62: "its certificate does not name the host: give the names of the certificate in tls.peers",
    64: "its certificate does not name the address: give the names of the certificate in tls.peers",
    66: "the key of its certificate is too weak",
    68: "the signature of its certificate is too weak",
}
FAULT_OF_REASON = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "NO_SHARED_CIPHER": "it offers no cipher suite of BCP 195",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "it offers no signature algorithm for our certificate",
    "UNSUPPORTED_PROTOCOL": "it offers neither TLS 1.2 nor TLS 1.3",
    "VERSION_TOO_LOW": "it offers neither TLS 1.2 nor TLS 1.3",
    "WRONG_VERSION_NUMBER": "what it sends is not TLS",
    "HTTP_REQUEST": "what it sends is not TLS",
    "UNEXPECTED_EOF_WHILE_READING": "it has closed the connection during the handshake",
}
_ALERT = re.compile(r"(?:TLSV1_ALERT|TLSV13_ALERT|SSLV3_ALERT|TLSV1)_(\w+)")


def describe_tls_fault(error: BaseException) -> str:
    """Return the reason of a failed TLS connection in words. It quotes nothing that the peer has sent."""
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_code"):
        return FAULT_OF_VERIFICATION.get(error.verify_code) or f"its certificate is refused: {error.verify_message}"
    reason = str(getattr(error, "reason", None) or "")
    if reason in FAULT_OF_REASON:
        return FAULT_OF_REASON[reason]
    if isinstance(error, ssl.SSLEOFError):
        return FAULT_OF_REASON["UNEXPECTED_EOF_WHILE_READING"]
    if alert := _ALERT.fullmatch(reason):
        return f"it refuses our certificate or our offer: {alert[1].replace('_', ' ').lower()}"
    if reason:
        return f"the TLS handshake failed: {reason.replace('_', ' ').lower()}"
    return f"the connection failed: {getattr(error, 'strerror', None) or type(error).__name__}"


def end_output(connection: socket.socket) -> None:
    """Send nothing more on a connection; on one with TLS close_notify first. Input can still be read. OSError."""
    if isinstance(connection, ssl.SSLSocket):
        with suppress(OSError, ValueError):  # it waits for the peer's close_notify, or no handshake has been made
            connection.unwrap()
    socket.socket.shutdown(connection, socket.SHUT_WR)
