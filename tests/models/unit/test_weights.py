from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models.encoder import sources
from models.encoder.architecture import Architecture
from models.encoder.encoder import Encoder
from models.encoder.weights import assign_weights, read_weights
from models.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    CheckpointMissing,
    CheckpointUnsafe,
    FetchFailed,
    UnknownArchitecture,
)
from tests.builders import tiny


class _Payload:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def state(**options: Any) -> dict[str, torch.Tensor]:
    return dict(tiny.encoder(**options).network.state_dict())


def as_safetensors(path: Path) -> None:
    safetensors.torch.save_file(state(), path)


def as_state_dict(path: Path) -> None:
    torch.save(state(), path)


def as_old_torch_file(path: Path) -> None:
    torch.save(state(), path, _use_new_zipfile_serialization=False)


def as_training_checkpoint(path: Path) -> None:
    torch.save({"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in state().items()}}, path)


def as_half_precision(path: Path) -> None:
    torch.save({k: v.half() for k, v in state().items()}, path)


def with_openais_extras(path: Path) -> None:
    torch.save({**state(), "input_resolution": torch.tensor(64), "context_length": torch.tensor(77)}, path)


@pytest.mark.parametrize(
    "write",
    [as_safetensors, as_state_dict, as_old_torch_file, as_training_checkpoint, as_half_precision, with_openais_extras],
    ids=lambda write: write.__name__,
)
def test_every_file_format_gives_the_same_encoder(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "weights.bin"  # the name does not state the kind
    write(path)
    loaded = Encoder.with_weights(tiny.architecture(), read_weights(path))
    tolerance = 1e-2 if write is as_half_precision else 0.0
    for name, tensor in tiny.encoder().network.state_dict().items():
        assert torch.allclose(loaded.network.state_dict()[name], tensor, rtol=0, atol=tolerance)
        assert loaded.network.state_dict()[name].dtype == torch.float32


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"state_dict": p}, lambda p: {**state(), "x": p}])
@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_a_payload_is_refused_and_not_run(tmp_path: Path, wrap: Callable[[Any], Any], new: bool) -> None:
    witness, path = tmp_path / "the payload ran", tmp_path / "weights.pt"
    torch.save(wrap(_Payload(witness)), path, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointUnsafe) as refused:
        read_weights(path)
    assert refused.value.hint
    assert not witness.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    witness, path = tmp_path / "the payload ran", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(_Payload(witness)))
    with pytest.raises((CheckpointUnsafe, CheckpointCorrupt)):
        read_weights(path)
    assert not witness.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is deprecated but its files are common
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)  # type: ignore[no-untyped-call] # torch
    with pytest.raises(CheckpointUnsafe, match="TorchScript") as refused:
        read_weights(path)
    assert "fetch" in refused.value.hint


