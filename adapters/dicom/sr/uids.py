"""UIDs derived from the identity of an object: a report built again is the same object (PS3.5 section 9, annex B).

`scope`: one more part of the identity, for objects that no row of the catalog stands for.
"""

from __future__ import annotations

import hashlib
import uuid

NAMESPACE = uuid.UUID("5a1c7f0e-3f0b-5c55-9a3e-7d2c0c1d4e11")
"""The namespace of all UUID-derived UIDs of radclipd; it must never change."""
MAX_UID_LENGTH = 64


def derived_uid(root: str, *parts: object) -> str:
    """Return the UID of these parts: `2.25.` and a UUIDv5 where `root` is empty, else the root and the digits of a digest."""
    name = "\x1f".join(str(part) for part in parts)
    if not root:
        return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"
    digits = str(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big"))
    return f"{root}.{digits[: MAX_UID_LENGTH - len(root) - 1]}"


def report_uid(root: str, study_instance_uid: str, version: int, revision: int, *scope: str) -> str:
    """Return the SOP Instance UID of a report."""
    return derived_uid(root, "report", study_instance_uid, version, revision, *scope)


def series_uid(root: str, study_instance_uid: str, version: int, *scope: str) -> str:
    """Return the Series Instance UID of a version's reports on a study: one series for all revisions."""
    return derived_uid(root, "series", study_instance_uid, version, *scope)


def visible_uid(root: str, study_instance_uid: str, version: int, revision: int, kind: str, *scope: str) -> str:
    """Return the SOP Instance UID of a visible object."""
    return derived_uid(root, "visible", study_instance_uid, version, revision, kind, *scope)


def visible_series_uid(root: str, study_instance_uid: str, version: int, kind: str, *scope: str) -> str:
    """Return the Series Instance UID of a version's visible objects of one kind on a study."""
    return derived_uid(root, "visible series", study_instance_uid, version, kind, *scope)


def tracking_uid(root: str, study_instance_uid: str, finding: str) -> str:
    """Return the Tracking UID of a finding in a study: equal for all model versions."""
    return derived_uid(root, "tracking", study_instance_uid, finding)
