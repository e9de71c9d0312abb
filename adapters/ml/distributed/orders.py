"""What a rank does: it takes the base, then the films, then orders for fits, and hands over what it has made.

It writes no file and knows no catalog. Before each step it asks whether it may go on: what makes the learn worker pause makes it
pause.
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

_SETTINGS_FILE = "equipment.json"
_RENDEZVOUS_FILE = "group"
"""The file by which the ranks find each other."""


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """What every rank is to work with. `base`: folder, whose weights have this SHA-256; `devices`: of rank 0, 1, ..."""

    base: str
    sha256: str
    devices: tuple[str, ...]
    threads: int

    def write(self, folder: Path) -> None:
        """Leave it for the ranks."""
        (folder / _SETTINGS_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> RankSettings:
        """Read what `write` wrote."""
        return cls(**json.loads((folder / _SETTINGS_FILE).read_text()))


def run_rank_loop(channel: Channel, folder: Path, *, rank: int, world_size: int) -> NoReturn:
    """Make one fit after another, alone or with the other ranks, of whom the first then speaks for all. Gone, in the end."""
    encoder = _prepare_encoder(RankSettings.read(folder), folder, rank=rank, world_size=world_size)
    try:
        _make_fits(channel, encoder, rank=rank, world_size=world_size)
    except ChannelClosed:
        distributed.destroy_process_group()
        raise


def _make_fits(channel: Channel, encoder: Encoder, *, rank: int, world_size: int) -> NoReturn:
    fitting = _build_fitting(encoder, *channel.receive())
    while True:
        words, arrays = channel.receive()
        share = DataParallelProcess(rank, world_size) if words["together"] else SINGLE_PROCESS
        order = FitSpec(arrays.pop("rows"), LinearHead.from_tensors(to_tensors(arrays)), words["steps"])
        made = fitting.fit(order, _StepGate(channel, share), share)
        if share.rank == 0:
            _send_fit(made, channel)


def _prepare_encoder(settings: RankSettings, folder: Path, *, rank: int, world_size: int) -> Encoder:
    torch.set_num_threads(settings.threads)
    device = choose_device(settings.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder / _RENDEZVOUS_FILE}", rank=rank, world_size=world_size)
    base = read_base(Path(settings.base))
    if base.sha256 != settings.sha256:
        raise WeightsCorrupt("the base has become another one since the round began", hint="let the round begin again")
    return base.encoder.to(device)


class _StepGate:
    """`fold_fits.OnSteps` that asks the worker before each step whether to go on. The first rank asks for all ranks of a step."""

    def __init__(self, channel: Channel, share: DataParallelProcess) -> None:
        self._line, self._share = channel, share

    def __call__(self, done: int) -> None:
        if self._share.rank == 0:
            self._line.send({"done": done})
            self._line.receive()
        self._share.wait_for_first()


def _build_fitting(encoder: Encoder, message: MessageFields, arrays: NamedArrays) -> FitContext:
    activations, recipe = torch.from_numpy(arrays["activations"]), Recipe.from_card(message["recipe"])
    return FitContext(encoder, activations, arrays["labels"], recipe, message["seed"])


def _send_fit(made: FitResult, channel: Channel) -> None:
    with closing(SharedArrays.from_arrays(to_arrays(made.tensors))) as parcel:
        channel.send({"made": dict(made.card)}, parcel)


def to_tensors(arrays: NamedArrays) -> dict[str, torch.Tensor]:
    """Return arrays as tensors of the same memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_arrays(tensors: Mapping[str, torch.Tensor]) -> NamedArrays:
    """Return tensors on the CPU as arrays of the same memory."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}
