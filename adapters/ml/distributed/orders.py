"""The loop of a rank: read the base, receive the activations, then receive fit orders and send their results.

A rank writes no file and opens no catalog. Before each step it asks the worker for permission, so that it pauses when the worker
pauses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import distributed

from adapters.ipc.channel import Channel, ChannelClosed, MessageFields
from adapters.ipc.shared_arrays import NamedArrays, SharedArrays
from adapters.ml.scorer import choose_device
from models.classifier.head import LinearHead
from models.encoder.base import read_base
from models.encoder.encoder import Encoder
from models.training.data_parallel import SINGLE_PROCESS, DataParallelProcess
from models.training.fold_fits import FitContext, FitResult, FitSpec
from models.training.recipe import Recipe
from pipeline.errors import WeightsCorrupt

_SETTINGS_FILE = "settings.json"
_RENDEZVOUS_FILE = "group"
"""Rendezvous of the process group."""


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """Settings of all ranks. `base`: folder of the base; `sha256`: of its weights; `devices`: of rank 0, 1, ..."""

    base: str
    sha256: str
    devices: tuple[str, ...]
    threads: int

    def write(self, folder: Path) -> None:
        """Write them for the ranks."""
        (folder / _SETTINGS_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> RankSettings:
        """Read what `write` wrote."""
        return cls(**json.loads((folder / _SETTINGS_FILE).read_text()))


def run_rank_loop(channel: Channel, folder: Path, *, rank: int, world_size: int) -> NoReturn:
    """Make fits, alone or data-parallel, where rank 0 sends messages for all. Ends by ChannelClosed or another error."""
    encoder = _prepare_encoder(RankSettings.read(folder), folder, rank=rank, world_size=world_size)
    try:
        _make_fits(channel, encoder, rank=rank, world_size=world_size)
    except ChannelClosed:
        distributed.destroy_process_group()
        raise


def _make_fits(channel: Channel, encoder: Encoder, *, rank: int, world_size: int) -> NoReturn:
    fitting = _build_fitting(encoder, *channel.receive())
    while True:
        message, arrays = channel.receive()
        process = DataParallelProcess(rank, world_size) if message["data_parallel"] else SINGLE_PROCESS
        order = FitSpec(arrays.pop("rows"), LinearHead.from_tensors(to_tensors(arrays)), message["steps"])
        result = fitting.fit(order, _StepGate(channel, process), process)
        if process.rank == 0:
            _send_fit(result, channel)


def _prepare_encoder(settings: RankSettings, folder: Path, *, rank: int, world_size: int) -> Encoder:
    torch.set_num_threads(settings.threads)
    device = choose_device(settings.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder / _RENDEZVOUS_FILE}", rank=rank, world_size=world_size)
    base = read_base(Path(settings.base))
    if base.sha256 != settings.sha256:
        raise WeightsCorrupt("the base has changed since the round began", hint="start the round again")
    return base.encoder.to(device)


class _StepGate:
    """Implements `fold_fits.OnSteps`: waits for the worker's permission before each step. Rank 0 asks for all ranks of a step."""

    def __init__(self, channel: Channel, process: DataParallelProcess) -> None:
        self._channel, self._process = channel, process

    def __call__(self, done: int) -> None:
        if self._process.rank == 0:
            self._channel.send({"done": done})
            self._channel.receive()
        self._process.wait_for_first()


def _build_fitting(encoder: Encoder, message: MessageFields, arrays: NamedArrays) -> FitContext:
    activations, recipe = torch.from_numpy(arrays["activations"]), Recipe.from_card(message["recipe"])
    return FitContext(encoder, activations, arrays["labels"], recipe, message["seed"], arrays.get("weights"))


def _send_fit(result: FitResult, channel: Channel) -> None:
    with closing(SharedArrays.from_arrays(to_arrays(result.tensors))) as shared:
        channel.send({"result": dict(result.card)}, shared)


def to_tensors(arrays: NamedArrays) -> dict[str, torch.Tensor]:
    """Return tensors that share the arrays' memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> NamedArrays:
    """Return arrays that share the memory of tensors on the CPU."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}
