"""Part of a version's card that describes its base."""

from __future__ import annotations

from typing import Any

from models.classifier.prompts import Prompts
from models.encoder.base import Base, library_versions


def base_card(base: Base, prompts: Prompts) -> dict[str, Any]:
    """Return the values that loading checks, and the origin of the weights, JSON-able."""
    return {
        "architecture": base.encoder.architecture.card,
        "preprocess": base.preprocess.card,
        "golden": base.golden.card,
        "prompts": {"fingerprint": prompts.fingerprint},
        "temperature": base.encoder.temperature,
        "source": dict(base.card.get("source", {})),
        "libraries": library_versions(),
    }
