"""From decoded pixels to the model input: preprocessing, resize, augmentation, views."""

from __future__ import annotations
