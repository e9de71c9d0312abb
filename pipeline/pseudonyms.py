"""Pseudonyms of a patient by a random key: equal in every export of this catalog, and nobody's once the key is deleted."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date, timedelta

UUID_ROOT = "2.25."
"""Root of UIDs that are made of 128 bits, PS3.5 section B.2."""
MIN_SHIFT_DAYS, MAX_SHIFT_DAYS = 30, 3650
CHECKED_DIGITS = 16
EXPORT_PREFIX = "R"


def _derive_bytes(key: bytes, purpose: str, text: str = "") -> bytes:
    return hmac.new(key, f"radclipd {purpose}\0{text}".encode(), hashlib.sha256).digest()


def audit_pseudonym(key: bytes) -> str:
    """Return the patient's pseudonym in the audit table, 32 hex digits."""
    return _derive_bytes(key, "audit").hex()[:32]


def export_pseudonym(key: bytes) -> str:
    """Return the patient's Patient ID in exports, 17 characters. It cannot be told from the one in the audit table."""
    return EXPORT_PREFIX + _derive_bytes(key, "export").hex()[:CHECKED_DIGITS].upper()


def export_uid(key: bytes, uid: str) -> str:
    """Return the UID that takes the place of a UID in exports."""
    return UUID_ROOT + str(int.from_bytes(_derive_bytes(key, "uid", uid)[:16], "big"))


def date_shift(key: bytes) -> timedelta:
    """Return the time by which the patient's dates are moved back, whole days: intervals between the patient's studies stay."""
    span = MAX_SHIFT_DAYS - MIN_SHIFT_DAYS + 1
    return timedelta(days=MIN_SHIFT_DAYS + int.from_bytes(_derive_bytes(key, "dates")[:8], "big") % span)


def shift_date(value: str, shift: timedelta) -> str:
    """Return a DA value, YYYYMMDD, moved back; "" where it is no date."""
    try:
        moved = date(int(value[:4]), int(value[4:6]), int(value[6:8])) - shift
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}" if len(value) == len("YYYYMMDD") else ""
