"""The CLIP image encoder: architecture, weights, frozen and unfrozen blocks, activations."""

from __future__ import annotations