@pytest.mark.parametrize("write", [as_safetensors, as_state_dict, as_old_torch_file], ids=lambda write: write.__name__)
@pytest.mark.parametrize("left", [0, 6, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, write: Callable[[Path], None], left: float) -> None:
    path = tmp_path / "weights"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    with pytest.raises((CheckpointCorrupt, CheckpointUnsafe)):
        read_weights(path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>not found</html>", b"\x93NUMPY", b"PK\x03\x04nothing", b"\x80\x04."])
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises((CheckpointCorrupt, CheckpointUnsafe)):
        read_weights(tmp_path / "weights.safetensors")


def test_a_missing_file_raises_checkpoint_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        read_weights(tmp_path / "nothing.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {"lr": 0.1}}])
def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointCorrupt):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("other", [tiny.config(width=96), tiny.config(layers=3)])
def test_weights_of_another_network_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(CheckpointIncompatible, match="another network's"):
        Encoder.with_weights(Architecture("other", other), state())


def test_weights_of_another_input_size_are_refused() -> None:
    larger = tiny.config()
    larger["vision_cfg"]["image_size"] = 128
    with pytest.raises(CheckpointIncompatible, match="positional_embedding"):
        Encoder.with_weights(Architecture("larger", larger), state())


def test_the_hint_names_the_architecture_with_the_weights_shapes() -> None:
    b16 = {
        "visual.conv1.weight": torch.zeros(768, 3, 16, 16),
        "visual.positional_embedding": torch.zeros(197, 768),
        **{f"visual.transformer.resblocks.{block}.ln_1.weight": torch.zeros(768) for block in range(12)},
    }
    with pytest.raises(CheckpointIncompatible) as refused:
        Encoder.with_weights(tiny.architecture(), b16)
    assert "ViT-B-16" in refused.value.hint


def test_non_finite_weights_are_refused() -> None:
    broken = state()
    broken["visual.proj"] = broken["visual.proj"].clone()
    broken["visual.proj"][0, 0] = torch.nan
    with pytest.raises(CheckpointIncompatible, match=r"visual\.proj"):
        Encoder.with_weights(tiny.architecture(), broken)


def test_an_unknown_architecture_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownArchitecture) as refused:
        Architecture.from_name("ViT-B32")
    assert "ViT-B-32" in refused.value.hint


@pytest.mark.parametrize("name", ["coca_ViT-B-32", "ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_architectures_that_cannot_be_served_are_refused(name: str) -> None:
    with pytest.raises(UnknownArchitecture, match="cannot be served"):
        Architecture.from_name(name)


@pytest.mark.parametrize("content", ["", "[]", '{"embed_dim": 3}', "{"])
def test_a_file_that_is_no_architecture_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UnknownArchitecture):
        Architecture.read(tmp_path / "a.json")


def test_quickgelu_is_explicit() -> None:
    assert not Architecture.from_name("ViT-B-32").quickgelu
    assert Architecture.from_name("ViT-B-32-quickgelu").quickgelu
    assert Architecture.from_name("ViT-B-32").with_quickgelu(True).quickgelu
    assert not Architecture.from_name("ViT-B-32-quickgelu").with_quickgelu(False).quickgelu
    assert Architecture.from_name("ViT-B-32-quickgelu").with_quickgelu(None).quickgelu


def test_a_configuration_file_sets_the_preprocessing(tmp_path: Path) -> None:
    import json

    path = tmp_path / "open_clip_config.json"
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear", "resize_mode": "squash"}
    path.write_text(json.dumps({"model_cfg": tiny.config(), "preprocess_cfg": preprocess}))
    source = sources.local_source(tmp_path / "w", str(path))
    assert (source.preprocess.mean, source.preprocess.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (source.preprocess.size, source.preprocess.interpolation, source.preprocess.fit) == (64, "bilinear", "pad")


def test_a_hub_id_is_fetched_with_its_own_configuration(tmp_path: Path) -> None:
    import json

    snapshot = (
        tmp_path / "models--someone--a-clip" / "snapshots" / "abc"
    )  # the layout of the hub's cache, so that no network is needed
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--a-clip" / "refs").mkdir()
    (tmp_path / "models--someone--a-clip" / "refs" / "main").write_text("abc")
    (snapshot / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**tiny.config(), "quick_gelu": True}}))
    safetensors.torch.save_file(state(), snapshot / "open_clip_model.safetensors")
    source = sources.fetch("hf-hub:someone/a-clip", tmp_path)
    assert source.architecture.quickgelu
    assert source.architecture.name == "someone/a-clip"
    assert source.encoder().encode_texts(["mass"]).shape == (1, 32)


@pytest.mark.parametrize("locator", ["hf-hub:someone/nothing", "ViT-B-32-quickgelu/openai"])
def test_a_failed_download_hints_at_a_local_import(tmp_path: Path, locator: str) -> None:
    with pytest.raises(FetchFailed) as failed:
        sources.fetch(locator, tmp_path)
    assert "model import" in failed.value.hint


@pytest.mark.parametrize(("locator", "near"), [("ViT-B-32-quickgelu/opneai", "ViT-B-32-quickgelu/openai"), ("nonsense", "hf-hub")])
def test_an_unknown_tag_hints_at_the_nearest(tmp_path: Path, locator: str, near: str) -> None:
    with pytest.raises(UnknownArchitecture) as refused:
        sources.fetch(locator, tmp_path)
    assert near in refused.value.hint


def test_an_uninitialised_network_with_assigned_weights_equals_an_initialised_one() -> None:
    filled = tiny.encoder(seed=3).network
    state = {name: tensor.clone() for name, tensor in filled.state_dict().items()}
    bare = tiny.architecture().build(seed=None)
    assign_weights(bare, state)
    ours, theirs = dict(bare.named_parameters()), dict(filled.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and not ours[name].requires_grad for name in theirs)
    buffers = dict(filled.named_buffers())  # some are no weights: the causal mask of the text tower
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in bare.named_buffers())


def test_half_precision_weights_are_converted_to_float32() -> None:
    network = tiny.architecture().build(seed=None)
    assign_weights(network, {name: tensor.half() for name, tensor in tiny.encoder().network.state_dict().items()})
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
