"""A training round: stages, fine-tuning, cross-validation, calibration, recipe."""

from __future__ import annotations
