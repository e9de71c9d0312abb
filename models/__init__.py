"""The machine-learning models: encoder, prompts, head, preprocessing. Torch and numpy; no SQL, no DICOM, no pipeline."""

from __future__ import annotations
