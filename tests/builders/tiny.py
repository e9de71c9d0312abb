"""A CLIP small enough for tests: 64 pixels, two blocks a tower, the real vocabulary."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters.ml import importer
from adapters.storage.model_store import ModelStore
from models.encoder.architecture import Architecture
from models.encoder.base import write_base
from models.encoder.encoder import Encoder
from models.images.preprocess import Preprocess
from pipeline.domain import ModelVersion
from tests.builders.fakes.catalog import FakeCatalog

SIZE = 64


def config(*, width: int = 64, layers: int = 2) -> dict[str, Any]:
    return {
        "embed_dim": 32,
        "vision_cfg": {"image_size": SIZE, "layers": layers, "width": width, "head_width": 32, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 2},
    }


def architecture(*, quickgelu: bool = False) -> Architecture:
    return Architecture("tiny", config()).with_quickgelu(quickgelu)


def encoder(*, seed: int = 0, quickgelu: bool = False) -> Encoder:
    return Encoder.untrained(architecture(quickgelu=quickgelu), seed=seed)


def base(folder: Path, *, quickgelu: bool = False, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    write_base(folder, encoder(seed=seed, quickgelu=quickgelu), Preprocess(size=SIZE), source={"kind": "test"})
    return folder


def config_file(folder: Path, **changes: int) -> Path:
    path = folder / "tiny.json"
    path.write_text(json.dumps(config(**changes)))
    return path


def hub_configuration(*, mean: list[float], std: list[float]) -> str:
    """Content of the open_clip_config.json of a repository on the hub."""
    return json.dumps({"model_cfg": config(), "preprocess_cfg": {"mean": mean, "std": std}})


def film(height: int, width: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def served(root: Path, *, catalog: FakeCatalog | None = None, seed: int = 0) -> ModelVersion:
    """Import an untrained tiny CLIP below `root` as `radclipd model untrained` does, and let it serve."""
    store = ModelStore(root)
    root.mkdir(exist_ok=True)
    name = importer.import_untrained_base(store, str(config_file(root)), seed=seed)
    return importer.register_zero_shot(catalog or FakeCatalog(), store, name, serve=True)


def flip_a_bit_of_the_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def header_length(path: Path) -> int:
    """Bytes before the tensors of a safetensors file."""
    return int(struct.unpack("<Q", path.read_bytes()[:8])[0]) + 8
