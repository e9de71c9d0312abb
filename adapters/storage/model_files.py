"""Folders of the model directory, shared by the store that writes them and the ML adapters that read them.

bases/<name>/weights.safetensors     an encoder
bases/<name>/card.json
versions/<number>/head.safetensors   tensors that a ModelVersion adds to its base
versions/<number>/card.json
"""

from __future__ import annotations

from pathlib import Path


def bases_folder(root: Path) -> Path:
    """Return the folder of all bases."""
    return root / "bases"


def versions_folder(root: Path) -> Path:
    """Return the folder of all versions."""
    return root / "versions"


def base_folder(root: Path, name: str) -> Path:
    """Return the folder of a base."""
    return bases_folder(root) / name


def version_folder(root: Path, number: int) -> Path:
    """Return the folder of a version."""
    return versions_folder(root) / str(number)
