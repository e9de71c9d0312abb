"""Sources of foreign weights: an open_clip tag, a hub id, a local file. Only `fetch` uses the network."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import open_clip
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from models.encoder.weights import StateDict, read_weights
from models.errors import FetchFailed, ModelsError, UnknownArchitecture
from models.fingerprint import file_sha256
from models.images.preprocess import Preprocess

HUB_PREFIX = "hf-hub:"
CONFIGURATION_FILE = "open_clip_config.json"


@dataclass(frozen=True)
class WeightsSource:
    """A weights file with its architecture and preprocessing. `origin` is JSON-able: kind, name.

    `state`: the weights where they have been read; None: they are read from `path`.
    """

    path: Path
    architecture: Architecture
    preprocess: Preprocess
    origin: Mapping[str, Any] = field(default_factory=dict)
    state: StateDict | None = None

    def encoder(self) -> Encoder:
        """Load the weights. CheckpointMissing, CheckpointCorrupt, CheckpointUnsafe, CheckpointIncompatible."""
        return Encoder.with_weights(self.architecture, read_weights(self.path) if self.state is None else self.state)

    def provenance(self) -> dict[str, Any]:
        """Return origin, the file's name and its SHA-256, for a card."""
        return {**self.origin, "file": self.path.name, "sha256": file_sha256(self.path)}


def local_source(
    path: Path, architecture: str, *, quickgelu: bool | None = None, fit: Literal["pad", "crop"] = "pad"
) -> WeightsSource:
    """Return a local weights file as a source. `architecture`: open_clip's name or a JSON file. UnknownArchitecture."""
    named, options = _resolve_architecture(architecture)
    return WeightsSource(
        path=path,
        architecture=named.with_quickgelu(quickgelu),
        preprocess=_build_preprocess(named, options, fit),
        origin={"kind": "file", "name": path.name},
    )


def build_untrained(
    architecture: str, *, seed: int, fit: Literal["pad", "crop"] = "pad"
) -> tuple[Encoder, Preprocess, dict[str, Any]]:
    """Return an encoder of that architecture with random weights, its preprocessing and its origin."""
    named, options = _resolve_architecture(architecture)
    origin = {"kind": "untrained", "name": named.name, "seed": seed}
    return Encoder.untrained(named, seed=seed), _build_preprocess(named, options, fit), origin


def fetch(locator: str, cache: Path, *, fit: Literal["pad", "crop"] = "pad") -> WeightsSource:
    """Download weights and return them as a source.

    `locator`: ARCHITECTURE/TAG as open_clip lists them, or hf-hub:OWNER/NAME. `cache`: folder of the downloads.
    UnknownArchitecture for an unknown name; FetchFailed where the download fails.
    """
    if locator.startswith(HUB_PREFIX):
        return _fetch_from_hub(locator.removeprefix(HUB_PREFIX), cache, fit)
    name, _, tag = locator.rpartition("/")
    if not (listed := get_pretrained_cfg(name, tag)):
        raise UnknownArchitecture(f"open_clip lists no weights {locator!r}", hint=_suggest_tags(locator))
    architecture = Architecture.from_name(name).with_quickgelu(bool(listed.get("quick_gelu", False)) or None)
    path = _download_file(locator, lambda: download_pretrained(listed, cache_dir=str(cache)))
    return WeightsSource(path, architecture, _build_preprocess(architecture, listed, fit), {"kind": "tag", "name": locator})


def _fetch_from_hub(repository: str, cache: Path, fit: Literal["pad", "crop"]) -> WeightsSource:
    def part(file: str | None) -> Path:
        return _download_file(repository, lambda: download_pretrained_from_hf(repository, filename=file, cache_dir=str(cache)))

    configuration = part(CONFIGURATION_FILE)
    read = Architecture.read(configuration)
    architecture = Architecture(repository, read.config)
    options = _read_options(configuration)
    return WeightsSource(
        part(None), architecture, _build_preprocess(architecture, options, fit), {"kind": "hub", "name": repository}
    )


def _download_file(name: str, download: Any) -> Path:
    try:
        return Path(download())
    except Exception as error:  # the hub's client and open_clip raise errors of many libraries, and RuntimeError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FetchFailed(
            f"cannot download {name}: {reason}",
            hint="check name and network; or copy the file here and use: radclipd model import FILE --architecture NAME",
        ) from error


def _resolve_architecture(given: str) -> tuple[Architecture, Mapping[str, Any]]:
    """Return a named architecture, or one read from a JSON file with its preprocessing options."""
    if given.endswith(".json"):
        return Architecture.read(Path(given)), _read_options(Path(given))
    return Architecture.from_name(given), {}


def _read_options(path: Path) -> Mapping[str, Any]:
    options = json.loads(path.read_text(encoding="utf-8")).get("preprocess_cfg", {})
    return options if isinstance(options, dict) else {}


def _build_preprocess(architecture: Architecture, options: Mapping[str, Any], fit: Literal["pad", "crop"]) -> Preprocess:
    """Take mean, standard deviation and filter from open_clip's options, but not its resize mode: the aspect ratio is preserved."""
    standard = Preprocess()
    filters: dict[Any, Literal["bicubic", "bilinear"]] = {"bicubic": "bicubic", "bilinear": "bilinear"}
    return Preprocess(
        size=architecture.image_size,
        fit=fit,
        interpolation=filters.get(options.get("interpolation"), standard.interpolation),
        mean=_parse_triple(options.get("mean"), standard.mean),
        std=_parse_triple(options.get("std"), standard.std),
    )


def _parse_triple(values: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if values is None:
        return default
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError) as error:
        raise ModelsError(f"mean and std have three numbers each, not {values!r}", hint="correct the configuration file") from error
    return red, green, blue


def _suggest_tags(locator: str) -> str:
    known = [f"{name}/{tag}" for name, tag in open_clip.list_pretrained()]
    near = difflib.get_close_matches(locator, known, n=3, cutoff=0.4)
    return f"nearest: {', '.join(near)}" if near else "give ARCHITECTURE/TAG, as ViT-B-32-quickgelu/openai, or hf-hub:OWNER/NAME"
