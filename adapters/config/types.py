"""Types of the configuration's values, with their validation."""

from __future__ import annotations

import ipaddress
import json
import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from pipeline.domain import FINDINGS, VisibleKind
from pipeline.finding_names import parse_findings
from pipeline.messages import load_messages

URL_SCHEMES = ("sqlite://", "sqlite+pysqlite://", "postgresql://", "postgresql+psycopg://")
UNLIMITED_PDU = 0
SMALLEST_PDU = 4096


class Section(BaseModel):
    """Base of the sections: one table of the file. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `port = true`, which Python would read as 1."""
        expected = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and expected is not bool:
            raise ValueError("true and false are no value of this key")
        return value


def check_ae_title(value: str) -> str:
    """Check an AE title: 1 to 16 printable ASCII characters, no backslash (PS3.5 section 6.2, VR AE)."""
    title = value.strip(" ")
    if not re.fullmatch(r"[\x20-\x5b\x5d-\x7e]{1,16}", title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def check_optional_ae_title(value: str) -> str:
    """Check an AE title that may be empty."""
    return check_ae_title(value) if value.strip() else ""


def split_caller(entry: str) -> tuple[str, IPv4Network | IPv6Network | None]:
    """Split an entry of an allow-list, AE or AE@ADDRESSES, into AE title and network; None: any address. ValueError."""
    title, mark, addresses = entry.rpartition("@")
    if not mark or not re.fullmatch(r"[0-9A-Fa-f:.]+(/\d+)?", addresses) or not re.search(r"[.:/]", addresses):
        return check_ae_title(entry), None  # an AE title may have the sign
    try:
        return check_ae_title(title), ip_network(addresses)
    except ValueError as error:
        raise ValueError(f"{entry!r}: {error}; write AE@ADDRESS or AE@NETWORK/BITS, as CT1@10.20.0.0/16") from None


def check_caller(entry: str) -> str:
    """Check an entry of an allow-list: an AE title, alone or with the addresses that it may call from."""
    title, network = split_caller(entry)
    return title if network is None else f"{title}@{network}"


def check_peer_addresses(value: dict[str, str]) -> dict[str, str]:
    """Check a table of addresses: AE titles with HOST:PORT or [IPv6]:PORT."""
    for title, address in value.items():
        check_ae_title(title)
        split_address(address)
    return value


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT or [IPv6]:PORT. ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT, as 10.20.1.7:104")
    return check_host(host.strip("[]")), int(port)


def check_certificate_names(value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Check a table of certificates: AE titles, or "*", with names of subjects or fingerprints "sha256:HEX"."""
    for title, names in value.items():
        check_ae_title(title)
        if not names or not all(name.strip() for name in names):
            raise ValueError(f'{title!r} has no name: write {title} = ["name in the certificate"]')
        for name in names:
            digits = name.casefold().removeprefix("sha256:").replace(":", "")
            if name.casefold().startswith("sha256:") and not re.fullmatch("[0-9a-f]{64}", digits):
                raise ValueError(f"{name!r} is no SHA-256 fingerprint: openssl x509 -noout -fingerprint -sha256 -in FILE prints it")
    return value


def check_secret_file(value: str) -> str:
    """Check the name of a file with a secret: empty, an absolute path, or the bare name of a systemd credential."""
    if value and not value.startswith("/") and "/" in value:
        raise ValueError("an absolute path, or the bare name of a systemd credential")
    return value


def split_list(value: Any) -> Any:
    """Split the text of an environment variable, `A,B` or a JSON list; return any other value unchanged."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            raise ValueError('a list is written A,B or ["A", "B"]') from None
    return [part.strip() for part in text.split(",") if part.strip()]


def check_pdu_length(value: int) -> int:
    """Check the length of a PDU, bytes (PS3.8 section D.1)."""
    if value != UNLIMITED_PDU and value < SMALLEST_PDU:
        raise ValueError(f"0 (unlimited) or at least {SMALLEST_PDU} bytes")
    return value


def check_database_url(value: str) -> str:
    """Check that a URL names an SQLite file by its absolute path, or a PostgreSQL database."""
    if not value.startswith(URL_SCHEMES):
        raise ValueError("a database URL starts with sqlite:/// or postgresql+psycopg://")
    if value.startswith("sqlite"):
        _check_sqlite_url(value)
    return value


def _check_sqlite_url(value: str) -> None:
    path, mark, options = value.partition("://")[2].partition("?")
    if mark:
        raise ValueError(f"remove the option {options.partition('=')[0]}: an SQLite URL ends with its path")
    if path in ("", "/", "/:memory:"):
        raise ValueError("a catalog in memory is lost and not shared: name a file, sqlite:////absolute/path")
    if path.endswith("/"):
        raise ValueError("the path names a folder: name the database's file in it")
    if not path.startswith("//"):
        raise ValueError("the path is relative: write four slashes before an absolute one, sqlite:////var/lib/radclipd/radclipd.db")


def sqlite_path(url: str) -> Path | None:
    """Return the file of an SQLite catalog; None for PostgreSQL."""
    return Path(url.partition("://")[2][1:]) if url.startswith("sqlite") else None


def check_host(value: str) -> str:
    """Check a host name or address: no URL, no port."""
    host = value.strip()
    if not host or re.search(r"[\s/\\@\0]", host):
        raise ValueError("a host is a name or an address, such as pacs.hospital.example: no URL and no blank")
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("a host without its port, which has a key of its own; an IPv6 address without brackets") from None
    return host


def check_optional_host(value: str) -> str:
    """Check a host name or address that may be empty."""
    return check_host(value) if value.strip() else ""


def check_absolute(value: Path) -> Path:
    """Check that a path is absolute, and one that a file system can have."""
    if "\0" in str(value):
        raise ValueError("a path has no NUL character")
    if not value.is_absolute():
        raise ValueError("a path starts with /: a service has no working folder of its own")
    return value


def is_loopback(host: str) -> bool:
    """Tell whether an address reaches this host only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_uid_root(value: str) -> str:
    """Check a UID root: dotted numbers without leading zeros (PS3.5 section 9.1), at most 32 characters."""
    root = value.rstrip(".")
    if root and (len(root) > 32 or not re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", root)):
        raise ValueError("a UID root is dotted numbers such as 1.2.826.0.1.3680043.10.999, at most 32 characters")
    return root


def check_document_titles(value: dict[str, str]) -> dict[str, str]:
    """Check a table of document titles: from a code "value,scheme" to findings in the syntax of `radclipd labels add`."""
    for title, statements in value.items():
        if not re.fullmatch(r"[^,\s]+,[^,\s]+", title):
            raise ValueError(f'{title!r} is not a code "value,scheme" such as "113000,DCM"')
        parse_findings(statements.split(","))
    return value


def check_findings(value: dict[str, float]) -> dict[str, float]:
    """Check that every key is one of the 14 findings and every share lies between 0 and 1, both excluded."""
    for finding, share in value.items():
        if finding not in FINDINGS:
            raise ValueError(f"{finding!r} is no finding; they are {', '.join(FINDINGS)}")
        if not 0 < share < 1:
            raise ValueError(f"the prevalence of {finding} must lie between 0 and 1, both excluded")
    return value


def parse_region(text: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a region "left,top,right,bottom", shares of an image's width and height."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f'{text!r} is no region "left,top,right,bottom" such as "0,0,1,0.08"') from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"{text!r}: the shares lie between 0 and 1, left before right and top before bottom")
    return left, top, right, bottom


def split_regions(value: Any) -> Any:
    """Split the text of an environment variable, regions separated by ";", or a JSON list; return any other value unchanged."""
    if not isinstance(value, str) or value.strip().startswith("["):
        return split_list(value)
    return [part.strip() for part in value.split(";") if part.strip()]


def check_language(value: str) -> str:
    """Check that reports can be written in this language."""
    load_messages(value)
    return value


AeTitle = Annotated[str, AfterValidator(check_ae_title)]
OptionalAeTitle = Annotated[str, AfterValidator(check_optional_ae_title)]
StringNames = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
Callers = Annotated[tuple[Annotated[str, AfterValidator(check_caller)], ...], NoDecode, BeforeValidator(split_list)]
CertificateNames = Annotated[dict[str, StringNames], AfterValidator(check_certificate_names)]
PeerAddresses = Annotated[dict[str, str], AfterValidator(check_peer_addresses)]
SecretFile = Annotated[str, AfterValidator(check_secret_file)]
AeTitles = Annotated[tuple[AeTitle, ...], NoDecode, BeforeValidator(split_list)]
VisibleTuple = Annotated[tuple[VisibleKind, ...], NoDecode, BeforeValidator(split_list)]
StringTuple = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
RegionTuple = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_regions)]
Host = Annotated[str, AfterValidator(check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
OptionalPort = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInteger = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
AbsolutePath = Annotated[Path, AfterValidator(check_absolute)]
