"""The audit repository of the hospital: DICOM audit messages over syslog."""

from __future__ import annotations
