"""The CLIP image encoder: architecture, weights, frozen and unfrozen blocks, activations."""

from __future__ import annotations

import models.encoder.torchvision_ops  # noqa: F401 - before open_clip, whose import of torchvision may fail otherwise
