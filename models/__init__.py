"""The machine-learning models: encoder, preprocessing, heads, training, evaluation. Torch and numpy; no SQL, DICOM or pipeline."""

from __future__ import annotations
