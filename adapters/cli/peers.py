"""Addresses of DICOM peers on the command line."""

from __future__ import annotations

import re
from typing import NamedTuple

import typer

_ADDRESS = re.compile(r"([\x20-\x3f\x41-\x5b\x5d-\x7e]{1,16})@(\[[0-9A-Fa-f:.]+\]|[^:@\s]+):(\d{1,5})")
"""AE title (PS3.5 6.2, VR AE: up to 16 characters, no backslash), host or [IPv6 address], port."""


class PeerAddress(NamedTuple):
    """A DICOM application entity on the network."""

    ae_title: str
    host: str
    port: int


def parse_peer_address(text: str, *, option: str) -> PeerAddress:
    """Read AE@HOST:PORT. typer.BadParameter that names the option."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise typer.BadParameter("write AE@HOST:PORT, as PACS@pacs.example.org:104", param_hint=option)
    return PeerAddress(found[1].strip(), found[2].strip("[]"), int(found[3]))
