"""Fingerprints: the SHA-256 of a value's canonical JSON, and of a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22  # bytes read at a time


def fingerprint(value: Any) -> str:
    """Return 64 hex digits for a JSON-able value; equal values give equal fingerprints in any key order."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hex digits. OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
