"""DICOM SR: the writer of reports, the reader of labels."""

from __future__ import annotations
