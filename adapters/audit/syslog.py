"""Syslog over TLS: messages by RFC 5424, octet counting and TLS by RFC 5425."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from adapters.audit.dicom_message import AuditSource, build_message
from adapters.audit.tls_delivery import send_and_close
from pipeline.errors import AuditRepositoryUnreachable, ConfigurationError
from pipeline.ports.audit import ToldEvent

FACILITY_SECURITY, SEVERITY_NOTICE = 10, 5
PRIORITY = FACILITY_SECURITY * 8 + SEVERITY_NOTICE
MESSAGE_ID = "DICOM+RFC3881"
"""PS3.15 section A.6.1."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""RFC 5424 section 6.4: marks UTF-8."""
CHECK_TLS = (
    "audit.syslog_ca_file must hold the authority that signed the repository's certificate, which must name audit.syslog_host"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogSettings:
    """`[audit]` of the configuration."""

    host: str
    port: int
    ca_file: str = ""  # "": the authorities that the system trusts
    certificate_file: str = ""  # our own, where the repository asks for one
    key_file: str = ""
    timeout_seconds: float = 10


class SyslogRepository:
    """`ports.audit.AuditRepository`: one TLS connection for each batch.

    Syslog has no acknowledgement. A batch counts as delivered once the repository has answered our close_notify with its own (RFC
    5425 section 4.4, RFC 8446 section 6.1), which it does after it has read everything before. A connection that ends in any other
    way, as where the repository refuses our certificate, has delivered nothing.
    """

    def __init__(self, settings: SyslogSettings, source: AuditSource) -> None:
        self._settings, self._source = settings, source

    @property
    def name(self) -> str:
        """Host and port."""
        return f"{self._settings.host}:{self._settings.port}"

    def send(self, events: Sequence[ToldEvent]) -> None:
        """Send the events in order. AuditRepositoryUnreachable, ConfigurationError."""
        frames = b"".join(frame_message(self._build_message(event)) for event in events)
        context = self._make_context()
        settings = self._settings
        try:
            with socket.create_connection((settings.host, settings.port), settings.timeout_seconds) as plain:
                send_and_close(plain, context, settings.host, frames)
        except OSError as error:  # an error of TLS too
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            raise AuditRepositoryUnreachable(
                f"the audit repository {self.name} is out of reach: {reason or type(error).__name__}", hint=CHECK_TLS
            ) from error

    def _make_context(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=settings.ca_file or None)
            if settings.certificate_file:
                context.load_cert_chain(settings.certificate_file, settings.key_file)
        except OSError as error:
            raise ConfigurationError(
                f"the files of [audit] cannot be used for TLS: {error.strerror or type(error).__name__}",
                hint="audit.syslog_ca_file, syslog_certificate_file and syslog_key_file are PEM files that its user can read",
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _build_message(self, told: ToldEvent) -> bytes:
        """Return the syslog message of RFC 5424 section 6."""
        moment = told.link.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        header = f"<{PRIORITY}>1 {moment} {self._source.host} radclipd {os.getpid()} {MESSAGE_ID} - "
        return header.encode("ascii", "replace") + BYTE_ORDER_MARK + build_message(told, self._source)


def frame_message(message: bytes) -> bytes:
    """Return the frame of RFC 5425 section 4.3: the length in octets, a blank, the message."""
    return b"%d " % len(message) + message
