"""File names of checkpoints: bases, versions and the shipped encoder. No torch: the model directory uses them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WEIGHTS = "weights.safetensors"
"""Weights of a whole encoder."""
HEAD = "head.safetensors"
"""What a version adds to its base."""
CARD = "card.json"
"""Names the tensor file with its size and SHA-256, and describes it."""
_RENAMED_CARD_KEYS = {"marking": "notice"}
"""Key in the cards of an earlier release, key now."""


def rename_card_keys(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card with the key names of this release."""
    return {_RENAMED_CARD_KEYS.get(key, key): value for key, value in card.items()}
