"""A base: the encoder that versions start from, with all that is needed to load it identically.

A base on disk is a checkpoint (`checkpoint.py`) with weights.safetensors in open_clip's own layout, float32, and a card:
architecture, preprocess, golden, notice, source, libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from models.checkpoint_files import WEIGHTS
from models.encoder.architecture import Architecture
from models.encoder.checkpoint import read_card, read_tensors, write_checkpoint
from models.encoder.encoder import Encoder
from models.encoder.golden import GoldenEmbedding
from models.errors import CheckpointCorrupt, CheckpointIncompatible, UnknownArchitecture
from models.images.preprocess import Preprocess


@dataclass(frozen=True)
class Base:
    """An encoder and its preprocessing. `sha256` is that of its weights file."""

    encoder: Encoder
    preprocess: Preprocess
    golden: GoldenEmbedding
    sha256: str
    card: Mapping[str, Any]

    @property
    def dimension(self) -> int:
        """D: length of this encoder's feature vectors."""
        return int(self.encoder.architecture.config["embed_dim"])


def library_versions() -> dict[str, str]:
    """Return the versions of open_clip and torch."""
    return {"open_clip": open_clip.__version__, "torch": torch.__version__}


def write_base(
    folder: Path, encoder: Encoder, preprocess: Preprocess, *, source: Mapping[str, Any], notice: str = ""
) -> dict[str, Any]:
    """Write an encoder into an existing folder and return its card. `source`: origin of the weights, JSON-able.

    CheckpointUnwritable; CheckpointIncompatible where the encoder's output is not finite.
    """
    card = {
        "architecture": encoder.architecture.card,
        "preprocess": preprocess.card,
        "golden": GoldenEmbedding.compute(encoder, preprocess).card,
        "notice": notice,
        "source": dict(source),
        "libraries": library_versions(),
    }
    return write_checkpoint(folder, WEIGHTS, encoder.network.state_dict(), card)


def read_base(folder: Path, *, expected: Mapping[str, Any] | None = None) -> Base:
    """Read a base and check it: hash, architecture, golden embeddings.

    `expected`: card to check against in place of the folder's own, such as the catalog's: `weights.sha256`, `architecture`,
    `preprocess`, `golden`. Raises CheckpointMissing, CheckpointCorrupt, CheckpointIncompatible, GoldenMismatch.
    """
    card = read_card(folder)
    wanted = card if expected is None else expected
    try:
        sha256 = str(wanted["weights"]["sha256"])
        architecture, preprocess = Architecture.from_card(wanted["architecture"]), Preprocess.from_card(wanted["preprocess"])
        golden = GoldenEmbedding.from_card(wanted["golden"])
        encoder = Encoder.with_weights(architecture, read_tensors(folder, WEIGHTS, sha256=sha256))
    except (KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"the card of {folder} lacks {error}", hint="import the weights again") from error
    except UnknownArchitecture as error:
        raise CheckpointIncompatible(str(error), hint=error.hint or "import the weights again") from error
    golden.check(encoder, preprocess)
    return Base(encoder=encoder, preprocess=preprocess, golden=golden, sha256=sha256, card=card)
