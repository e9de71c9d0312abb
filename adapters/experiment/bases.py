"""Encoder of an experiment: the shipped demonstration model, a base of the model store, a folder, or untrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapters.ml.error_translation import translate_model_errors
from adapters.ml.importer import UNTRAINED, base_name
from adapters.storage.model_files import base_folder
from models import demo
from models.checkpoint_files import CARD
from models.encoder import sources
from models.encoder.base import read_base, write_base
from models.encoder.encoder import Encoder
from models.images.preprocess import Preprocess
from pipeline.errors import NoWeights

UNTRAINED_BASE = "untrained"
"""Name of untrained weights, also untrained:ARCHITECTURE; never a substitute for another base."""
UNTRAINED_ARCHITECTURE = "ViT-B-32"


@dataclass(frozen=True)
class ChosenBase:
    """An encoder in evaluation mode on the CPU. `sha256`: of its weights file; `card`: shown in the report."""

    name: str
    encoder: Encoder
    preprocess: Preprocess
    sha256: str
    notice: str
    card: Mapping[str, Any]


def choose_base(wanted: str, *, store: Path | None) -> ChosenBase:
    """Return the base of a name, folder or tag. `store`: the model directory, if any.

    NoWeights for an unknown base, WeightsRejected where the weights do not match their card. No network access.
    """
    if wanted == UNTRAINED_BASE or wanted.startswith(f"{UNTRAINED_BASE}:"):
        return _build_untrained_base(wanted.partition(":")[2] or UNTRAINED_ARCHITECTURE)
    if (Path(wanted) / CARD).is_file():
        return _read_base(Path(wanted).name, Path(wanted))
    folder = base_folder(store, base_name(wanted)) if store else None
    if folder is None or not (folder / CARD).is_file():
        raise NoWeights(
            f"no base {wanted!r}: neither a folder with a card nor a name in the model store",
            hint="radclipd versions list shows the names; radclipd model fetch or import adds one",
        )
    return _read_base(folder.name, folder)


def needs_store(wanted: str) -> bool:
    """Return whether a base is a name of the model store."""
    return not wanted.startswith(UNTRAINED_BASE) and not (Path(wanted) / CARD).is_file()


def demo_base() -> ChosenBase:
    """Return the shipped demonstration model. NoWeights where the installation lacks it."""
    with translate_model_errors():
        source = demo.verified_source()
        encoder = source.encoder()
    return ChosenBase(demo.NAME, encoder, source.preprocess, source.provenance()["sha256"], demo.NOTICE, source.origin["card"])


def serving_base(store: Path, name: str, card: Mapping[str, Any]) -> ChosenBase:
    """Return the base of a version, verified against the catalog's card."""
    return _read_base(name, base_folder(store, name), expected=card)


def _read_base(name: str, folder: Path, *, expected: Mapping[str, Any] | None = None) -> ChosenBase:
    with translate_model_errors():
        base = read_base(folder, expected=expected)
    return ChosenBase(name, base.encoder, base.preprocess, base.sha256, str(base.card.get("notice", "")), base.card)


def _build_untrained_base(architecture: str) -> ChosenBase:
    """Build untrained weights, write them and read them back: the weights get a hash like those of any base."""
    with translate_model_errors(), TemporaryDirectory(prefix="radclipd-") as folder:
        encoder, preprocess, origin = sources.build_untrained(architecture, seed=0)
        write_base(Path(folder), encoder, preprocess, source=origin, notice=UNTRAINED)
        return _read_base(f"untrained {encoder.architecture.name}", Path(folder))
