"""DICOM over the network: listener, upper layer, archive (SCU)."""

from __future__ import annotations
