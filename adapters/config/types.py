"""Types of the configuration's values, with their validation."""

from __future__ import annotations

import ipaddress
import json
import re
from ipaddress import ip_address
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
AeTitles = Annotated[tuple[AeTitle, ...], NoDecode, BeforeValidator(split_list)]
VisibleTuple = Annotated[tuple[VisibleKind, ...], NoDecode, BeforeValidator(split_list)]
StringTuple = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_list)]
RegionTuple = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_regions)]
Host = Annotated[str, AfterValidator(check_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInteger = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
AbsolutePath = Annotated[Path, AfterValidator(check_absolute)]
