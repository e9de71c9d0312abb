"""Make the default torchvision wheel importable beside a CPU torch. `models.encoder` imports this before any open_clip import.

pip's default torchvision wheel is linked against CUDA. Beside a CPU torch its compiled extension cannot be loaded, which
torchvision itself tolerates. But its Python code then registers fake kernels for `torchvision::nms` and `torchvision::qnms`,
operators that only the extension declares: the import fails with "operator torchvision::nms does not exist". Declaring the two
schemas is enough. They get no kernel: calling them still fails, and radclipd does not call them (open_clip uses torchvision only
for transforms and FrozenBatchNorm). Where the extension loads, nothing is declared.

Importing the module twice, or after torchvision, changes nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # a Library undoes its declarations when it is collected


def _find_extension() -> Path | None:
    """Return the path of torchvision's extension, or None, without importing torchvision."""
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for suffix in EXTENSION_SUFFIXES:
            if (path := Path(folder) / f"_C{suffix}").is_file():
                return path
    return None


def _load_extension(extension: Path | None) -> bool:
    if extension is None:
        return False
    try:
        torch.ops.load_library(extension)  # type: ignore[no-untyped-call] # torch leaves it untyped
    except (ImportError, OSError):
        return False
    return True


@functools.cache
def declare_operators() -> bool:
    """Declare the operators once, where they are missing. Return whether they were declared."""
    if "torchvision" in sys.modules or _load_extension(_find_extension()):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call] # torch leaves it untyped
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call] # as above
    _libraries.append(library)
    return True


declare_operators()
