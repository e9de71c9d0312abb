"""DICOM files and pixels: Part 10, stored values, the decode pool."""

from __future__ import annotations
