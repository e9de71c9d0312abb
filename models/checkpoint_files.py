"""File names of checkpoints: bases, versions and the shipped encoder. No torch: the model directory uses them too."""

from __future__ import annotations

WEIGHTS = "weights.safetensors"
"""Weights of a whole encoder."""
HEAD = "head.safetensors"
"""What a version adds to its base."""
CARD = "card.json"
"""Names the tensor file with its size and SHA-256, and describes it."""
