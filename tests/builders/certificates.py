"""A hospital's certificate authority, and what its devices show: right, expired, foreign, for another use."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from adapters.dicom.network.tls import TlsEndpoint, TlsSettings

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class IssuedFiles:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def replace_with(self, other: IssuedFiles) -> None:
        """Write another certificate and key into these files, as a renewal does."""
        self.key.write_bytes(other.key.read_bytes())
        self.certificate.write_bytes(other.certificate.read_bytes())


@dataclass
class CertificateAuthority:
    """An authority whose certificate stands in `ca_file`. RSA, which every DICOM toolkit knows."""

    folder: Path
    name: str = "ca"
    _authority: trustme.CA = field(default_factory=lambda: trustme.CA(key_type=trustme.KeyType.RSA))

    def __post_init__(self) -> None:
        self._authority.cert_pem.write_to_path(self.ca_file)

    @property
    def ca_file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def issue(self, common_name: str, *, days: float = 365, begun_days_ago: float = 1, file: str = "") -> IssuedFiles:
        """Issue a certificate that names the loopback, and ends in `days`."""
        issued = self._authority.issue_cert(
            "127.0.0.1",
            "localhost",
            common_name=common_name,
            not_before=NOW - begun_days_ago * DAY,
            not_after=NOW + days * DAY,
            key_type=trustme.KeyType.RSA,
        )
        stem = self.folder / f"{self.name}-{file or common_name}"
        files = IssuedFiles(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        issued.private_key_pem.write_to_path(files.key)
        files.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        return files

    def endpoint(self, files: IssuedFiles, *, profile: str = "bcp195", **peers: list[str]) -> TlsEndpoint:
        """Return the endpoint of a daemon with these files."""
        return TlsEndpoint(
            TlsSettings(certificate_file=files.certificate, key_file=files.key, ca_file=self.ca_file, profile=profile, peers=peers)
        )
