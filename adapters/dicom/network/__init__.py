"""DICOM over the network: listener (SCP), upper layer, archive client (SCU)."""

from __future__ import annotations
