"""The demonstration encoder: a small CLIP trained on phantom films, shipped with its card.

It has never seen a patient. It exists so that the whole way, learning included, can be seen and tested in minutes without a
download, and every result of it is marked. `radclipd experiment pretrain-demo` makes it again.
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
    """Return the shipped weights as a source like any other. CheckpointMissing is raised where they are used, not here."""
    found = sources.local_source(folder / WEIGHTS, str(ARCHITECTURE))
    return sources.WeightsSource(found.path, found.architecture, found.preprocess, {"kind": "demo", "name": NAME})


def read_card(folder: Path = FOLDER) -> dict[str, Any]:
    """Return what the encoder was made of and what it measures: data, recipe, measures. OSError where it is not there."""
    read: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return read


def verified_source(folder: Path = FOLDER) -> sources.WeightsSource:
    """Return the encoder with its card in its origin, ready to be imported.

    CheckpointMissing where weights or card are not there; CheckpointCorrupt where the card is of other weights, or none.
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
