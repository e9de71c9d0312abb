"""The demonstration encoder: a small CLIP trained on phantom films, shipped with its card.

It has never seen a patient. It exists so that the whole way, learning included, can be seen and tested in minutes without a
download, and every result of it is marked. `radclipd experiment pretrain-demo` makes it again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import sources

MARKING = "demo model, phantoms only"
NAME = "demo-clip"
FOLDER = Path(__file__).parent
ARCHITECTURE = FOLDER / "architecture.json"
WEIGHTS = "weights.safetensors"
CARD = "card.json"


def source(folder: Path = FOLDER) -> sources.Source:
    """Return the shipped weights as a source like any other. CheckpointMissing is raised where they are used, not here."""
    found = sources.local(folder / WEIGHTS, str(ARCHITECTURE))
    return sources.Source(found.path, found.architecture, found.preprocess, {"kind": "demo", "name": NAME})


def card(folder: Path = FOLDER) -> dict[str, Any]:
    """Return what the encoder was made of and what it measures: data, recipe, measures. OSError where it is not there."""
    read: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return read
