"""DICOM: the listener, Part 10 files, pixels, structured reports, the archive."""

from __future__ import annotations
