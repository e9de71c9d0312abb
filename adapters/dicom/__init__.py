"""DICOM: listener, archive client, Part 10 files, pixels, structured reports, backfill sources."""

from __future__ import annotations
