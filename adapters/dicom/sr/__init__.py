"""DICOM SR: our reports out, readers' documents in."""

from __future__ import annotations
