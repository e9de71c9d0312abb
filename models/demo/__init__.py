"""The demonstration encoder: a small CLIP trained on phantom films, shipped with its card.

It was trained without any patient data. With it the whole pipeline, learning included, can be run and tested in minutes without a
download. Every result of it carries NOTICE. `radclipd experiment pretrain-demo` trains it again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import checkpoint_files
from models.encoder import sources
from models.errors import CheckpointCorrupt, CheckpointMissing
from models.fingerprint import file_sha256

NOTICE = "demo model, phantoms only"
NAME = "demo-clip"
FOLDER = Path(__file__).parent
ARCHITECTURE = FOLDER / "architecture.json"
WEIGHTS, CARD = checkpoint_files.WEIGHTS, checkpoint_files.CARD
REINSTALL_HINT = "install radclipd again, or make the encoder: radclipd experiment pretrain-demo"


def source(folder: Path = FOLDER) -> sources.WeightsSource:
    """Return the shipped weights as a WeightsSource. CheckpointMissing is raised on use, not here."""
    found = sources.local_source(folder / WEIGHTS, str(ARCHITECTURE))
    return sources.WeightsSource(found.path, found.architecture, found.preprocess, {"kind": "demo", "name": NAME})


def read_card(folder: Path = FOLDER) -> dict[str, Any]:
    """Return the card of the encoder: data, recipe, measures. Raise OSError for a missing file."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def verified_source(folder: Path = FOLDER) -> sources.WeightsSource:
    """Return the source with the card in its origin, ready for import.

    Raise CheckpointMissing for missing weights or card; CheckpointCorrupt for a card of other weights or an invalid one.
    """
    found = source(folder)
    try:
        described, sha256 = read_card(folder), file_sha256(found.path)
    except OSError as error:
        missing = Path(str(error.filename)).name
        raise CheckpointMissing(f"the demonstration encoder is not whole: no {missing} in {folder}", hint=REINSTALL_HINT) from error
    except ValueError as error:
        raise CheckpointCorrupt(
            f"the card of the demonstration encoder is no JSON: {folder / CARD}", hint=REINSTALL_HINT
        ) from error
    if described.get("weights", {}).get("sha256") != sha256:
        raise CheckpointCorrupt(
            f"weights and card of the demonstration encoder do not belong together: {folder}", hint=REINSTALL_HINT
        )
    return replace(found, origin={**found.origin, "card": described})
