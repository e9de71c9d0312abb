"""The certificates in our own files: names, uses and dates, for checks and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate in a file. `serves`, `sends`: its extended key usage permits TLS servers, TLS clients."""

    subject: str
    fingerprint: str
    not_after: datetime
    serves: bool
    sends: bool

    def days_left(self, now: datetime | None = None) -> float:
        """Return the days until its end, negative after it."""
        return (self.not_after - (now or datetime.now(UTC))).total_seconds() / 86_400


def read_certificates(path: Path) -> list[StoredCertificate]:
    """Read all certificates of a PEM file, at least one, in order. ConfigurationError."""
    try:
        return [_describe_certificate(one) for one in x509.load_pem_x509_certificates(path.read_bytes())]
    except OSError as error:
        raise ConfigurationError(f"[tls] {path}: {error.strerror}", hint="may the user of the service read it?") from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} holds no certificate in PEM form", hint="openssl x509 -in FILE -text shows what is wrong"
        ) from error


def _describe_certificate(one: x509.Certificate) -> StoredCertificate:
    common = one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(common[0].value) if common else one.subject.rfc4514_string()
    uses = _list_uses(one)
    return StoredCertificate(
        subject=name,
        fingerprint=one.fingerprint(SHA256()).hex(),
        not_after=one.not_valid_after_utc,
        serves=uses is None or ExtendedKeyUsageOID.SERVER_AUTH in uses,
        sends=uses is None or ExtendedKeyUsageOID.CLIENT_AUTH in uses,
    )


def _list_uses(one: x509.Certificate) -> x509.ExtendedKeyUsage | None:
    try:
        return one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
