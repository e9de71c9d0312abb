"""Checkpoints of radclipd: a folder with one safetensors file and card.json. No pickles.

The card holds the file's name, size and SHA-256 and is written last: a folder without a card is no checkpoint. Each file is
written as `.part` in the same folder, synced, then renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from models.checkpoint_files import CARD, rename_card_keys
from models.errors import CheckpointCorrupt, CheckpointIncompatible, CheckpointMissing, CheckpointUnwritable
from models.fingerprint import file_sha256

FORMAT = 1
"""Version of the card's layout."""


def write_checkpoint(folder: Path, file: str, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> dict[str, Any]:
    """Write tensors and card into an existing folder; return the card as written, with `format` and `weights` added.

    Equal tensors give equal bytes. CheckpointUnwritable where the file system fails.
    """
    try:
        part = folder / f"{file}.part"
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, part, metadata={"format": "pt"})
        part.chmod(0o644)  # safetensors gives 0600, and the importing user is seldom the service's
        sha256, size = file_sha256(part), part.stat().st_size
        _rename_durably(part, folder / file)
        whole = {"format": FORMAT, "weights": {"file": file, "sha256": sha256, "size": size}, **card}
        part = folder / f"{CARD}.part"
        part.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        _rename_durably(part, folder / CARD)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointUnwritable(
            f"cannot write the checkpoint {folder}: {error}", hint="make room on the disk, or check its rights"
        ) from error
    return whole


def read_card(folder: Path) -> dict[str, Any]:
    """Read card.json, with the key names of this release. CheckpointMissing, CheckpointCorrupt, CheckpointIncompatible for another
    layout."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointMissing(f"no checkpoint in {folder}: {error.strerror}", hint="import the weights again") from error
    except ValueError as error:
        raise CheckpointCorrupt(f"{folder / CARD} is not JSON: {error}", hint="import the weights again") from error
    if not isinstance(card, dict) or not isinstance(card.get("weights"), dict):
        raise CheckpointCorrupt(f"{folder / CARD} is no card", hint="import the weights again")
    if card.get("format") != FORMAT:
        raise CheckpointIncompatible(
            f"{folder / CARD} has layout {card.get('format')!r}; this release reads {FORMAT}", hint="upgrade radclipd"
        )
    return rename_card_keys(card)


def read_tensors(folder: Path, file: str, *, sha256: str) -> dict[str, torch.Tensor]:
    """Read a tensor file and check its SHA-256. CheckpointMissing, CheckpointCorrupt."""
    path = folder / file
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointMissing(f"cannot read {path}: {error.strerror}", hint="import the weights again") from error
    if found != sha256:
        raise CheckpointCorrupt(
            f"{path} is not the file it was: SHA-256 {found[:12]}..., expected {sha256[:12]}...",
            hint="restore it from a backup, or import the weights again",
        )
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path} is no safetensors file: {error}", hint="import the weights again") from error


def _rename_durably(part: Path, target: Path) -> None:
    """Sync the file, rename it, sync the folder."""
    _fsync_path(part, os.O_RDWR)
    part.replace(target)
    _fsync_path(target.parent, os.O_RDONLY)


def _fsync_path(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
